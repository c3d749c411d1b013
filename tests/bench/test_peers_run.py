"""Peers: environments, conversions and whole runs with fakes, the checkpoint, interruptions, and the command."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from benchmarks.peers import fleet as fleets
from benchmarks.peers.alternation import Plan
from benchmarks.peers.catalogue import BRIGADE, PEERS, Peer, Variant
from benchmarks.peers.checkpoint import gpt2_config, write_checkpoint
from benchmarks.peers.choice import choose
from benchmarks.peers.command import heats
from benchmarks.peers.environment import NotPossible, environment
from benchmarks.peers.worker import Worker, WorkerLost
from brigade.api.llm import LLM
from brigade.cli import bench_peers
from brigade.cli.main import main
from brigade.errors import ConfigError
from tests.bench.test_peers import LIMIT, LOAD, ONE, ROOT, TWO, empty_fleet

# Environments, conversions and a whole run, with fakes


@pytest.mark.slow  # makes an environment
def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    nowhere = Peer("nowhere", (str(tmp_path / "no-such-folder"),), (Variant("bf16", 16),))
    with pytest.raises(NotPossible, match="not installable: .*no-such-folder"):
        environment(nowhere, tmp_path / "nowhere")


def test_an_environment_is_reused_until_its_packages_change(tmp_path: Path, monkeypatch) -> None:
    made = []

    def pretend(command, log, extra=None, cwd=None) -> None:
        made.append(command)
        (tmp_path / "env" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "env" / "bin" / "python").touch()

    monkeypatch.setattr("benchmarks.peers.environment.logged", pretend)
    peer = Peer("p", ("one",), (), without=("two",))
    assert environment(peer, tmp_path) == environment(peer, tmp_path) == tmp_path / "env" / "bin" / "python"
    assert [command[3] if "-m" in command[1:2] else "" for command in made] == [made[0][3], "install", "uninstall"]
    environment(Peer("p", ("one", "more"), ()), tmp_path)
    assert len(made) == 5


def fake_peer(name: str, how: str) -> Peer:
    return Peer(name, (), (Variant("bf16", 16, {"how": how}), Variant("old", 8, {"refuse": True})))


@pytest.fixture
def fakes(monkeypatch) -> None:
    """Every engine is the fake one: ours works, the others do what their names say."""
    monkeypatch.setattr(fleets, "environment", lambda peer, folder: Path(sys.executable))

    def start(command, log, variables, root) -> Worker:
        assert variables["OMP_NUM_THREADS"] == "2"
        how = command[-1].rpartition(".")[2]
        return Worker([command[0], "-m", "tests.bench.peer_worker", how], log, variables, root)

    monkeypatch.setattr(fleets, "Worker", start)


def test_a_whole_run_with_one_that_dies_and_one_that_hangs(tmp_path: Path, fakes) -> None:
    peers = [fake_peer(name, name) for name in ("works", "dies", "hangs")]
    chosen = [(BRIGADE, BRIGADE.variants[0]), *((peer, variant) for peer in peers for variant in peer.variants)]
    fleet = empty_fleet(tmp_path)
    with closing(fleet):
        after = list(heats(fleet, chosen, Plan([ONE, TWO], 2, 1, 100, 3.0)))
        assert len(after) == 3 * 2 * 3, "something is known after each round of two cells and three repetitions"
        figures = after[-1]
        assert list(fleet.workers) == ["brigade/bf16"], "a peer's workers go when its heat is over"
    assert len(figures.samples("works/bf16", TWO)) == 2 and len(figures.samples("brigade/bf16", TWO)) == 6
    assert "ended with code 3" in figures.heats["dies"]["dies/bf16"].lost
    assert "killed" in figures.heats["hangs"]["hangs/bf16"].lost and len(figures.samples("hangs/bf16", ONE)) == 2
    assert set(fleet.skipped) == {"works/old", "dies/old", "hangs/old"}
    assert fleet.skipped["works/old"] == "not loadable: RuntimeError: this processor is too old"
    assert not fleet.workers


RECIPE = """
num_layers: 2
hidden_size: 32
num_heads: 4
num_kv_heads: 4
head_dim: 8
ffn_size: 96
vocab_size: 300
max_positions: 64
norm: layernorm
activation: gelu_tanh
gated: false
position: learned
qkv_bias: true
out_bias: true
mlp_bias: true
tied_head: true
"""


def test_the_checkpoint_is_the_recipes_own_model_and_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "tiny.yaml").write_text(RECIPE)
    write_checkpoint(gpt2_config(str(tmp_path / "tiny.yaml")), 3, tmp_path / "model")
    ids = list(range(40, 60))
    from_recipe = LLM(tmp_path / "tiny.yaml", random_weights=3, backend="reference", dtype="float32").logits([ids])[0]
    assert torch.equal(LLM(tmp_path / "model", backend="reference").logits([ids])[0], from_recipe)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(theirs, from_recipe, atol=1e-4, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(tokenizer) == 300 and tokenizer.eos_token_id == 299 and tokenizer.decode(tokenizer("ab c").input_ids) == "ab c"


@pytest.fixture
def one_peer(tmp_path: Path, monkeypatch, fakes) -> list[str]:
    """The arguments of a run of ours and a fake peer: six rounds, all of one cell."""
    peer = Peer("works", (), (Variant("bf16", 16),))
    monkeypatch.setattr("benchmarks.peers.command.choose", lambda *_: [(BRIGADE, BRIGADE.variants[0]), (peer, peer.variants[0])])
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("max_positions: 64", "max_positions: 256"))
    argv = ["bench", "peers", "--model", str(tmp_path / "tiny.yaml"), "--work", str(tmp_path / "work"), "--works", "latency"]
    argv += ["--batch-sizes", "1", "--repeats", "5", "--json", str(tmp_path / "o.json"), "--markdown", str(tmp_path / "o.md")]
    argv += ["--svg", str(tmp_path / "o.svg")]
    return argv


def test_an_output_is_checked_once(tmp_path: Path, monkeypatch, capsys) -> None:
    opened = []
    for owner in (os, Path):

        def opens(path, *rest, really=owner.open, **settings):
            opened.append(Path(path))
            return really(path, *rest, **settings)

        monkeypatch.setattr(owner, "open", opens)
    (tmp_path / "out").mkdir()
    assert main(["bench", "peers", "nobody", "--json", str(tmp_path / "out" / "o.json"), "--work", str(tmp_path)]) == 2
    assert "no peer 'nobody'" in capsys.readouterr().err
    assert len([path for path in opened if path.parent == tmp_path / "out"]) == 1


def interrupt_at(turn: int, monkeypatch) -> None:
    """Ctrl-C while the run waits for an answer; `turn` answers came before it."""
    ask, turns = Worker.ask, iter(range(turn + 1))

    def counted(self, request, limit):
        if request["do"] == "generate" and next(turns) == turn:
            raise KeyboardInterrupt
        return ask(self, request, limit)

    monkeypatch.setattr(Worker, "ask", counted)


def test_an_interrupted_run_keeps_every_finished_round_of_its_heat(tmp_path: Path, one_peer, monkeypatch, capsys) -> None:
    interrupt_at(7, monkeypatch)  # the warm-up round, two whole rounds, and one that ours alone had
    assert main(one_peer) == 130
    shown = capsys.readouterr()
    assert "NOT FINISHED" in shown.out and "works/bf16" in shown.out and shown.err.endswith("brigade: interrupted\n")
    facts = json.loads((tmp_path / "o.json").read_text())
    assert facts["finished"] is False and facts["interrupted"]
    kept = {one["engine"]: len(one["heats"]["works"]["cells"][0]["seconds"]) for one in facts["engines"]}
    assert kept == {"brigade/bf16": 2, "works/bf16": 2}
    assert "NOT FINISHED" in (tmp_path / "o.md").read_text() and "| works/bf16 |" in (tmp_path / "o.md").read_text()
    assert "NOT FINISHED" in (tmp_path / "o.svg").read_text() and ">works/bf16<" in (tmp_path / "o.svg").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"o.json", "o.md", "o.svg", "tiny.yaml", "work"}


def test_the_files_are_there_after_each_round_whatever_ends_the_run(tmp_path: Path, one_peer, monkeypatch, capsys) -> None:
    written = []
    monkeypatch.setattr("benchmarks.peers.command.write_json", lambda path, content: written.append(json.dumps(content)))
    assert main(one_peer) == 0
    capsys.readouterr()
    counts = [len(json.loads(one)["engines"][0]["heats"]["works"]["cells"][0]["seconds"]) for one in written]
    assert counts == [0, 1, 2, 3, 4, 5, 5] and [json.loads(one)["finished"] for one in written] == [False] * 6 + [True]


def test_what_comes_before_the_first_round_is_an_interruption_like_any_other(one_peer, monkeypatch, capsys) -> None:
    interrupt_at(0, monkeypatch)
    assert main(one_peer) == 130 and capsys.readouterr().err.endswith("brigade: interrupted\n")


def test_an_answer_that_is_no_json_loses_its_worker_alone(tmp_path: Path) -> None:
    worker = Worker([sys.executable, "-c", "print('Segmentation fault')"], tmp_path / "log")
    with closing(worker), pytest.raises(WorkerLost, match="answered 'Segmentation fault', which is no JSON; killed"):
        worker.ask(LOAD, LIMIT)


def test_a_recipe_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(RECIPE.replace("gelu_tanh", "silu"))
    with pytest.raises(ConfigError, match="no GPT-2 in its activation"):
        gpt2_config(str(tmp_path / "other.yaml"))


# The command


def test_everybody_is_chosen_unless_somebody_is_named() -> None:
    assert {peer.name for peer, _ in choose([], [])} == {"brigade", *PEERS}
    assert {peer.name for peer, _ in choose(["ctranslate2"], [])} == {"brigade", "ctranslate2"}
    few = choose(["transformers"], ["brigade/int8", "fp32"])
    assert [peer.label(variant) for peer, variant in few] == ["brigade/int8", "transformers/fp32"]
    assert len(choose(["transformers"], ["fp32"])) == len(BRIGADE.variants) + 1, "without one of ours named, all of ours run"


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_every_peer_has_its_worker_and_its_converter(peer: Peer) -> None:
    assert (ROOT / "benchmarks/peers/workers" / f"{peer.module}.py").exists()
    needs = any(variant.model for variant in peer.variants)
    assert (ROOT / "benchmarks/peers/converters" / f"{peer.module}.py").exists() == needs


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/peers").rglob("*.py")), ids=lambda path: path.stem)
def test_files_are_one_reading(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_the_list(capsys) -> None:
    assert main(["bench", "peers", "--list"]) == 0
    assert "openvino-genai/static-int8" in capsys.readouterr().out


BAD = {
    "unknown name": (["lama.cpp"], "no peer 'lama.cpp'; peers are transformers, openvino-genai, ctranslate2"),
    "unknown variant": (["transformers", "--variants", "int3"], "no variant 'int3'"),
    "only ours": (["--variants", "brigade/int8"], "leaves no peer to compare with"),
    "unknown work": (["--works", "sleep"], "invalid choice: 'sleep'"),
    "no batch": (["--batch-sizes", "0"], "give each once, 1 to 32"),
    "twice": (["--batch-sizes", "2", "2"], "give each once, 1 to 32"),
    "no repeats": (["--repeats", "0"], "repeats is 0; it must be 1 or more"),
    "no time": (["--limit", "0"], "limit is 0"),
    "no number": (["--limit", "nan"], "limit is nan; it must be 1 or more"),
    "negative seed": (["--seed", "-1"], "seed is -1; it must be 0 or more"),
    "too many threads": (["--threads", "4096"], "threads is 4096; this process may use"),
    "a list of one": (["transformers", "--list"], "--list names all peers"),
    "a picture of a list": (["--list", "--svg", "list.svg"], "--list writes no files; drop --svg"),
    "unwritable": (["--markdown", "nowhere/at/all.md"], "cannot write"),
    "unknown recipe": (["--model", "gpt-9"], "no model 'gpt-9'"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_one_line_and_code_2(case: str, capsys, tmp_path: Path) -> None:
    argv, expected = BAD[case]
    assert main(["bench", "peers", *argv, "--work", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("brigade: error: ") and expected in captured.err and captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_a_checkout_it_says_so(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_peers, "ROOT", tmp_path)
    assert main(["bench", "peers"]) == 2
    assert "run it from a checkout" in capsys.readouterr().err
