"""`brigade generate`: text from prompts, whole or as it comes."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from brigade.cli.options import (
    add_model_options,
    add_sampling_options,
    admits,
    make_llm,
    model_files,
    refuse_model_options,
    sampling_settings,
    with_defaults,
)  # fmt: skip
from brigade.cli.progress import Progress
from brigade.cli.prompts import read_prompts_file, read_stdin
from brigade.errors import ConfigError, EngineStopped, RequestError
from brigade.output_files import check_outputs, write_json

LATE = 2.0  # seconds after which it is said what is waited for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", nargs="*", help="prompts; - reads one from standard input")
    parser.add_argument("--prompts-file", metavar="JSONL", help="one JSON object a line: text or token_ids, and parameters")
    parser.add_argument("--token-ids", metavar='"1 2 3"', action="append", default=[], help="a prompt as ids")
    parser.add_argument("--stream", action="store_true", help="print the text as it comes (one prompt)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything known of each request")
    parser.add_argument("--connect", metavar="ADDRESS", help="ask a coordinator; --model is the name that it serves then")
    parser.add_argument("--keys", type=Path, metavar="FOLDER", help="with --connect: keys of `brigade keys`")
    add_model_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    check_outputs({"--json": args.json}, [args.prompts_file, *model_files(args.model)])
    prompts, settings = _prompts(args)
    if args.stream and (len(prompts) != 1 or settings[0].get("n", 1) != 1):
        raise ConfigError(f"--stream prints one text, but there are {len(prompts)} prompts or n above 1; drop --stream")
    from brigade.engine.sampling.params import SamplingParams

    for one in settings:  # wrong values are refused before the model is loaded
        SamplingParams(**one)
    if args.connect is not None:
        return _ask_coordinator(args, prompts, settings)
    if args.keys is not None:
        raise ConfigError(f"--keys {args.keys} has no effect without --connect; give --connect, or drop it")
    loading = Progress("loading")
    llm = make_llm(args, progress=loading, check=admits(prompts, settings))
    loading.close()
    print(llm.plan, file=sys.stderr)
    params = with_defaults(llm, settings)
    begun = time.perf_counter()
    outputs = _stream(llm, prompts[0], params[0]) if args.stream else _whole(llm, prompts, params)
    if args.json is not None:
        write_json(args.json, report(llm, outputs, params, time.perf_counter() - begun))
    return _tell_failed(outputs)


def _ask_coordinator(args: argparse.Namespace, prompts: list[Any], settings: list[dict[str, Any]]) -> int:
    """Parameters that were not given are as the served model's own defaults say."""
    from brigade.client import Client
    from brigade.coordinator.words import told_if_late

    refuse_model_options(args)
    with ExitStack() as stack:
        client = stack.enter_context(Client(args.connect, args.model, keys=args.keys))
        stack.enter_context(told_if_late(lambda: _why_waiting(client), LATE))
        begun = time.perf_counter()
        outputs = _stream(client, prompts[0], settings[0]) if args.stream else _whole(client, prompts, settings)
        if args.json is not None:
            named = {"model": client.model, "address": client.address}
            most = [one.get("max_tokens") for one in settings]
            write_json(args.json, named | requests_report(outputs, most, time.perf_counter() - begun))
    return _tell_failed(outputs)


def _why_waiting(client: Any) -> str | None:
    """What an operator, or somebody who starts replicas, can do about it; None where it only takes long."""
    try:
        status = client.status()
    except (ConfigError, EngineStopped) as error:
        return f"waiting for the coordinator: {error}"
    if status.state == "paused":
        resume = "`brigade control resume` with its address for operators lets it go on"
        return f"waiting: the coordinator at {client.address} is paused; {resume}"
    if not any(one.model == client.model for one in status.replicas):
        return f"waiting: no replica of {client.model} is at {client.address}; start one with `brigade replica`"
    return None


def _tell_failed(outputs: list[Any]) -> int:
    failed = [(output, sample) for output in outputs for sample in output.samples if sample.error is not None]
    for output, sample in failed:
        print(f"brigade: error: prompt {output.request_id}, sample {sample.index}: {sample.error}", file=sys.stderr)
    return 1 if failed else 0


