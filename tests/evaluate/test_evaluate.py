"""Perplexity and KL against a straightforward computation with transformers; the ranking of layers with a fake."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from brigade import LLM
from brigade.checkpoint.load import EMBEDDED
from brigade.errors import ConfigError, RequestError
from brigade.evaluate.divergence import compare, kl_rows
from brigade.evaluate.evaltext import encode_text
from brigade.evaluate.score import Score, logits_of, score_text
from brigade.evaluate.sensitivity import rank_layers, ranking_lines
from brigade.evaluate.windows import WindowConfig, cut_windows

TEXT = '"""Sorting."""\n\ndef bubble(items):\n    for i in range(len(items)):\n        for j in range(i):\n            pass\n' * 2
WINDOWS = WindowConfig(24, 10)
SETTINGS = {"dtype": "float32", "kv_blocks": 4}


def theirs(path: Path = EMBEDDED):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    """The embedded model with some noise on its weights."""
    folder = tmp_path_factory.mktemp("noisy")
    model = theirs()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / file, folder / file)
    return folder


def expected_rows(model, ids: list[int], size: int, stride: int) -> torch.Tensor:
    """Log-probabilities at every scored position, by the plainest loop: token by token, the last `context` tokens before it."""
    rows, end, first = [], min(size, len(ids) - 1), 1
    while True:
        start = 0 if first == 1 else end - size
        with torch.inference_mode():
            logits = model(torch.tensor([ids[start:end]])).logits[0].double()
        rows += [torch.log_softmax(logits[position - 1 - start], dim=-1) for position in range(first, end + 1)]
        if end == len(ids) - 1:
            return torch.stack(rows)
        first, end = end + 1, min(end + stride, len(ids) - 1)


@pytest.mark.parametrize("config", [WINDOWS, WindowConfig(1024, 512)], ids=["windows", "whole"])
def test_perplexity_and_kl_are_those_of_transformers(config: WindowConfig, noisy: Path) -> None:
    reference, model = LLM(**SETTINGS), LLM(noisy, **SETTINGS)
    text = encode_text(TEXT, reference.tokenizer)
    ids = list(text.ids)
    windows = cut_windows(len(ids), config)
    assert (len(windows) > 3) == (config is WINDOWS)
    p = expected_rows(theirs(), ids, config.size, config.stride)
    q = expected_rows(theirs(noisy), ids, config.size, config.stride)
    targets = torch.tensor(ids[1:]).unsqueeze(1)
    kl = (p.exp() * (p - q)).sum(dim=-1)

    score = score_text(logits_of(reference), ids, windows)
    assert score.tokens == len(ids) - 1
    assert score.perplexity == pytest.approx(math.exp(-float(p.gather(1, targets).mean())), rel=1e-5)
    assert score.bits_per_byte(text.scored_bytes) == pytest.approx(
        -float(p.gather(1, targets).sum()) / math.log(2) / len(TEXT.encode()), rel=1e-5
    )
    found = compare(logits_of(model), logits_of(reference), ids, windows)
    assert found.reference == score and found.model == score_text(logits_of(model), ids, windows)
    assert found.mean_kl == pytest.approx(float(kl.mean()), rel=1e-3) and found.mean_kl > 1e-5
    assert found.max_kl == pytest.approx(float(kl.max()), rel=1e-3)
    assert found.max_kl_token == int(kl.argmax()) + 1
    assert found.same_top == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))


def test_a_model_beside_itself_is_at_no_distance() -> None:
    llm = LLM(**SETTINGS)
    ids = encode_text(TEXT, llm.tokenizer).ids
    found = compare(logits_of(llm), logits_of(llm), ids, cut_windows(len(ids), WINDOWS))
    assert (found.mean_kl, found.max_kl, found.same_top) == (0.0, 0.0, 1.0) and found.model == found.reference


def test_kl_has_its_direction() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log(), torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log()
    assert float(kl_rows(p, q)) == pytest.approx(0.5 * math.log(2))
    assert float(kl_rows(q, p)) == math.inf


class Table:
    """A model whose logits depend on the last id alone, and that counts its calls."""

    def __init__(self, scale: float = 0.0, vocab_size: int = 11) -> None:
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randn(vocab_size, vocab_size, generator=generator)
        self.rows += scale * torch.randn(vocab_size, vocab_size, generator=generator)
        self.calls = 0

    def logits(self, prompts):
        self.calls += 1
        return [self.rows[list(ids)] for ids in prompts]


IDS = [i * 7 % 11 for i in range(60)]


def test_scores_do_not_depend_on_the_windows_of_a_model_without_memory() -> None:
    whole = score_text(logits_of(Table()), IDS, cut_windows(60, WindowConfig(60, 60)))
    for size, stride, lead in ((1, 1, False), (8, 3, False), (8, 7, True), (59, 1, False)):
        found = score_text(logits_of(Table()), IDS, cut_windows(60, WindowConfig(size, stride, lead)))
        assert found.tokens == whole.tokens and found.nats == pytest.approx(whole.nats, rel=1e-12)


def test_broken_or_foreign_logits_are_refused() -> None:
    broken = Table()
    broken.rows[4, 2] = math.nan
    with pytest.raises(RequestError, match=f"token {IDS.index(4) + 1} of the text are not finite"):
        score_text(logits_of(broken), IDS, cut_windows(60, WindowConfig(60, 60)))
    with pytest.raises(RequestError, match="vocabularies of 12 and 11"):
        compare(logits_of(Table(vocab_size=12)), logits_of(Table()), IDS, cut_windows(60, WindowConfig(60, 60)))


def test_perplexity_beyond_a_float_is_infinite() -> None:
    assert Score(1, 1000.0).perplexity == math.inf and Score(2, 2.0).perplexity == pytest.approx(math.e)


@pytest.mark.parametrize("config", [WindowConfig(64, 32), WindowConfig(20, 10)])
def test_layers_are_ranked_most_harmful_first(config: WindowConfig) -> None:
    harms, alive = {"a": 0.1, "b": 0.0, "c": 0.5, "d": 0.3}, []
    reference = Table()

    def make(name: str) -> Table:
        alive.append(name)
        return Table(harms[name])

    rows = rank_layers(reference, list(harms), make, IDS, config)
    assert [row.name for row in rows] == ["c", "d", "a", "b"] and alive == list(harms)
    assert rows[-1].divergence.mean_kl == 0.0 and rows[0].divergence.mean_kl > rows[1].divergence.mean_kl > 0
    assert reference.calls == (1 if config.size == 64 else 4 * len(cut_windows(60, config)))
    assert [line.split()[0] for line in ranking_lines(rows)] == ["layer", "c", "d", "a", "b"]


def test_no_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 layers"):
        rank_layers(Table(), [], Table, IDS, WindowConfig(8, 4))
