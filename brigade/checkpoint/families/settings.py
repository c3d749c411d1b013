"""Reading a foreign `config.json`: old and new spellings, and refusing what would change the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brigade.config import Activation
from brigade.errors import CheckpointError

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "relu": "relu", "silu": "silu", "swish": "silu",
}  # fmt: skip
LAYER_TYPES = ("full_attention", "sliding_attention")
LARGEST = 1e300


class Settings:
    """A `config.json`, asked by name; a setting that is needed and absent, or is of another kind, is one clear line.

    `hf("name")` gives a value as it stands; `count`, `number`, `flag`, `numbers` and `group` also prove what it is. A default is
    given back as it is.
    """

    def __init__(self, values: Mapping[str, Any], file: str = "config.json") -> None:
        self._values, self.file = values, file

    def __call__(self, name: str, default: Any = ...) -> Any:
        value = self._values.get(name)
        if value is not None:
            return value
        if default is ...:
            raise CheckpointError(f"{self.file} has no {name!r}, which {self._values.get('model_type')} models need; add it")
        return default

    @property
    def given(self) -> frozenset[str]:
        """The names of the settings that are there."""
        return frozenset(name for name, value in self._values.items() if value is not None)

    def refuse(self, name: str, rule: str) -> CheckpointError:
        text = ascii(self._values.get(name))
        return CheckpointError(f"{self.file} sets {name} to {text if len(text) <= 60 else text[:57] + '...'}; it must be {rule}")

    def _of(self, name: str, default: Any, kinds: tuple[type, ...], rule: str) -> Any:
        """A boolean is no number here, though it is an `int` to Python."""
        if default is not ... and name not in self.given:
            return default
        value = self(name)
        if type(value) not in kinds:
            raise self.refuse(name, rule)
        return value

    def count(self, name: str, default: Any = ..., least: int = 1) -> Any:
        value = self._of(name, default, (int,), f"an integer from {least} up")
        if name in self.given and not least <= value < 1 << 31:
            raise self.refuse(name, f"an integer from {least} up")
        return value

    def number(self, name: str, default: Any = ..., above: float = -LARGEST) -> Any:
        rule = "a number" if above == -LARGEST else f"a number above {above:g}"
        value = self._of(name, default, (int, float), rule)
        if name not in self.given:
            return value
        if not above < value < LARGEST:  # NaN fails too
            raise self.refuse(name, rule)
        return float(value)

    def flag(self, name: str, default: Any = ...) -> Any:
        return self._of(name, default, (bool,), "true or false")

    def numbers(self, name: str, default: Any = ...) -> Any:
        value = self._of(name, default, (list,), "a list of numbers")
        if name not in self.given:
            return value
        if not all(type(one) in (int, float) and abs(one) < LARGEST for one in value):
            raise self.refuse(name, "a list of numbers")
        return tuple(value)

    def group(self, name: str, default: Any = ...) -> Any:
        """Settings inside settings, as they stand."""
        return self._of(name, default, (dict,), "a group of settings")

    def word(self, name: str, default: Any = ...) -> Any:
        return self._of(name, default, (str,), "a name")

    def activation(self, *names: str) -> Activation:
        found = next((self._values[name] for name in names if self._values.get(name)), None)
        if not isinstance(found, str) or found not in ACTIVATIONS:
            raise CheckpointError(f"activation {ascii(found)[:60]} is not supported; known: {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[found]

    def require(self, name: str, expected: Any, why: str) -> None:
        """Refuse a setting that this family's network here does not follow."""
        value = self._values.get(name)
        if value is not None and value != expected:
            raise CheckpointError(f"{self.file} sets {name} to {ascii(value)[:60]}; {why} (only {expected!r} is supported)")

    def windowed_layers(self, layers: int) -> tuple[int, ...]:
        kinds = self("layer_types", [])
        if not isinstance(kinds, list) or not all(kind in LAYER_TYPES for kind in kinds) or len(kinds) not in (0, layers):
            raise self.refuse("layer_types", f"one of {', '.join(LAYER_TYPES)} for each of {layers} layers")
        return tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")

    def heads(self, hidden: str = "hidden_size", heads: str = "num_attention_heads") -> tuple[int, int, int]:
        """The model's width, its number of heads, and the channels of each where nothing else is said."""
        width, number = self.count(hidden), self.count(heads)
        if width // number < 1:
            raise self.refuse(heads, f"at most {hidden}, which is {width}")
        return width, number, width // number

    def head_dim(self) -> int:
        return self.count("head_dim", None) or self.heads()[2]
