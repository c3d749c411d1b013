"""How a model's matrices are held: a scheme, and what stays whole under it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from brigade.errors import ConfigError

SCHEMES = ("none", "int8", "int8-weight", "int4", "int4-int8")
# What the output head becomes under a scheme (4 bits are too few for it), and what the layers' products compute in.
HEADS = {"int8": "int8", "int8-weight": "int8-weight", "int4": "int8-weight", "int4-int8": "int8"}
PRODUCTS = {"int8": "int8", "int8-weight": "bfloat16", "int4": "bfloat16", "int4-int8": "int8"}
PARTS = ("qkv", "out", "up", "down")
QUANTISED = re.compile(r"layers\.(\d+)\.(?:attention|mlp|mlp\.shared|mlp\.experts)\.(qkv|out|up|down)(?:\.\d+)?")
LONGEST = 40  # characters of a skip list that a numerics id spells out


@dataclass(frozen=True)
class Quant:
    """`skip`: layers (`3`), parts of them (`3.down`) and `head`, in the order of the network, none said twice."""

    scheme: str = "none"
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigError(f"quant is {self.scheme!r}; it must be one of {', '.join(SCHEMES)}")
        if self.skip and self.scheme == "none":
            raise ConfigError(f"skip_layers {','.join(self.skip)} has no effect without quant; drop it, or choose a quant")

    def of(self, name: str, own: str) -> str:
        """The scheme of one matrix, by the name its weight carries; `own` is what it is where nothing quantises it."""
        if self.scheme == "none":
            return own
        if name == "head":
            return own if name in self.skip else HEADS[self.scheme]
        found = QUANTISED.fullmatch(name)
        if found is None or found[1] in self.skip or f"{found[1]}.{found[2]}" in self.skip:
            return own  # routers and projections of the word vectors are small, and everything hangs on them
        return self.scheme

    @property
    def widens(self) -> bool:
        """Whether some matrices are multiplied in bfloat16, whatever the others are."""
        return PRODUCTS.get(self.scheme) == "bfloat16"

    @property
    def label(self) -> str:
        """The part of the numerics id; a long skip list is named by its hash."""
        if not self.skip:
            return self.scheme
        shown = "+".join(self.skip)
        return f"{self.scheme}-skip-{shown if len(shown) <= LONGEST else hashlib.sha256(shown.encode()).hexdigest()[:8]}"


def skip_list(names: Iterable[str], num_layers: int) -> tuple[str, ...]:
    """Names as people write them, checked against the model and put in one order, so that equal lists are equal."""
    chosen: set[tuple[int, str]] = set()
    for name in names:
        chosen |= _places(str(name).strip(), num_layers)
    skip = []
    for layer in sorted({layer for layer, part in chosen if part}):
        parts = [part for part in PARTS if (layer, part) in chosen]
        skip += [str(layer)] if len(parts) == len(PARTS) else [f"{layer}.{part}" for part in parts]
    if (num_layers, "") not in chosen:
        return tuple(skip)
    if skip == [str(layer) for layer in range(num_layers)]:
        raise ConfigError("skip_layers names every layer and the head, which leaves nothing to quantise; name fewer, or drop quant")
    return (*skip, "head")


def _places(name: str, num_layers: int) -> set[tuple[int, str]]:
    if name == "head":
        return {(num_layers, "")}
    found = re.fullmatch(r"(\d{1,6})(?:\.(qkv|out|up|down))?", name)
    if found is None or int(found[1]) >= num_layers:
        raise ConfigError(
            f"skip_layers names {name!r}; the model has layers 0 to {num_layers - 1}, their parts such as "
            f"{num_layers - 1}.{PARTS[-1]} ({', '.join(PARTS)}), and head"
        )
    return {(int(found[1]), part) for part in ([found[2]] if found[2] else PARTS)}
