"""Ranks of any layout, with their parts of one model, compute the logits of the whole model, to the last bit."""

from __future__ import annotations

import functools
import queue
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch

from brigade.backends.cpu.library import find_kernels
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.backends.weights import Weights
from brigade.batch import Batch, Span, Wanted
from brigade.config import ModelConfig, MoEConfig, RopeConfig
from brigade.mesh import Cut, Mesh
from brigade.model.gpt_model import GPTModel, empty_model
from brigade.parallel.degrees import make_mesh
from brigade.parallel.stage import Stage, best_of
from tests.backends.cpu.ranks import Meeting, ThreadExchange
from tests.breadth import every_other, one_in
from tests.parallel.thread_ranks import run_ranks

BASE = ModelConfig(
    "tiny", vocab_size=151, num_layers=4, hidden_size=32, num_heads=8, num_kv_heads=8, head_dim=8, ffn_size=64, max_positions=128,
    rope=RopeConfig(rotary_dim=8), sliding_window=20, windowed_layers=(1,),
)  # fmt: skip
LEARNED = dict(position="learned", rope=None, norm="layernorm", gated=False, activation="gelu_tanh")
BIASES = dict(qkv_bias=True, out_bias=True, mlp_bias=True)
CONFIGS = {
    "rope": BASE,
    "gpt2": replace(BASE, **LEARNED, **BIASES, tied_head=True),
    "grouped": replace(BASE, num_kv_heads=2, qk_norm="head"),
    "parallel": replace(BASE, parallel_residual=True, num_kv_heads=1, head_bias=True),
    "sandwich": replace(BASE, sandwich_norm=True, logit_softcap=30.0, embedding_scale=2.0, tied_head=True),
    "after": replace(BASE, norm_after=True, **LEARNED, **BIASES, embedding_size=16, final_norm=False, tied_head=True),
    "moe": replace(BASE, moe=MoEConfig(4, 2, expert_ffn_size=32, shared_ffn_size=16, layers=(1, 2))),
}
LAYOUTS = [(1, 2), (2, 1), (4, 1), (8, 1), (1, 4), (2, 2), (4, 2), (2, 4)]
FEW = [(8, 1), (2, 2)]
Format = tuple[str, str, str]  # backend, dtype, quant
Found = tuple[torch.Tensor, list[tuple[float, int]]]
FORMATS: list[Format] = [("reference", "float32", "none")]
if find_kernels() is not None:
    FORMATS += [("cpu", "float32", "none"), ("cpu", "bfloat16", "none")]
    FORMATS += [("cpu", "bfloat16", quant) for quant in ("int8", "int8-weight", "int4", "int4-int8")]


