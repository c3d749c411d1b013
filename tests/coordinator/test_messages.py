"""What goes over the wires has a number: whoever changes it raises `PROTOCOL`, or two versions would misread each other."""

from __future__ import annotations

import hashlib

import msgspec

from brigade.coordinator import messages
from brigade.coordinator.messages import PROTOCOL

KNOWN = {3: "5ec35000463fef6b", 4: "46a1af8bdf84884d"}


def shape() -> str:
    """Of all that is sent: names, fields, types and defaults."""
    structs = {name: kind for name, kind in vars(messages).items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)}
    lines = []
    for name, kind in sorted(structs.items()):
        written = vars(kind).get("__annotations__", {})  # as texts, which are the same in every version of Python
        fields = [(one.encode_name, written.get(one.name), one.required) for one in msgspec.structs.fields(kind)]
        lines.append(f"{name} {kind.__struct_config__.tag} {fields}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_a_changed_message_has_another_protocol() -> None:
    assert KNOWN.get(PROTOCOL) == shape(), "messages have changed: raise PROTOCOL, and name the new shape here"
