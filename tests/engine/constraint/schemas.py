"""A builder of JSON schemas of every kind, whose answers are bounded: strings have a greatest length, lists a greatest number of
items, numbers a least and a greatest value."""

from __future__ import annotations

import random
from typing import Any

PATTERNS = ("^[a-z]{2,5}$", "^[A-Z][0-9]{3}$", "^(red|green|blue)-[0-9]$", "^[0-9]{3}-[0-9]{4}$", "^é{1,3}$")
FORMATS = ("date", "ipv4", "uuid", "ipv6")
WORDS = ("a", "of", "name", "größe", "x-y", 'with "quotes"', "日本", "new\nline", "")


def schemas(count: int) -> list[dict[str, Any]]:
    return [_Builder(random.Random(number)).top(number) for number in range(count)]


class _Builder:
    def __init__(self, dice: random.Random) -> None:
        self.dice, self.defs = dice, {}

    def top(self, number: int) -> dict[str, Any]:
        """Each kind in turn at the top, so that all of them are there."""
        kinds = (self.object, self.array, self.any_of, self.tuple, self.map, self.chain, self.string, self.number, self.values)
        schema = kinds[number % len(kinds)](3)
        return {**schema, "$defs": self.defs} if self.defs else schema

    def any(self, depth: int) -> dict[str, Any]:
        leaves = (self.string, self.number, self.values, self.plain)
        inner = (self.object, self.array, self.any_of, self.tuple, self.map, self.ref)
        return self.dice.choice(leaves if depth <= 0 else leaves + inner)(depth - 1)

    def plain(self, depth: int) -> dict[str, Any]:
        return self.dice.choice([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}])

    def string(self, depth: int) -> dict[str, Any]:
        low = self.dice.randint(0, 4)
        return {
            "type": "string",
            **self.dice.choice(
                [
                    {"maxLength": low + self.dice.randint(0, 8), "minLength": low},
                    {"maxLength": 6},
                    {"pattern": self.dice.choice(PATTERNS)},
                    {"format": self.dice.choice(FORMATS)},
                    {"format": "email", "maxLength": 12},
                ]
            ),
        }

    def number(self, depth: int) -> dict[str, Any]:
        low = self.dice.randint(-500, 500)
        high = low + self.dice.randint(1, 2000)
        kind = self.dice.choice(["integer", "exclusive", "multiple", "quarter"])
        if kind == "integer":
            return {"type": "integer", "minimum": low, "maximum": high}
        if kind == "exclusive":
            return {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high + 2}
        if kind == "multiple":
            return {"type": "integer", "minimum": low, "maximum": high + 14, "multipleOf": 7}
        return {"type": "number", "minimum": low, "maximum": high, "multipleOf": 0.25}

    def values(self, depth: int) -> dict[str, Any]:
        if self.dice.random() < 0.3:
            return {"const": self.dice.choice([*WORDS, 5, None, True, {"a": [1, "b"]}])}
        return {"enum": self.dice.sample([*WORDS, 1, -2.5, None, False, [1, 2], {"k": "v"}], 3)}

    def object(self, depth: int) -> dict[str, Any]:
        names = self.dice.sample(WORDS, self.dice.randint(1, 4))
        schema = {"type": "object", "properties": {name: self.any(depth - 1) for name in names}, "additionalProperties": False}
        return {**schema, "required": self.dice.sample(names, self.dice.randint(0, len(names))), "title": "an object"}

    def map(self, depth: int) -> dict[str, Any]:
        """Of names that are free: at the most so many."""
        names = {"patternProperties": {"^k[0-9]{1,2}$": self.any(depth - 2)}, "additionalProperties": False}
        return {"type": "object", **names, "maxProperties": self.dice.randint(1, 3), "minProperties": self.dice.randint(0, 1)}

    def array(self, depth: int) -> dict[str, Any]:
        low = self.dice.randint(0, 2)
        return {"type": "array", "items": self.any(depth - 1), "minItems": low, "maxItems": low + self.dice.randint(0, 3)}

    def tuple(self, depth: int) -> dict[str, Any]:
        items = [self.any(depth - 1) for _ in range(self.dice.randint(1, 3))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}

    def any_of(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self.any(depth - 1) for _ in range(self.dice.randint(2, 3))]}

    def ref(self, depth: int) -> dict[str, Any]:
        name = f"part{len(self.defs)}"
        self.defs[name] = {}
        self.defs[name] = self.any(depth - 1)
        return {"$ref": f"#/$defs/{name}"}

    def chain(self, depth: int) -> dict[str, Any]:
        """One that holds itself."""
        value = self.plain(0)
        rest = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
        self.defs["node"] = {
            "type": "object", "properties": {"value": value, "next": rest}, "required": ["value", "next"],
            "additionalProperties": False,
        }  # fmt: skip
        return {"$ref": "#/$defs/node"}
