"""A field that a body does not have, refused with what to give instead, as far as that is known: the words of the sister address
come first, then those of other servers, then the field whose name is nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from brigade.errors import nearest
from brigade.errors import shown_as_json as shown
from brigade.serve.errors import ApiError
from brigade.serve.other_servers import hint


def unknown_field(name: str, known: Sequence[str], elsewhere: Mapping[str, str]) -> ApiError:
    """`known`: the fields that there are; `elsewhere`: fields of the sister address, with what to do."""
    short = name[:100]
    if name in elsewhere:
        said = f"{name} is not a field of this address: {elsewhere[name]}"
    else:
        said = hint(name) or f"{shown(short)} is not a field that this server knows here; {_remedy(short, known)}"
    return ApiError(400, f"{said} (docs/serve.md lists the fields)", short, "unknown_parameter")


def _remedy(name: str, known: Sequence[str]) -> str:
    near = nearest(name.lower().replace("-", "_"), known)
    return f"give {near}, if that is meant, or drop it" if near else "drop it"