class Drawn(Weights):
    """Whole parameters of a fixed seed, by name."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        shapes = {name: p.shape for name, p in empty_model(config, get_backend("reference")).named_parameters()}
        generator = torch.Generator().manual_seed(3)
        self.tensors = {name: (torch.randn(shape, generator=generator) * 0.3).to(dtype) for name, shape in shapes.items()}

    def take(self, name: str, cut: Cut | None = None) -> torch.Tensor:
        return self.tensors[name] if cut is None else cut.of(self.tensors[name])

    def take_part(self, name: str, index: int, cut: Cut | None = None) -> torch.Tensor:
        return self.tensors[name][index] if cut is None else cut.of(self.tensors[name][index])


@functools.cache
def drawn(config: ModelConfig, dtype: torch.dtype) -> Drawn:
    return Drawn(config, dtype)


class Channel:
    """The hand-off to the next stage, and a count of finished layers."""

    def __init__(self, before: queue.Queue | None, after: queue.Queue | None) -> None:
        self.before, self.after, self.layers, self.seconds = before, after, 0, {}

    def receive_rows(self, rows: int, width: int) -> torch.Tensor:
        x_TH = self.before.get(timeout=60)
        assert x_TH.shape == (rows, width)
        return x_TH

    def send_rows(self, x_TH: torch.Tensor) -> None:
        self.after.put(x_TH.clone())

    def tick(self) -> None:
        self.layers += 1


def made_rank(config: ModelConfig, mesh: Mesh, rank: int, exchange: ThreadExchange, form: Format) -> GPTModel:
    name, dtype, quant = form
    backend = get_backend(name)
    backend.exchange = exchange
    if quant != "none":
        backend.quantise(quant)
    backend.hold(getattr(torch, dtype))
    model = empty_model(config, backend, held=mesh.part(rank, config.num_layers))
    backend.prepare(model, drawn(config, getattr(torch, dtype)))
    return model


def steps(wanted_of_decode: Wanted = Wanted.LAST) -> list[Batch]:
    """A prompt beside a chunk, then the next chunk, then three tokens alone."""
    ids = torch.randint(0, 151, (60,), generator=torch.Generator().manual_seed(5)).tolist()
    other = [3, 1, 4, 1, 5]
    return [
        Batch((Span(ids[:30], 0, [2, 0], Wanted.NONE), Span(other, 0, [1, 3], Wanted.ALL))),
        Batch((Span(ids[30:57], 30, [2, 0], Wanted.LAST), Span([9], 5, [1, 3], wanted_of_decode))),
        *(Batch((Span([ids[57 + i]], 57 + i, [2, 0], wanted_of_decode), Span([i], 6 + i, [1, 3]))) for i in range(3)),
    ]


def run_layout(config: ModelConfig, tp: int, pp: int, batches: list[Batch], form: Format = FORMATS[0]) -> list[Found]:
    mesh = make_mesh(config, tp, pp)
    meetings = [Meeting(tp) for _ in range(pp)]
    belts = {(stage, t): queue.Queue() for stage in range(pp - 1) for t in range(tp)}

    def work(rank: int):
        stage, t = mesh.stage(rank), mesh.tp_rank(rank)
        model = made_rank(config, mesh, rank, ThreadExchange(t, meetings[stage]), form)
        channel = Channel(belts.get((stage - 1, t)), belts.get((stage, t)))
        local = model.held.config(config)
        cache = KVCache.allocate(
            len(model.held.layers), 4, local.num_kv_heads, 32, model.backend.cache_dim(config.head_dim), getattr(torch, form[1]),
            first_layer=model.held.first_layer,
        )  # fmt: skip
        own = Stage(model, channel)
        answers = [own.run(batch, cache) for batch in batches]
        assert channel.layers == len(model.held.layers) * len(batches)
        return answers

    found = run_ranks([lambda rank=rank: work(rank) for rank in range(mesh.world)])
    assert all(answer is None for answers in found[1:] for answer in answers)
    return found[0]


def check_layouts(config: ModelConfig, form: Format, layouts: Sequence[tuple[int, int]]) -> None:
    expected = [logits for logits, _ in run_layout(config, 1, 1, steps(), form)]
    assert all(torch.isfinite(logits).all() for logits in expected) and len({float(x[0, 0]) for x in expected}) == len(expected)
    for tp, pp in layouts:
        for step, (logits, _) in enumerate(run_layout(config, tp, pp, steps(), form)):
            assert torch.equal(logits, expected[step]), f"tp {tp}, pp {pp}: step {step}"


# Every architecture in one format, and every format in one architecture; all of both in the slow set.
@pytest.mark.parametrize(("name", "form"), [*product(CONFIGS, FORMATS[2:3]), *every_other(product(CONFIGS, FORMATS[:1]))], ids=str)
def test_logits_are_those_of_one_rank_on_every_layout(name: str, form: Format) -> None:
    check_layouts(CONFIGS[name], form, LAYOUTS if form[0] == "cpu" else FEW)


@pytest.mark.parametrize(("name", "form"), one_in(2, ("gpt2", "moe"), FORMATS[1:]), ids=str)
def test_and_in_every_number_format(name: str, form: Format) -> None:
    check_layouts(CONFIGS[name], form, [(8, 1), (4, 2)])


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("form", FORMATS, ids="-".join)
def test_all_of_both(name: str, form: Format) -> None:
    check_layouts(CONFIGS[name], form, LAYOUTS)


def test_a_greedy_row_is_one_pair_a_rank() -> None:
    whole = run_layout(CONFIGS["gpt2"], 1, 1, steps())
    for tp in (2, 4, 8):
        for step, (logits, best) in enumerate(run_layout(CONFIGS["gpt2"], tp, 2, steps(Wanted.BEST))):
            spans = steps(Wanted.BEST)[step].spans
            rows = [(span.wanted is Wanted.BEST, row) for row, span in enumerate(s for s in spans for _ in s.rows)]
            expected = whole[step][0]
            pairs = [(float(expected[row].max()), int(expected[row].argmax())) for is_best, row in rows if is_best]
            assert best == pairs
            assert torch.equal(logits, expected[[row for is_best, row in rows if not is_best]])


def test_of_equal_values_the_lower_id_wins_and_a_nan_before_any_number() -> None:
    nan = float("nan")
    pairs = torch.tensor([[1.0, 7, 1.0, 40], [0.5, 3, 2.0, 50], [nan, 9, 5.0, 41], [1.0, 2, nan, 60]]).numpy()
    best = best_of(pairs)
    assert best[:2] == [(1.0, 7), (2.0, 50)]
    assert [token for _, token in best[2:]] == [9, 60] and all(value != value for value, _ in best[2:])
