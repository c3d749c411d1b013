"""The fingerprint: one model has one, in every form and on every layout; whatever makes another model gives it another."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from brigade import LLM
from brigade.assembly.choices import Choices
from brigade.assembly.fingerprint import compose, fingerprint_of
from brigade.assembly.line import draw, load
from brigade.backends.cpu.library import find_kernels
from brigade.tokenizer import Tokenizer
from tests.assembly.builders import write_folder
from tests.backends.cpu.ranks import Meeting, ThreadExchange
from tests.parallel.thread_ranks import run_ranks
from tests.verify.builders import RECIPE

needs_kernels = pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
ROOM = {"kv_blocks": 4, "max_batch_size": 1}
LAYOUTS = [(2, 1), (4, 1), (8, 1), (1, 2), (2, 2), (4, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("fingerprint") / "model")


def read(model: Path | str, **choices) -> str:
    return fingerprint_of(draw(Choices(model, **choices)))


def loaded(model: Path | str, **choices) -> str:
    with LLM(model, **choices, **ROOM) as llm:
        return llm.fingerprint


def in_ranks(model: Path, tp: int, pp: int, **choices) -> str:
    """Of a model whose ranks are threads of the test."""
    drawn = [draw(Choices(model, tp=tp, pp=pp, threads=None, **choices), rank) for rank in range(tp * pp)]
    meetings, mesh = [Meeting(tp) for _ in range(pp)], drawn[0].mesh

    def work(rank: int) -> list:
        backend = drawn[rank].backend
        backend.exchange = ThreadExchange(mesh.tp_rank(rank), meetings[mesh.stage(rank)])
        return list(backend.tensor_sums(load(drawn[rank]).model, drawn[rank].dtype))

    found = run_ranks([lambda rank=rank: work(rank) for rank in range(mesh.world)])
    return compose(drawn[0], Tokenizer.from_folder(drawn[0].source.tokenizer_path), [one for sums in found for one in sums])


@pytest.fixture(scope="module")
def artifacts(folder: Path, tmp_path_factory) -> dict[str, Path]:
    from brigade.cli.main import main

    made = {quant: tmp_path_factory.mktemp("artifacts") / quant for quant in ("none", "int8", "int4")}
    for quant, out in made.items():
        assert main(["export", str(folder), str(out), "--quant", quant]) == 0
    return made


@needs_kernels
def test_twenty_layouts_and_formats_of_one_model_have_one(folder: Path, artifacts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "other name").symlink_to(folder)
    found = {
        "reference": loaded(folder, backend="reference"), "cpu": loaded(folder, backend="cpu"),
        "artifact": loaded(artifacts["none"]),
        "static": loaded(tmp_path / "other name", engine="static"), "read": read(folder),
        "read by the reference": read(folder, backend="reference"), "read from the artifact": read(artifacts["none"]),
        "as it is mapped": in_ranks(artifacts["none"], 1, 1),
        "for a layout": read(folder, tp=2, pp=2),
    }  # fmt: skip
    found |= {f"cpu {layout}": in_ranks(folder, *layout, backend="cpu") for layout in LAYOUTS}
    found |= {f"artifact {layout}": in_ranks(artifacts["none"], *layout) for layout in LAYOUTS[1:3]}
    found |= {f"reference {layout}": in_ranks(folder, *layout, backend="reference") for layout in LAYOUTS[2:5]}
    assert len(found) == 20 and len(set(found.values())) == 1, found
    (one,) = set(found.values())
    assert len(one) == 32 and int(one, 16)


@needs_kernels
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_so_has_a_quantised_one(quant: str, folder: Path, artifacts: dict[str, Path]) -> None:
    choices = {"quant": quant, "backend": "cpu"}
    found = [loaded(folder, **choices), read(folder, **choices), loaded(artifacts[quant]), read(artifacts[quant])]
    found += [
        in_ranks(artifacts[quant], 1, 1),
        in_ranks(folder, 4, 2, **choices),
        in_ranks(artifacts[quant], 8, 1),
        in_ranks(artifacts[quant], 2, 2),
    ]
    assert len(set(found)) == 1, found
    assert found[0] != read(folder, backend="cpu")


@needs_kernels
def test_a_tied_head_too(tmp_path: Path) -> None:
    tied = write_folder(tmp_path / "tied", tied=True)
    found = [read(tied, backend="reference"), read(tied, backend="cpu"), loaded(tied), in_ranks(tied, 2, 2), in_ranks(tied, 1, 2)]
    assert len(set(found)) == 1
    assert read(tied, quant="int8") == loaded(tied, quant="int8") == in_ranks(tied, 2, 2, quant="int8") != found[0]


def test_and_a_recipe_with_random_weights(tmp_path: Path) -> None:
    tiny = {"random_weights": 7, "backend": "reference"}
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    assert read(recipe, **tiny) == loaded(recipe, **tiny) != read(recipe, **{**tiny, "random_weights": 8})


def test_it_is_made_once_and_only_when_it_is_asked_for(folder: Path, monkeypatch) -> None:
    from brigade.backends.reference.backend import ReferenceBackend

    asked, real = [], ReferenceBackend.tensor_sums
    monkeypatch.setattr(ReferenceBackend, "tensor_sums", lambda self, *given: (asked.append(1), real(self, *given))[1])
    with LLM(folder, backend="reference", **ROOM) as llm:
        llm.generate([[1, 2, 3]])
        assert not asked
        assert llm.fingerprint == llm.fingerprint and len(asked) == 1


# Planted differences: in the files of a folder, and in what the kernels hold.


def edited(file: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        before = json.dumps(content)
        change(content)
        assert json.dumps(content) != before
        (folder / file).write_text(json.dumps(content))

    return plant


def config(**changes) -> Callable[[Path], None]:
    return edited("config.json", lambda content: content.update(changes))


def swap_merges(content: dict) -> None:
    merges = content["model"]["merges"]
    merges[100], merges[101] = merges[101], merges[100]


def other_word(content: dict) -> None:
    vocabulary = content["model"]["vocab"]
    a, b = [word for word, i in vocabulary.items() if i in (500, 501)]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]


FILES: dict[str, Callable[[Path], None]] = {
    "eps": config(rms_norm_eps=2e-6), "rope base": config(rope_theta=10001), "window": config(sliding_window=41),
    "windowed layers": config(max_window_layers=0), "no window": config(use_sliding_window=False),
    "activation": config(hidden_act="relu"),
    "rope scaling": config(rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "another factor": config(rope_scaling={"rope_type": "linear", "factor": 2.5}), "positions": config(max_position_embeddings=256),
    "an end id": edited("generation_config.json", lambda content: content.update(eos_token_id=[7])),
    "one end id more": edited("generation_config.json", lambda content: content.update(eos_token_id=[7, 9])),
    "end ids in another order": edited("generation_config.json", lambda content: content.update(eos_token_id=[9, 7])),
    "a merge": edited("tokenizer.json", swap_merges), "a word": edited("tokenizer.json", other_word),
    "a setting of the tokenizer": edited("tokenizer_config.json", lambda content: content.update(add_bos_token=True)),
    "a chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0].content }}"),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
}  # fmt: skip


def tensors_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Where the bytes of each tensor of the file begin and end."""
    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    return {name: tuple(8 + size + at for at in one["data_offsets"]) for name, one in header.items() if name != "__metadata__"}


