"""What a run prints and writes."""

from __future__ import annotations

import hashlib
import resource
import sys
from collections.abc import Sequence
from typing import Any

from brigade.bench.runner import Run
from brigade.mesh import Mesh
from brigade.parallel.messages import Times

PERCENTILES = (50, 90, 99)
SHOWN = 8  # prompts printed; the JSON has them all


def peak_memory() -> int:
    """The most this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def percentile(values: Sequence[float], share: float) -> float:
    """By linear interpolation between the two nearest."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def output_hash(token_ids: Sequence[int]) -> str:
    """Six hexadecimal digits that name an output."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()[:6]


def unique_outputs(run: Run) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """Each distinct prompt with its distinct outputs: (count, tokens, hash). More than one output for a prompt and one
    length would mean that the same question was answered in two ways."""
    found: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for output in run.outputs:
        shown = output.prompt if output.prompt is not None else " ".join(map(str, output.prompt_token_ids))
        entry = found.setdefault((shown,), {}).setdefault(output_hash(output.token_ids), [0, len(output.token_ids)])
        entry[0] += 1
    return [(key[0], [(count, tokens, name) for name, (count, tokens) in outs.items()]) for key, outs in found.items()]


def latency_facts(run: Run) -> dict[str, dict[str, float]]:
    facts = {}
    for name in ("latency", "ttft"):
        values = [getattr(output.metrics, name) for output in run.outputs]
        facts[name] = {f"p{p}": percentile(values, p) for p in PERCENTILES}
    return facts


def text_report(run: Run) -> list[str]:
    lines = ["unique prompts + outputs:"]
    unique = unique_outputs(run)
    for prompt, outputs in unique[:SHOWN]:
        shown = prompt if len(prompt) <= 60 else prompt[:57] + "..."
        lines.append(f"  {shown!r}")
        lines += [f"    {count} x {tokens} tokens, hash {name}" for count, tokens, name in outputs]
    if len(unique) > SHOWN:
        lines.append(f"  ... and {len(unique) - SHOWN} prompts more")
    latency = latency_facts(run)
    lines.append(
        f"{run.engine}: {run.output_rate:.1f} output tokens/s, {(run.output_tokens + run.prompt_tokens) / run.seconds:.1f} "
        f"tokens/s in all; {len(run.outputs)} requests, {run.output_tokens} output tokens in {run.seconds:.2f} s, "
        f"{run.steps} steps"
    )
    for name, values in latency.items():
        lines.append(f"  {name}: " + ", ".join(f"{p} {value * 1e3:.0f} ms" for p, value in values.items()))
    lines.append(f"  peak memory: {peak_memory() / 2**20:.0f} MiB")
    return lines


def rank_facts(mesh: Mesh, times: Sequence[Times]) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank, "stage": mesh.stage(rank), "tensor_rank": mesh.tp_rank(rank), "seconds": one.elapsed,
            "waited": one.waited / one.elapsed, "exchanged": one.exchanged / one.elapsed,
        }
        for rank, one in enumerate(times)
    ]  # fmt: skip


def rank_lines(mesh: Mesh, times: Sequence[Times]) -> list[str]:
    """The share of the run in which each rank waited for work of another stage or of the leader, and that of its exchanges."""
    if not times:
        return []
    return ["  time of ranks:"] + [
        f"    rank {one['rank']} (stage {one['stage']}, tensor rank {one['tensor_rank']}): waited {one['waited']:.0%}, "
        f"in exchanges {one['exchanged']:.0%}"
        for one in rank_facts(mesh, times)
    ]


def json_report(run: Run) -> dict[str, Any]:
    requests = {
        output.request_id: {
            "input_prompt": output.prompt, "prompt_tokens": len(output.prompt_token_ids), "generated_text": output.text,
            "generated_tokens": output.token_ids, "latency": output.metrics.latency, "ttft": output.metrics.ttft,
            "step_count": output.metrics.steps, "preemptions": output.metrics.preemptions,
            "cached_tokens": output.metrics.cached_tokens, "finish_reason": output.finish_reason,
            "hash": output_hash(output.token_ids),
        }
        for output in run.outputs
    }  # fmt: skip
    return {
        "engine": run.engine, "requests": requests, "throughput": run.output_rate, "seconds": run.seconds,
        "steps": run.steps, "output_tokens": run.output_tokens, "prompt_tokens": run.prompt_tokens,
        "peak_memory": peak_memory(), **latency_facts(run),
    }  # fmt: skip
