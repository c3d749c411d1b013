"""`brigade verify check` finds what breaks the promise, and says where: faults that are planted into a run of a recorded case.

Each is planted alone, found, taken out again, and not found any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from brigade.backends.cpu import packer
from brigade.backends.cpu.library import find_kernels
from brigade.backends.reference import backend as reference
from brigade.cli.main import main
from brigade.engine import engine as engine_module
from brigade.engine.request import Request
from brigade.model.gpt_model import GPTModel
from brigade.verify import models
from brigade.verify.record import read_record
from tests.verify.builders import write_case

BFLOAT16 = {"dtype": "bfloat16"}
INT8 = {"backend": "cpu", "quant": "int8", "settings": {"block_size": 32, "kv_blocks": 16, "max_batch_size": 4}}
Plant = Callable[[Any, Path], None]  # given pytest's monkeypatch and the case's folder


def in_model(change: Callable[[Any], None]) -> Plant:
    """A fault in the weights or tables of the model, once it is loaded."""

    def plant(monkeypatch, folder: Path) -> None:
        real = models.LLM

        def faulty(*given, **named):
            llm = real(*given, **named)
            change(llm.model)
            return llm

        monkeypatch.setattr(models, "LLM", faulty)

    return plant


def last_bit(model) -> None:
    """Of a bfloat16 number, which the reference holds as the float32 of the same value. That of a float32 weight may be lost where
    its product is rounded; then no logit depends on it, and there is nothing to find."""
    weight = model.layers[1].mlp.down.weight.data
    weight.view(torch.int32)[3, 5] ^= 1 << 16


def other_eps(model) -> None:
    model.layers[0].mlp_norm.eps *= 1.01


def other_angle(model) -> None:
    (table,) = model.rope_tables().values()
    table.cos[3, 1] -= 1e-3


def bias_twice(model) -> None:
    model.layers[0].attention.out.bias.data.mul_(2)


def no_bias(model) -> None:
    model.layers[1].mlp.up.bias.data.zero_()


def other_order(monkeypatch, folder: Path) -> None:
    """(a + c) + (b + d) in place of (a + b) + (c + d)."""
    real = reference.pair_tree
    monkeypatch.setattr(reference, "pair_tree", lambda parts: real([parts[0], parts[2], parts[1], *parts[3:]]))


def stored_otherwise(change: Callable[..., None]) -> Plant:
    """A fault at the second step in which something is written to the cache of the last layer."""

    def plant(monkeypatch, folder: Path) -> None:
        real, steps = reference.store, []

        def faulty(cache, layer, plan, k_TGD, v_TGD) -> None:
            steps.extend([layer] if layer == 1 else [])
            if layer == 1 and len(steps) == 2:
                change(real, cache, layer, plan, k_TGD, v_TGD)
            else:
                real(cache, layer, plan, k_TGD, v_TGD)

        monkeypatch.setattr(reference, "store", faulty)

    return plant


def stale_block(store, cache, layer, plan, k_TGD, v_TGD) -> None:
    block = plan.write_blocks_T[-1]
    before = cache.keys[layer][block].clone()
    store(cache, layer, plan, k_TGD, v_TGD)
    cache.keys[layer][block] = before


def wrong_slot(store, cache, layer, plan, k_TGD, v_TGD) -> None:
    offsets = plan.write_offsets_T.clone()
    offsets[-1] = (offsets[-1] + 1) % cache.block_size
    store(cache, layer, replace(plan, write_offsets_T=offsets), k_TGD, v_TGD)


def partial_maximum(monkeypatch, folder: Path) -> None:
    """The scales of one int8 matrix from the first half of K, as if a rank asked nobody: larger numbers of the rest are cut."""
    real, done = packer.pack, []

    def faulty(weight_NK, *given, **named):
        if weight_NK.shape == (32, 64) and not done:
            done.append(True)
            most_N = weight_NK[:, :32].float().abs().amax(dim=1, keepdim=True)
            weight_NK = weight_NK.float().clamp(-most_N, most_N)
        return real(weight_NK, *given, **named)

    monkeypatch.setattr(packer, "pack", faulty)


def one_more_end_id(monkeypatch, folder: Path) -> None:
    token = read_record(folder / "golden.json").requests["1"].samples[0].token_ids[2]
    real = Request.__post_init__

    def faulty(self) -> None:
        real(self)
        self.eos_ids = (*self.eos_ids, token)

    monkeypatch.setattr(Request, "__post_init__", faulty)


def other_seed(monkeypatch, folder: Path) -> None:
    real = engine_module.derive_seed
    monkeypatch.setattr(engine_module, "derive_seed", lambda seed, index: real(seed + (seed == 7), index))


def a_neighbours_row(monkeypatch, folder: Path) -> None:
    """In steps of four requests the third one is handed the second one's logits."""
    real = GPTModel.logits

    def faulty(self, x_TH, step):
        logits_RV = real(self, x_TH, step)
        if logits_RV.shape[0] == 4:
            logits_RV[2] = logits_RV[1]
        return logits_RV

    monkeypatch.setattr(GPTModel, "logits", faulty)