def flip(path: Path, byte: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ 1 << bit]))


def planted_in_files(folder: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name, plant in FILES.items():
        changed = shutil.copytree(folder, tmp_path / "changed")
        plant(changed)
        yield name, read(changed, backend="reference")
        shutil.rmtree(changed)
    chance = random.Random(1)
    for name, (first, last) in tensors_of(folder).items():
        byte, bit = chance.randrange(first, last), chance.randrange(8)
        if byte % 2 != first % 2:
            bit = chance.randrange(6)  # the upper byte's highest two could make infinity of a number
        flip(copy / "model.safetensors", byte, bit)
        yield f"bit {bit} of byte {byte - first} of {name}", read(copy, backend="reference")
        flip(copy / "model.safetensors", byte, bit)
    assert read(copy, backend="reference") == read(folder, backend="reference"), "and all of it was the planting"


def planted_in_memory(folder: Path, **choices) -> Iterator[tuple[str, str]]:
    """One bit of every array that a layer, the embedding and the head hold."""
    drawn = draw(Choices(folder, **choices))
    parts, chance = load(drawn), random.Random(2)

    def now() -> str:
        return compose(drawn, parts.tokenizer, drawn.backend.tensor_sums(parts.model, drawn.dtype))

    packed, before = parts.model.packed, now()
    wanted = ("layers.1.", "head", "embedding.", "final_norm.")
    arrays: dict[str, np.ndarray] = {
        name: tensor.detach().view(-1).view(torch.uint8).numpy()
        for name, tensor in packed.tensors.items()
        if name.startswith(wanted)
    }
    for name, matrix in packed.matrices.items():
        if name.startswith(wanted):
            data, scale, _, bias = matrix.arrays
            first = 64 if matrix.scheme == "int4-int8" else 0  # behind a line of multipliers
            arrays[f"{name} data"] = data[first : first + 4]
            arrays |= {f"{name} times": data[:2]} if first else {}
            arrays |= {f"{name} {what}": a[:1].view(np.uint8) for what, a in (("scale", scale), ("bias", bias)) if a is not None}
    for name, array in arrays.items():
        byte, bit = chance.randrange(array.size), chance.randrange(8)
        array[byte] ^= 1 << bit
        yield f"{choices}: bit {bit} of byte {byte} of {name}", now()
        array[byte] ^= 1 << bit
    assert now() == before


@needs_kernels
def test_a_hundred_planted_differences_have_a_hundred_others(folder: Path, tmp_path: Path) -> None:
    formats = [{"dtype": "float32"}, *({"quant": quant} for quant in ("none", "int8", "int8-weight", "int4", "int4-int8"))]
    found = {f"as it is: {form}": read(folder, backend="cpu", **form) for form in formats}
    found |= {"a skipped layer": read(folder, backend="cpu", quant="int8", skip_layers=["0"])}
    found |= dict(planted_in_files(folder, tmp_path))
    for form in formats:
        found |= dict(planted_in_memory(folder, backend="cpu", **form))
    owners: dict[str, list[str]] = {}
    for name, value in found.items():
        owners.setdefault(value, []).append(name)
    assert len(found) >= 100 and not [names for names in owners.values() if len(names) > 1]


def test_what_is_no_part_of_the_model_changes_nothing(folder: Path, tmp_path: Path) -> None:
    before = read(folder, backend="reference")
    same = {
        "sampling defaults": edited("generation_config.json", lambda content: content.update(temperature=0.5)),
        "a word list that nothing reads": lambda folder: (folder / "vocab.json").write_text("{}"),
        "a page": lambda folder: (folder / "README.md").write_text("# A model"),
    }
    for name, plant in same.items():
        changed = shutil.copytree(folder, tmp_path / name)
        plant(changed)
        assert read(changed, backend="reference") == before, name


def test_a_whole_number_may_be_written_as_a_fraction(tmp_path: Path) -> None:
    found = set()
    for theta in ("10000", "10000.0", "1.0e+4"):
        recipe = tmp_path / "tiny.yaml"
        recipe.write_text(yaml.safe_dump(RECIPE | {"rope": "@"}).replace("'@'", f"{{rotary_dim: 8, theta: {theta}}}"))
        found.add(read(recipe, random_weights=7, backend="reference"))
    assert len(found) == 1


def test_ranks_that_disagree_about_a_tensor_are_a_mistake(folder: Path) -> None:
    drawn = draw(Choices(folder, backend="reference"))
    sums = list(drawn.backend.tensor_sums(load(drawn).model, drawn.dtype))
    with pytest.raises(AssertionError, match="embedding.word is bfloat16 on one rank and int8 on another"):
        compose(drawn, None, [*sums, replace_kind(sums[0])])


def replace_kind(one):
    return one._replace(kind="int8")
