"""What loading takes, on one rank and with tensor parallelism on two: `python benchmarks/loading.py [--recipe R] [--rounds 3]`.

Writes a recipe with random weights as a folder and as artifacts, and loads each from a page cache that has none of it. Of
every rank are taken, while its weights are loaded (`fill` in brigade/checkpoint/load.py):

- `read`: the bytes that it asked for.
- `seconds`: from when the first rank began until the last was done. Beside it stand `dd`, which reads as many bytes as one rank
  does, and `dd twice`: two of them at once, each at a place of its own, which is what the disk gives two ranks.
- `own`: what loading added to its anonymous and shared memory (RssAnon, RssShmem), and the pages of an artifact that it touches:
  those that have been looked at after the rank has proven its part once more (Referenced of /proc/self/smaps). `mapped` counts
  instead of these all pages of the artifact that its address space has: around a page that is touched the system maps others that
  are in the page cache anyway.
- `peak`: how much higher than before the memory of the process was meanwhile (VmHWM, which has what is mapped).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTES = "BRIGADE_LOADING_NOTES"  # in the environment of a case: the folder in which each of its ranks notes what it took
RANKS = "BRIGADE_LOADING_RANKS"  # how many there are
CASES = {  # what is loaded, and how
    "folder, bfloat16": ("folder", "none"),
    "folder, int8": ("folder", "int8"),
    "artifact, bfloat16": ("none", "its own"),
    "artifact, int8": ("int8", "its own"),
}


def memory(*names: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[name].split()[0]) << 10 for name in names)


def bytes_read() -> int:
    """By calls; pages of mapped files are not among them."""
    return int(Path("/proc/self/io").read_text().split()[1])


def pages_of_artifacts(kind: str) -> int:
    """Bytes of mapped files of weights that are `Rss`, or `Referenced`."""
    found, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in line.split(" ", 1)[0]:  # the first line of a mapping
            counts = line.endswith(".packed")
        elif counts and name == kind:
            found += int(rest.split()[0]) << 10
    return found


def wait_for_all() -> None:
    """Until every rank is done: what follows would slow down the others."""
    notes, late = Path(os.environ[NOTES]), time.monotonic() + 60
    (notes / f"{os.environ.get('RANK', '0')}.done").touch()
    while len(list(notes.glob("*.done"))) < int(os.environ[RANKS]):
        if time.monotonic() > late:
            raise SystemExit("another rank was not loaded within a minute")
        time.sleep(0.01)


def watch_loading() -> None:
    """In a rank, before it opens the model."""
    from brigade.artifact.reader import MappedModel
    from brigade.assembly import line
    from brigade.backends.huge_pages import give_back

    fill, prove = line.fill, MappedModel.prove
    proofs: list[Callable[[], None]] = []

    def noted(self: MappedModel, *args: Any) -> None:
        proofs.append(lambda: prove(self, *args))
        prove(self, *args)

    def watched(network: Any, source: Any, dtype: Any, seed: int | None, progress: Any) -> Any:
        total = 0

        def advance(done: int, of: int) -> None:
            nonlocal total
            total = of
            if progress is not None:
                progress(done, of)

        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        own, whole, read, begun = memory("RssAnon", "RssShmem"), memory("VmRSS"), bytes_read(), time.monotonic()
        model = fill(network, source, dtype, seed, advance)
        ended, is_mapped, read = time.monotonic(), source.artifact is not None, bytes_read() - read
        give_back()  # as it is done once the model is whole
        own, peak, mapped = memory("RssAnon", "RssShmem") - own, memory("VmHWM") - whole, pages_of_artifacts("Rss")
        wait_for_all()
        Path("/proc/self/clear_refs").write_text("1")  # nothing has been looked at
        for proof in proofs:
            proof()
        found = {
            "begun": begun, "ended": ended, "read": total if is_mapped else read, "own": own + pages_of_artifacts("Referenced"),
            "mapped": own + mapped, "peak": peak,
        }  # fmt: skip
        (Path(os.environ[NOTES]) / os.environ.get("RANK", "0")).write_text(json.dumps(found))
        return model

    MappedModel.prove = noted
    line.fill = watched


if __name__ != "__main__" and NOTES in os.environ:  # imported in a rank
    watch_loading()


def load(folder: str, quant: str, tp: int) -> None:
    """In a process of its own, which leads the ranks."""
    from benchmarks.cold_start import drop
    from brigade.api.llm import LLM

    drop(Path(folder))
    given = {} if quant == "its own" else {"quant": quant, "dtype": "bfloat16"}
    with LLM(folder, tp=tp, import_modules=["loading"], kv_blocks=16, threads=2 // tp, **given):
        pass


def one_load(folder: Path, quant: str, tp: int) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as notes:
        path = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, __file__, "--load", json.dumps([str(folder), quant, tp])]
        subprocess.run(command, check=True, env=os.environ | {NOTES: notes, RANKS: str(tp), "PYTHONPATH": path})
        return [json.loads((Path(notes) / str(rank)).read_text()) for rank in range(tp)]


def dd(folder: Path, count: int, readers: int) -> float:
    """Seconds in which each of so many readers has read its own `count` bytes of the folder's largest file."""
    from benchmarks.cold_start import drop

    drop(folder)
    file, blocks = max(folder.iterdir(), key=lambda path: path.stat().st_size), max(1, count >> 20)
    if count * readers > 1.05 * file.stat().st_size:
        raise SystemExit(f"{file} is too small for {readers} readers of {count} bytes: its weights lie in several files")
    begun = time.monotonic()
    running = [
        subprocess.Popen(
            ["dd", f"if={file}", "of=/dev/null", "bs=1M", f"count={blocks}", f"skip={blocks * reader}"], stderr=subprocess.DEVNULL
        )
        for reader in range(readers)
    ]
    if any(each.wait() for each in running):
        raise SystemExit("dd failed")
    return time.monotonic() - begun


