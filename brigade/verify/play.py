"""Play a list of requests through an engine that is stepped by hand, and keep what they said as records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from brigade.engine.engine import Engine
from brigade.engine.outputs import RequestOutput, Sample
from brigade.engine.prompt import ChatPrompt
from brigade.engine.sampling import Sampler
from brigade.tokenizer import Tokenizer
from brigade.verify.digests import DigestingSampler
from brigade.verify.models import Loaded
from brigade.verify.record import MEASURES, METRICS, Record, RequestRecord, SampleRecord
from brigade.verify.run import Run

PACKAGES = ("brigade-llm", "torch", "numpy", "tokenizers")


@dataclass(frozen=True)
class Ask:
    """`prompt`: a text, ids, or the messages of a chat; `params`: over the model's own defaults."""

    name: str
    prompt: Any
    params: Mapping[str, Any]


def play(
    loaded: Loaded,
    run: Run,
    asks: Sequence[Ask],
    metrics: Sequence[str] = METRICS,
    tokenizer: Tokenizer | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """One record for each pass; what was measured adds up over them. `tokenizer` makes ids of texts in place of the model's own."""
    llm = loaded.llm
    prompts = [read_prompt(ask.prompt, tokenizer, llm.chat_prompt) for ask in asks]
    params = [llm.params(**ask.params) for ask in asks]
    engine = llm.make_engine(run.engine, Sampler() if run.plain else None, **run.settings)
    records, measured = [], dict.fromkeys(MEASURES, 0.0)
    try:
        for _ in range(run.passes):
            loaded.sampler.seen.clear()
            begun = engine.clock()
            for number in _arriving(engine, run, len(asks), measured, progress):
                engine.submit(prompts[number], params[number], asks[number].name)
            measured["seconds"] += engine.clock() - begun
            measured["steps"] = engine.steps
            outputs = [engine.take_output(ask.name) for ask in asks]
            engine.check()
            for sample in (sample for output in outputs for sample in output.samples):
                measured["preemptions"] += sample.metrics.preemptions
                measured["cached_tokens"] += sample.metrics.cached_tokens
            records.append(_record(loaded, run, metrics, outputs, dict(measured)))
    finally:
        engine.close()  # its cache, which ranks would hold on to
    return records


def _arriving(
    engine: Engine, run: Run, count: int, measured: dict[str, float], progress: Callable[[int, int], None] | None
) -> Iterator[int]:
    """The numbers of the prompts, each when it comes; between them the engine is stepped, and in the end until all is done."""
    coming = run.arrival_steps(count)[::-1]  # the next one last
    step = done = 0
    while coming or engine.has_work:
        while coming and (coming[-1][0] <= step or not engine.has_work):
            step = max(step, coming[-1][0])  # where nothing is left to do, the next one comes at once
            yield coming.pop()[1]
        ended = sum(delta.finish_reason is not None for delta in engine.step())
        measured["together"] = max(measured["together"], engine.num_running + ended)
        step, done = step + 1, done + ended
        if progress is not None:
            progress(done, count)


def read_prompt(prompt: Any, tokenizer: Tokenizer | None, write_chat: Callable[[Any], ChatPrompt]) -> Any:
    """An ask's as an engine or a client takes it: `write_chat` makes one of a chat, `tokenizer`, if it is there, ids of a text."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], Mapping):
        return write_chat(prompt)
    return tokenizer.encode(prompt) if tokenizer is not None and isinstance(prompt, str) else prompt


def _record(
    loaded: Loaded, run: Run, metrics: Sequence[str], outputs: Sequence[RequestOutput], measured: dict[str, float]
) -> Record:
    llm = loaded.llm
    settings = {
        "layout": str(run.layout), "engine": run.engine, **run.settings, "arrivals": run.arrivals, "passes": run.passes,
        "threads": llm.backend.threads, "formats": str(llm.number_formats),
    }  # fmt: skip
    requests = {output.request_id: request_record(output, metrics, loaded.sampler) for output in outputs}
    return Record(
        model=llm.name, numerics_id=llm.numerics_id, fingerprint=llm.fingerprint, metrics=tuple(metrics), versions=versions(),
        settings=settings, measured=measured, requests=requests,
    )  # fmt: skip


def request_record(output: RequestOutput, metrics: Sequence[str], sampler: DigestingSampler | None = None) -> RequestRecord:
    """`sampler`: the one that saw the logits; without it there are no digests."""
    prompt, logprobs = output.prompt_token_ids, output.prompt_logprobs
    samples = tuple(_sample(sample, output.request_id, len(prompt), metrics, sampler) for sample in output.samples)
    told = None if logprobs is None else tuple(None if one is None else one.logprob for one in logprobs)
    return RequestRecord(tuple(prompt), samples, told)


def _sample(
    sample: Sample, name: str, start: int, metrics: Sequence[str], sampler: DigestingSampler | None
) -> SampleRecord:  # fmt: skip
    logprobs = digests = None
    if "logprobs" in metrics and sample.logprobs is not None:
        logprobs = tuple(one.logprob for one in sample.logprobs)
    if sampler is not None and "digests" in metrics:
        keys = [(name, sample.index, place) for place in range(start, start + len(sample.token_ids))]
        digests = tuple(sampler.seen[key] for key in keys if key in sampler.seen)  # one that is missing is a difference
    return SampleRecord(tuple(sample.token_ids), sample.finish_reason, logprobs, digests)


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
