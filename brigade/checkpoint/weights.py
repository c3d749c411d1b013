"""A model's weights, read one tensor at a time from a folder or made of a seed, rounded, and proven to be numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from brigade.backends.weights import Weights
from brigade.checkpoint.random_weights import random_parameter
from brigade.checkpoint.safetensors_folder import SafetensorsFolder, shown
from brigade.checkpoint.sources import NameMap
from brigade.errors import CheckpointError
from brigade.mesh import Cut

Progress = Callable[[int, int], None]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Held:
    """Weights are rounded to `dtype`, then kept as `kept` (a wider type of the same values) on `device`."""

    dtype: torch.dtype
    kept: torch.dtype
    device: torch.device

    def hold(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype).to(self.kept).contiguous().to(self.device)


class _OneByOne(Weights):
    """What folders and seeds have in common. A stack of matrices is read, checked and held matrix by matrix. `shapes` are the whole
    model's; `taken` the names that will be asked for, where those are not all."""

    def __init__(self, shapes: Shapes, held: Held, progress: Progress | None, taken: Collection[str] | None) -> None:
        self.shapes, self.held = shapes, held
        self._progress, self._done = progress, 0
        self._total = sum(self._parts(name) or 1 for name in (shapes if taken is None else taken))

    def take(self, name: str, cut: Cut | None = None) -> Tensor:
        whole = self._take(name)
        return whole if cut is None else cut.of(whole).clone()  # a view would keep the whole alive

    def _take(self, name: str) -> Tensor:
        parts = self._parts(name)
        if not parts:
            return self._finish(name, self._read(name))
        whole = torch.empty(self.shapes[name], dtype=self.held.kept, device=self.held.device)
        for index in range(parts):
            whole[index] = self.take_part(name, index)
        return whole

    def take_part(self, name: str, index: int, cut: Cut | None = None) -> Tensor:
        whole = self._finish(name, self._read_part(name, index), index)
        return whole if cut is None else cut.of(whole).clone()

    def _finish(self, name: str, read: Tensor, index: int | None = None) -> Tensor:
        held = self.held.hold(read)
        if not is_finite(held):
            self._refuse(name, index)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
        return held

    def _refuse(self, name: str, index: int | None) -> None:
        raise AssertionError(f"{name} is not finite")

    @abstractmethod
    def _parts(self, name: str) -> int:
        """Of how many matrices, read alone, this parameter is a stack; 0 where it is none."""

    @abstractmethod
    def _read(self, name: str) -> Tensor: ...

    @abstractmethod
    def _read_part(self, name: str, index: int) -> Tensor: ...


def is_finite(tensor: Tensor) -> bool:
    """One pass and no copy: the smallest and the largest element are finite only if all are, since NaN is either."""
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) and torch.isfinite(high))


class RandomWeights(_OneByOne):
    def __init__(
        self, seed: int, norm_offset: float, shapes: Shapes, held: Held, progress: Progress | None = None,
        taken: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(shapes, held, progress, taken)
        self.seed, self.norm_offset = seed, norm_offset

    def _parts(self, name: str) -> int:
        return self.shapes[name][0] if len(self.shapes[name]) == 3 else 0

    def _read(self, name: str) -> Tensor:
        return random_parameter(self.seed, name, self.shapes[name], norm_offset=self.norm_offset)

    def _read_part(self, name: str, index: int) -> Tensor:
        return random_parameter(self.seed, name, self.shapes[name], slice(index, index + 1), self.norm_offset)[0]


class FolderWeights(_OneByOne):
    def __init__(
        self, files: SafetensorsFolder, table: NameMap, shapes: Shapes, held: Held, progress: Progress | None = None,
        taken: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        """Proves that every parameter has its shape by what the files' headers say, before one is read."""
        self.files, self.table = files, table
        super().__init__(shapes, held, progress, taken)
        for name, source in table.items():
            known: set[tuple[tuple[int, ...], ...]] = set()  # experts are alike
            for names in [source.part(i) for i in range(source.parts)] or [source.names]:
                stored = tuple(files.entries[part].shape for part in names)
                if stored not in known:
                    self._check_shape(name, names, shapes[name][1:] if source.parts else shapes[name])
                    known.add(stored)
            assert source.parts in (0, shapes[name][0]), name

    def _parts(self, name: str) -> int:
        return self.table[name].parts

    def _read(self, name: str) -> Tensor:
        return self._combine(name, self.table[name].names)

    def _read_part(self, name: str, index: int) -> Tensor:
        source = self.table[name]
        return self._combine(name, source.part(index)) if source.parts else self._read(name)[index]

    def _combine(self, name: str, sources: tuple[str, ...]) -> Tensor:
        made = self.table[name].combine([self.files.read(part) for part in sources])
        shape = self.shapes[name][1:] if self.table[name].parts else self.shapes[name]
        if tuple(made.shape) != shape:  # a family's own way of combining, whose shape nothing foretold
            raise self._unlike(name, sources, shape, tuple(made.shape))
        return made

    def _check_shape(self, name: str, sources: tuple[str, ...], shape: tuple[int, ...]) -> None:
        form, entries = self.table[name].form, [self.files.entries[part] for part in sources]
        if form is None:
            return
        try:
            made = form([entry.shape for entry in entries])
        except ValueError as error:
            shapes = ", ".join(f"{shown(part)} {list(entry.shape)}" for part, entry in zip(sources, entries, strict=True))
            raise CheckpointError(f"{shapes} cannot form {name} {list(shape)}; config.json and weights disagree") from error
        if made != shape:
            raise self._unlike(name, sources, shape, made)

    def _unlike(self, name: str, sources: tuple[str, ...], shape: tuple[int, ...], made: tuple[int, ...]) -> CheckpointError:
        return CheckpointError(
            f"{', '.join(sources[:3])} in {self.files.entries[sources[0]].file} gives shape {list(made)}, but config.json means "
            f"{list(shape)} for {name}; config.json and weights disagree"
        )

    def _refuse(self, name: str, index: int | None) -> None:
        source = self.table[name]
        for part in source.part(index) if index is not None and source.parts else source.names:
            tensor, entry = self.files.read(part), self.files.entries[part]
            nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
            if nan or infinite:
                raise CheckpointError(
                    f"tensor {shown(part)} in {entry.file} holds {nan} NaN and {infinite} infinite values of {tensor.numel()}; "
                    "fetch the file again, or train the model again"
                )
        raise CheckpointError(
            f"{name} in {self.files.folder} holds values too large for {str(self.held.dtype).removeprefix('torch.')}; "
            "use --dtype float32"
        )