def make(recipe: str, name: str, work: Path) -> Path:
    """The folder, or the artifact of this quantisation."""
    made = work / name
    if name == "folder":
        from benchmarks.peers.checkpoint import gpt2_config, write_checkpoint

        write_checkpoint(gpt2_config(recipe), 0, made)
    else:
        command = [sys.executable, "-m", "brigade.cli.main", "export", recipe, str(made), "--random-weights", "0"]
        subprocess.run([*command, "--quant", name, "--dtype", "bfloat16"], check=True, stdout=subprocess.DEVNULL)
    return made


def measure(name: str, folder: Path, quant: str, rounds: int) -> list[list[str]]:
    """Rows of the table: one rank, then each of two."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    alone, twice, bars = [], [], []
    for _ in range(rounds):
        ranks = {tp: one_load(folder, quant, tp) for tp in seconds}
        for tp, found in ranks.items():
            seconds[tp].append(max(one["ended"] for one in found) - min(one["begun"] for one in found))
        share = int(max(one["read"] for one in ranks[2]))
        alone.append(dd(folder, share, 1))
        twice.append(dd(folder, share, 2))
        bars.append(seconds[2][-1] / max(alone[-1], share / 1e9))
    whole, rows = ranks[1][0], []
    for tp, found in ranks.items():
        for rank, one in enumerate(found):
            row = [name, f"tp {tp}, rank {rank}", *(f"{one[key] / 2**20:.0f}" for key in ("read", "own", "mapped", "peak"))]
            row += [f"{one['own'] / whole['own']:.3f}", f"{statistics.median(seconds[tp]):.2f}"]
            first = tp == 2 and rank == 0
            row += [f"{statistics.median(alone):.2f}", f"{statistics.median(twice):.2f}"] if first else ["", ""]
            rows.append([*row, f"{statistics.median(bars):.2f} ({min(bars):.2f} to {max(bars):.2f})" if first else ""])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help="; ".join(CASES))
    parser.add_argument("--recipe", default="gpt-345m", help="(default gpt-345m)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("."), help="where the model is written meanwhile (default: here)")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        return load(*json.loads(args.load))
    from brigade.text_table import columns

    bar = "seconds / the longer of dd's and those at 1 GB/s"
    table = [["case", "rank", "read", "own", "mapped", "peak", "own / one rank's", "seconds", "dd", "dd twice", bar]]
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for name in args.cases:
            what, quant = CASES[name]
            folder = make(args.recipe, what, Path(work))
            table += measure(name, folder, quant, args.rounds)
            print(f"{name}: done", file=sys.stderr, flush=True)
            for path in folder.iterdir():
                path.unlink()
    print("\n".join(["MiB of the last round; seconds are medians", *columns(table)]))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