def a_prefix_known_by_too_little(monkeypatch, folder: Path) -> None:
    """The last id of a block does not count when its content is looked up."""
    real = Request.key
    monkeypatch.setattr(Request, "key", lambda self, place, size: (*real(self, place, size)[:-1], 0))


@dataclass(frozen=True)
class Fault:
    """`first`: where it shows first. `only`: the requests in which it shows; empty: all of them."""

    plant: Plant
    first: str
    only: str = ""
    case: dict | None = None


FAULTS = {
    "the last bit of one weight": Fault(in_model(last_bit), r"request 0, token 0: the logits differ", case=BFLOAT16),
    "one order of addition swapped": Fault(other_order, r"request 0, token 0: "),
    "one stale cache block": Fault(stored_otherwise(stale_block), r"request 1, token 0: ", "1"),
    "a key in the wrong slot": Fault(stored_otherwise(wrong_slot), r"request 1, token 0: ", "1"),
    "one eps": Fault(in_model(other_eps), r"request 0, token 0: "),
    "one rotary angle": Fault(in_model(other_angle), r"request 0, token 0: "),
    "a scale from a partial maximum": Fault(partial_maximum, r"request 0, token 0: ", case=INT8),
    "one end id more": Fault(one_more_end_id, r"request \d, token \d: "),
    "a bias added twice": Fault(in_model(bias_twice), r"request 0, token 0: "),
    "a lost bias": Fault(in_model(no_bias), r"request 0, token 0: "),
    "the seed of one request": Fault(other_seed, r"request 2, token \d: id \d+ .* expected, id \d+", "2"),
    "a neighbour's row of logits": Fault(a_neighbours_row, r"request 2, token \d: the logits differ", "2"),
    "a prefix that is known by too little": Fault(a_prefix_known_by_too_little, r"request 3, token 0: ", "3"),
}


def check(folder: Path) -> tuple[int, list[dict]]:
    code = main(["verify", "check", str(folder), "--json", str(folder.parent / "out.json")])
    return code, json.loads((folder.parent / "out.json").read_text())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Callable[[dict | None], Path]:
    """The folder of a case that the healthy model has recorded, made once."""
    made: dict[str, Path] = {}

    def of(changes: dict | None) -> Path:
        name = json.dumps(changes)
        if name not in made:
            made[name] = write_case(tmp_path_factory.mktemp("planted") / "case", **changes or {})
            assert main(["verify", "record", str(made[name])]) == 0
        return made[name]

    return of


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_found_where_it_is_and_only_while_it_is_there(name: str, recorded, monkeypatch, capsys) -> None:
    fault = FAULTS[name]
    if fault.case is INT8 and find_kernels() is None:
        pytest.skip("the C++ kernels are not built: no compiler on this machine")
    folder = recorded(fault.case)
    fault.plant(monkeypatch, folder)
    code, outcome = check(folder)
    text = capsys.readouterr().out
    monkeypatch.undo()
    assert code == 1 and outcome[0]["same"] is False
    told = [line.strip() for line in text.splitlines() if line.startswith("    request")]
    assert told and re.match(fault.first, told[0]), text
    shown_in = {one["request"] for one in outcome[0]["differences"]}
    assert shown_in == (set(fault.only) or shown_in), text
    code, outcome = check(folder)
    assert code == 0 and outcome[0]["same"] is True


def test_ten_faults_are_planted() -> None:
    assert len(FAULTS) >= 10
