"""A field that a body does not have, refused with what to give instead, as far as that is known: the words of the sister address
come first, then those of other servers, then the field whose name is nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from brigade.errors import shown_as_json as shown
from brigade.serve.errors import ApiError
from brigade.serve.other_servers import hint

NEAR = 0.75  # of difflib's likeness: a slip of the pen is above it, another word is below


def unknown_field(name: str, known: Sequence[str], elsewhere: Mapping[str, str]) -> ApiError:
    """`known`: the fields that there are; `elsewhere`: fields of the sister address, with what to do."""
    short = name[:100]
    if name in elsewhere:
        said = f"{name} is not a field of this address: {elsewhere[name]}"
    else:
        said = hint(name) or f"{shown(short)} is not a field that this server knows here; {_remedy(short, known)}"
    return ApiError(400, f"{said} (docs/serve.md lists the fields)", short, "unknown_parameter")


def _remedy(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name.lower().replace("-", "_"), known, 1, NEAR)
    return f"give {near[0]}, if that is meant, or drop it" if near else "drop it"
