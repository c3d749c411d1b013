"""The launches of `examples/launch/`: by the command alone, under torchrun, and under Slurm's `srun`, whose place a small program
takes here. A later option wins, so a tiny recipe stands for the large one."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brigade.backends.cpu.library import find_kernels
from brigade.cli.main import main, make_parser
from tests.parallel.test_lives import children_of, wait_until_gone

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "launch"
BRIGADE, TORCHRUN = f"{sys.executable} -m brigade.cli.main", f"{sys.executable} -m torch.distributed.run"
GREEDY = ("--temperature", "0")
SRUN = '''#!{python}
"""`srun --options --ntasks N command`: starts N processes, all on this machine, and ends with the worst exit code."""
import os, subprocess, sys
while sys.argv[1] != "--ntasks":
    assert sys.argv.pop(1) in ("--kill-on-bad-exit=1", "--cpu-bind=none")
count = int(sys.argv[2])
shared = {{"SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_TASKS_PER_NODE": str(count), "SLURM_STEP_NODELIST": "localhost",
           "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NODEID": "0", "MASTER_PORT": "{port}"}}
tasks = [subprocess.Popen(sys.argv[3:], env=os.environ | shared | {{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}})
         for i in range(count)]
sys.exit(max(task.wait() for task in tasks))
'''


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("launch") / "tiny.yaml"
    file.write_text(
        "num_layers: 3\nhidden_size: 64\nnum_heads: 8\nnum_kv_heads: 4\nhead_dim: 8\nffn_size: 128\nvocab_size: 3300\n"
        "max_positions: 128\nrope: {rotary_dim: 8}\ntied_head: false\n"
    )
    return str(file)


@pytest.fixture(scope="module")
def alone(recipe: str) -> str:
    """What one rank says."""
    command = [*BRIGADE.split(), "generate", "--model", recipe, "--random-weights", "0", "--token-ids", "464 3280 318"]
    done = subprocess.run(
        [*command, "--max-tokens", "8", "--temperature", "0"], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0 and len(done.stdout.split()) == 8, done.stderr
    return done.stdout


def environment(**changes: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    return clean | {"BRIGADE": BRIGADE, "TORCHRUN": TORCHRUN, "PYTHONPATH": str(ROOT), "MASTER_PORT": str(free_port())} | changes


def launch(script: str, *options: str, **changes: str) -> tuple[int, str, str]:
    done = subprocess.run(
        ["bash", str(SCRIPTS / script), *options], capture_output=True, text=True, env=environment(**changes), timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def srun(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "srun"
    file.write_text(SRUN.format(python=sys.executable, port=free_port()))
    file.chmod(0o755)
    return {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.slow
def test_the_command_alone(recipe: str, alone: str) -> None:
    assert launch("gpt_357m_alone.sh", "--model", recipe, *GREEDY)[:2] == (0, alone)


@pytest.mark.slow
def test_under_torchrun(recipe: str, alone: str) -> None:
    code, output, errors = launch("gpt_357m_torchrun.sh", "--model", recipe, *GREEDY)
    assert (code, output) == (0, alone), errors
    assert errors.count("memory:") == 1, "rank 0 alone speaks"


def test_under_srun(recipe: str, alone: str, srun: dict[str, str]) -> None:
    code, output, errors = launch("gpt_357m_slurm.sh", "--model", recipe, *GREEDY, **srun)
    assert (code, output) == (0, alone), errors
    assert errors.count("memory:") == 1


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.sh")))
def test_each_layout_can_be(script: str, capsys) -> None:
    """The words of each script get through the parser, and its model can have its layout, on as many ranks as are started."""
    text = (SCRIPTS / script).read_text().replace("\\\n", " ")
    words = re.search(r'generate (.*) "\$@"', text)[1]
    args = make_parser("generate").parse_args(["generate", *re.findall(r'[^\s"]+|(?<=")[^"]+(?=")', words)])
    assert main(["inspect", args.model, "--tp", str(args.tp), "--pp", str(args.pp), "--as-json"]) == 0
    shown = capsys.readouterr().out
    assert shown.count('"tensor_rank"') == args.tp * args.pp == (8 if "12b" in script else 4)
    started = re.search(r"--ntasks[= ](\d+)|\$\(\((\d+) / NNODES", text)
    assert started is None or int(started[1] or started[2]) == args.tp * args.pp


def agents(arguments: list[str], hosts: str = "ab", each: int = 2, **options) -> list[subprocess.Popen]:
    """One of torchrun for each host, joined by its rendezvous. `BRIGADE_HOST` makes them hosts that share no memory."""
    port = free_port()
    return [
        subprocess.Popen(
            [*TORCHRUN.split(), "--nnodes", str(len(hosts)), "--node-rank", str(number), "--nproc-per-node", str(each),
             "--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "brigade.cli.main", *arguments],
            env=environment(BRIGADE_HOST=host), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )
        for number, host in enumerate(hosts)
    ]  # fmt: skip


def ended(started: list[subprocess.Popen], seconds: float = 60) -> list[tuple[int, str, str]]:
    late = time.monotonic() + seconds
    try:
        said = [each.communicate(timeout=max(late - time.monotonic(), 0.1)) for each in started]
    except subprocess.TimeoutExpired:
        for each in started:
            each.terminate()
        pytest.fail(f"still there after {seconds} s: {[each.communicate() for each in started]}")
    return [(each.returncode, output, errors) for each, (output, errors) in zip(started, said, strict=True)]


def asked(recipe: str, *more: str) -> list[str]:
    options = ["--model", recipe, "--random-weights", "0", "--token-ids", "464 3280 318", "--max-tokens", "8"]
    return ["generate", *options, *more]


def requests_of(file: Path) -> list:
    import json

    found = json.loads(file.read_text())["requests"].values()
    keys = ("token_ids", "logprobs", "finish_reason")
    return [(one["prompt_logprobs"], [[sample[key] for key in keys] for sample in one["samples"]]) for one in found]


def check_two_hosts(recipe: str, folder: Path, exchange: str) -> None:
    ask = asked(recipe, "--token-ids", "1 2 3 4 5", "--logprobs", "3", "--prompt-logprobs", "1", "--seed", "1")
    assert main([*ask, "--json", str(folder / "alone.json")]) == 0
    done = ended(agents([*ask, "--tp", "2", "--pp", "2", "--exchange", exchange, "--json", str(folder / "hosts.json")]))
    assert [code for code, *_ in done] == [0, 0], done
    assert requests_of(folder / "hosts.json") == requests_of(folder / "alone.json")


def test_two_hosts_say_what_one_rank_says(recipe: str, tmp_path: Path) -> None:
    """Tensor ranks of a stage share a host, and its memory; the stages are joined by the process group."""
    check_two_hosts(recipe, tmp_path, "auto")


@pytest.mark.slow
def test_two_hosts_by_the_process_group_alone(recipe: str, tmp_path: Path) -> None:
    check_two_hosts(recipe, tmp_path, "group")


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1])
def test_a_rank_that_dies_on_one_host_ends_both(recipe: str, host: int, tmp_path: Path) -> None:
    """The samples are asked for in a file: torchrun takes `--n`, even behind its module, for the beginning of its own options."""
    (tmp_path / "p.jsonl").write_text('{"token_ids": [1, 2], "max_tokens": 120, "ignore_eos": true, "n": 300, "seed": 1}\n')
    ask = ["generate", "--model", recipe, "--random-weights", "0", "--prompts-file", str(tmp_path / "p.jsonl")]
    started = agents([*ask, "--tp", "2", "--pp", "2"], start_new_session=True)
    late = time.monotonic() + 30
    while not all(len(children_of(each.pid)) == 2 for each in started):
        assert time.monotonic() < late and all(each.poll() is None for each in started), [each.poll() for each in started]
        time.sleep(0.1)
    while "memory:" not in started[0].stderr.readline():  # which rank 0 says when all are there
        assert started[0].poll() is None
    everyone = [process for each in started for process in children_of(each.pid)]
    began = time.monotonic()
    os.kill(max(children_of(started[host].pid)), signal.SIGKILL)
    assert wait_until_gone(everyone, 10.5) == [] and time.monotonic() - began < 10.5
    assert all(code != 0 for code, *_ in ended(started))


def lines_of_ranks(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("brigade: ")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "torchrun started 2 ranks, but tp 1 x pp 1 needs 1"),
        pytest.param(("--temperature", "-1", "--tp", "2"), "temperature is -1.0", marks=pytest.mark.slow),
        pytest.param(("--tp", "2", "--pp", "2"), "started 2 ranks, but tp 2 x pp 2 needs 4", marks=pytest.mark.slow),
    ],
    ids=["no layout", "a bad value", "another layout"],
)
def test_what_cannot_be_ends_every_rank_with_one_line(recipe: str, options, words: str) -> None:
    ((code, output, errors),) = ended(agents(asked(recipe, *options), "a"), 30)
    said = lines_of_ranks(errors)
    assert code == 1 and output == "" and len(said) in (1, 2), errors
    wrong = [line for line in said if words not in line]
    # Rank 0 says why before any other leaves; torchrun may have ended the other one before it knew.
    assert [line for line in said if line.startswith("brigade: error: ") and words in line], errors
    assert wrong in ([], ["brigade: ended by SIGTERM"]), errors


def test_an_evaluation_of_two_models_is_refused_under_a_launcher(monkeypatch, capsys, tmp_path: Path) -> None:
    """In rank 0; nobody is met, since there is nobody: what is wrong is said all the same."""
    (tmp_path / "text.txt").write_text("def f(x):\n")
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr("brigade.parallel.launch._refuse", lambda world, store, error: None)
    monkeypatch.setattr("brigade.parallel.launch._met_world", False)
    monkeypatch.setattr("brigade.parallel.launch.open_store", lambda world: None)
    assert main(["eval", "--text", str(tmp_path / "text.txt"), "--against", "mini", "--tp", "2"]) == 2
    assert "the ranks that torchrun started serve one" in capsys.readouterr().err


SCRIPT = """
import os, sys
from brigade import LLM
from brigade.cli import generate
from brigade.cli.main import main
if os.environ["RANK"] != "0":
    def forbidden(*arguments, **options):
        raise AssertionError("a rank above 0 has read or checked")
    generate.run = generate._prompts = generate.check_outputs = forbidden
    sys.stdin = None
    sys.exit(main(sys.argv[1:]))
assert main(sys.argv[1:]) == 0
try:
    LLM(kv_blocks=8, tp=2)
except ValueError as error:
    print(error)
"""


def test_rank_0_alone_reads_and_the_ranks_serve_one_model(tmp_path: Path) -> None:
    """Ranks above 0 read no prompt and check no file: here they would fail if they tried. A second model of the same process is
    refused."""
    (tmp_path / "rank.py").write_text(SCRIPT)
    command = [*TORCHRUN.split(), "--nproc-per-node", "2", "--master-port", str(free_port()), str(tmp_path / "rank.py")]
    command += ["generate", "-", "--max-tokens", "3", "--temperature", "0", "--tp", "2", "--kv-blocks", "8"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, input="def f(")
    *said, refused = done.stdout.splitlines()
    assert done.returncode == 0 and said, done.stderr
    assert refused.startswith("the ranks that torchrun started serve one model")
