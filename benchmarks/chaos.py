"""Chaos: replicas and the coordinator are killed, stopped, continued and cut off while streams run. No token may change.

    python benchmarks/chaos.py --faults 1000
    python benchmarks/chaos.py --seed 17 --faults 40      one run, as it was

Every run has three replicas of the embedded model behind a coordinator with a journal, and one client with 200 streams of mixed
parameters at a time. All sockets go through a proxy that can cut them. What each stream says is compared with what the model says
undisturbed.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.processes import MODEL, SETTINGS, Fleet, fleet

STREAMS, REPLICAS, RUN = 200, 3, 40  # at a time; at a time; faults of a run
TIMES = ["--replica-timeout", "1", "--client-timeout", "5", "--client-grace", "120", "--restart-grace", "120"]
WORDS = ("def ", "import os", "return", "for x in", "class A", "# größer als ✓", "\n    ", "é", "日本", "self.")
KINDS = ("kill", "kill", "kill", "stop", "coordinator", "both", "cut clients", "cut replicas")


def requests(count: int, chance: random.Random) -> tuple[list[Any], list[Any]]:
    """Of every kind that a failure could change: penalties count what was said, seeds have positions, text has seams."""
    from brigade import SamplingParams

    prompts, params = [], []
    for _ in range(count):
        words = "".join(chance.choice(WORDS) for _ in range(chance.randint(1, 12)))
        prompts.append(words if chance.random() < 0.7 else [chance.randrange(300, 4000) for _ in range(chance.randint(1, 60))])
        more: dict[str, Any] = {"seed": chance.getrandbits(32), "temperature": chance.choice((0.0, 0.7, 1.0, 1.5))}
        for name, values, often in (
            ("frequency_penalty", (0.5, 1.5), 0.3), ("presence_penalty", (1.0,), 0.2), ("repetition_penalty", (1.2,), 0.2),
            ("top_p", (0.8,), 0.3), ("top_k", (20,), 0.2), ("logprobs", (0, 3), 0.3), ("prompt_logprobs", (1,), 0.15),
            ("echo", (True,), 0.1), ("n", (2, 3), 0.2), ("stop", (["\n"], ["self", "def"]), 0.2), ("ignore_eos", (True,), 0.5),
            ("priority", (-1, 1), 0.2), ("logit_bias", ({300: 5.0},), 0.1),
        ):  # fmt: skip
            if chance.random() < often:
                more[name] = chance.choice(values)
        most = chance.randint(1, 60)
        if chance.random() < 0.3:
            more["min_tokens"] = chance.randint(1, most)
        params.append(SamplingParams(max_tokens=most, **more))
    return prompts, params


def plain(output: Any) -> Any:
    samples = [(s.index, s.text, s.token_ids, s.logprobs, s.finish_reason, s.stop_reason, s.seed, s.error) for s in output.samples]
    return output.prompt, output.prompt_token_ids, output.prompt_logprobs, samples


class Faults:
    """One after the other, until enough have come or the streams are at their end."""

    def __init__(self, fleet: Fleet, chance: random.Random, pause: float) -> None:
        self.fleet, self.chance, self.pause = fleet, chance, pause
        self.count: Counter[str] = Counter()
        self._over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def end(self) -> None:
        self._over.set()
        self.thread.join()

    def _run(self) -> None:
        while not self._over.wait(self.chance.uniform(0.2, 2.0) * self.pause):
            kind = self.chance.choice(KINDS)
            self.count[kind] += 1
            fleet, victim = self.fleet, self.chance.choice(self.fleet.nest.replicas)
            if kind in ("kill", "both"):
                fleet.nest.kill(victim)
                fleet.nest.start()
            if kind in ("coordinator", "both"):
                fleet.coordinator.kill()
                fleet.coordinator.start()
            if kind == "stop":  # for longer than it may be silent: it is given up, and wakes
                victim.send(signal.SIGSTOP)
                self._over.wait(self.chance.uniform(0.1, 2.5))
                victim.send(signal.SIGCONT)
            if kind.startswith("cut "):
                fleet.proxies[kind.removeprefix("cut ")].cut()


def one_run(seed: int, faults: int, pause: float, llm: Any) -> tuple[Counter[str], int, list[str]]:
    """The faults there were, the streams, and what changed."""
    chance, wrong, streams = random.Random(seed), [], 0
    with fleet(REPLICAS, TIMES, with_proxies=True) as made, ExitStack() as stack:
        trouble = Faults(made, random.Random(seed + 1), pause)
        trouble.thread.start()
        stack.callback(trouble.end)
        while trouble.count.total() < faults:
            if not trouble.thread.is_alive():
                raise SystemExit("there are no faults any more: their thread has ended")
            prompts, params = requests(STREAMS, chance)
            stream = made.client.stream(prompts, params)
            tokens: dict[tuple[str, int], list[int]] = {}
            for delta in stream:
                key = (delta.request_id, delta.index)
                tokens.setdefault(key, []).extend(delta.token_ids)
            streams += len(prompts)
            expected = [plain(output) for output in llm.generate(prompts, params)]
            for number, (output, whole) in enumerate(zip(stream.outputs, expected, strict=True)):
                found = plain(output)
                heard = [tokens.get((str(number), sample.index), []) for sample in output.samples]
                if found != whole or heard != [sample.token_ids for sample in output.samples]:
                    wrong.append(f"seed {seed}, stream {streams - len(prompts) + number}: {found} is not {whole}; heard {heard}")
    return trouble.count, streams, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; each other has the next")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two faults, on the average")
    args = parser.parse_args()
    from brigade import LLM

    total, streams, changed, seed, begun = Counter[str](), 0, 0, args.seed, time.monotonic()
    with LLM(MODEL, **SETTINGS) as llm:
        while total.total() < args.faults:
            count, there, wrong = one_run(seed, min(RUN, args.faults - total.total()), args.pause, llm)
            total += count
            streams, changed = streams + there, changed + len(wrong)
            print(
                f"seed {seed}: {count.total()} faults, {there} streams, {len(wrong)} changed; {time.monotonic() - begun:.0f} s",
                flush=True,
            )
            for line in wrong[:5]:
                print(f"  {line}", flush=True)
            seed += 1
    kinds = ", ".join(f"{number} {kind}" for kind, number in total.most_common())
    print(f"{total.total()} faults ({kinds}), {streams} streams, {changed} changed")
    raise SystemExit(1 if changed else 0)


if __name__ == "__main__":
    main()