def _prompts(args: argparse.Namespace) -> tuple[list[Any], list[dict[str, Any]]]:
    base = sampling_settings(args)
    prompts: list[Any] = [read_stdin() if text == "-" else text for text in args.prompts]
    for text in args.token_ids:
        try:
            prompts.append([int(word) for word in text.replace(",", " ").split()])
        except ValueError:
            raise RequestError(f"--token-ids {text!r} is no list of integers; write ids with spaces between") from None
    settings = [base] * len(prompts)
    if args.prompts_file is not None:
        more, their_settings = read_prompts_file(args.prompts_file, base)
        prompts, settings = prompts + more, settings + their_settings
    if not prompts:
        if sys.stdin is None or sys.stdin.isatty():
            raise RequestError("no prompt; give one as an argument, with --prompts-file, or on standard input")
        print("no prompt is given, so standard input is read to its end as one", file=sys.stderr)
        prompts, settings = [read_stdin()], [base]
    return prompts, settings


def _stream(llm: Any, prompt: Any, params: Any) -> list[Any]:
    has_tokenizer = llm.has_tokenizer
    stream = llm.stream([prompt], params)
    try:
        for delta in stream:
            sys.stdout.write(_shown(has_tokenizer, delta.text, delta.token_ids))
            sys.stdout.flush()
    finally:
        stream.close()
        print()
    return stream.outputs


def _whole(llm: Any, prompts: list[Any], params: list[Any]) -> list[Any]:
    progress, has_tokenizer = Progress("requests"), llm.has_tokenizer
    outputs = llm.generate(prompts, params, progress)
    progress.close()
    many = len(outputs) > 1 or len(outputs[0].samples) > 1
    for output in outputs:
        for sample in output.samples:
            if many:
                print(f"--- prompt {output.request_id}, sample {sample.index} ({sample.finish_reason})")
            print(_shown(has_tokenizer, sample.text, sample.token_ids))
    return outputs


def _shown(has_tokenizer: bool, text: str, token_ids: Any) -> str:
    """A model without a tokenizer answers in ids."""
    return text if has_tokenizer else "".join(f"{i} " for i in token_ids)


def report(llm: Any, outputs: list[Any], params: list[Any], seconds: float) -> dict[str, Any]:
    from brigade.bench.report import peak_memory

    own = {"model": llm.name, "numerics_id": llm.numerics_id}
    most = [one.max_tokens for one in params]
    rest = {"steps": llm.engine.steps, "peak_memory": peak_memory(), "memory_plan": llm.plan.as_dict()}
    return own | requests_report(outputs, most, seconds) | rest


def requests_report(outputs: list[Any], most: list[int | None], seconds: float) -> dict[str, Any]:
    """`most`: the max_tokens of each."""
    tokens = sum(len(sample.token_ids) for output in outputs for sample in output.samples)
    requests = {output.request_id: request_report(output, one) for output, one in zip(outputs, most, strict=True)}
    return {"requests": requests, "seconds": seconds, "output_tokens": tokens, "throughput": tokens / seconds}


def request_report(output: Any, max_tokens: int | None) -> dict[str, Any]:
    def logprobs(found: Any) -> Any:
        if found is None:
            return None
        return [
            None if one is None else {"id": one.token_id, "logprob": one.logprob, "rank": one.rank, "top": one.top} for one in found
        ]

    samples = [
        {
            "index": sample.index, "text": sample.text, "token_ids": sample.token_ids, "seed": sample.seed,
            "finish_reason": sample.finish_reason, "stop_reason": sample.stop_reason, "error": sample.error,
            "latency": sample.metrics.latency,
            "ttft": sample.metrics.ttft, "steps": sample.metrics.steps, "preemptions": sample.metrics.preemptions,
            "cached_tokens": sample.metrics.cached_tokens, "logprobs": logprobs(sample.logprobs),
        }
        for sample in output.samples
    ]  # fmt: skip
    return {
        "prompt": output.prompt, "prompt_token_ids": output.prompt_token_ids, "max_tokens": max_tokens,
        "prompt_logprobs": logprobs(output.prompt_logprobs), "samples": samples,
    }  # fmt: skip
