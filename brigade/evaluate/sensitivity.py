"""Which layers bear a change least: each is changed alone, and the model compared with the unchanged one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from brigade.errors import ConfigError
from brigade.evaluate.divergence import Divergence, compare
from brigade.evaluate.score import Logits, logits_of
from brigade.evaluate.windows import WindowConfig, cut_windows
from brigade.text_table import columns


@dataclass(frozen=True)
class LayerHarm:
    """What changing this layer alone does to the model."""

    name: str
    divergence: Divergence


class _Remembered:
    """The reference's logits of the window asked for last: a text of one window is then computed once for all layers."""

    def __init__(self, logits: Logits) -> None:
        self._logits, self._ids, self._found = logits, [], None

    def __call__(self, ids: list[int]) -> Tensor:
        if self._found is None or ids != self._ids:
            self._found = None  # never two windows at once
            self._ids, self._found = list(ids), self._logits(ids)
        return self._found


def rank_layers(
    reference_llm: Any,
    names: Sequence[str],
    make_llm_with_only: Callable[[str], Any],
    text_ids: Sequence[int],
    windows: WindowConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerHarm]:
    """The layers by mean KL from the reference, most harmful first; equals keep the order of `names`.

    `make_llm_with_only(name)` returns an LLM in which that layer alone is changed. One such LLM is held at a time.
    `text_ids` begin with the token that is only read. Without `windows`, as long as the reference takes, overlapping by half.
    """
    if not names:
        raise ConfigError("there are 0 layers to rank; name at least 1")
    if windows is None:
        size = reference_llm.plan.max_model_len
        windows = WindowConfig(size, max(size // 2, 1))
    cut = cut_windows(len(text_ids), windows)
    reference, rows = _Remembered(logits_of(reference_llm)), []
    for done, name in enumerate(names):
        changed = make_llm_with_only(name)
        rows.append(LayerHarm(name, compare(logits_of(changed), reference, text_ids, cut)))
        del changed  # before the next one takes its memory
        if progress is not None:
            progress(done + 1, len(names))
    return sorted(rows, key=lambda row: -row.divergence.mean_kl)


def ranking_lines(rows: Sequence[LayerHarm]) -> list[str]:
    lines = [("layer", "mean KL", "max KL", "same top-1", "perplexity")]
    for row in rows:
        found = row.divergence
        harm = f"{found.mean_kl:.3e}", f"{found.max_kl:.3e}", f"{found.same_top:.2%}"
        lines.append((row.name, *harm, f"{found.model.perplexity:.4f}"))
    return columns(lines)
