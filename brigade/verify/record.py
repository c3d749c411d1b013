"""What a run of a model said: one format for the golden file of a case, for what a check finds, and for every row of the matrix.

A record is compared by `compare.py` and by nothing else. On disk it is JSON with one list a line; numbers are written so that they
are read back with the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from brigade.errors import ConfigError
from brigade.output_files import write_file

FORMAT = "brigade-record-1"
METRICS = ("ids", "logprobs", "digests")
MEASURES = ("seconds", "steps", "preemptions", "cached_tokens", "together", "replicas_lost")


class SampleRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer to a prompt. `logprobs` and `digests` have one entry for each id: the id's log-probability, and a digest of the
    float32 logits of the whole vocabulary that it was drawn from."""

    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[float, ...] | None = None
    digests: tuple[str, ...] | None = None


class RequestRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt_token_ids: tuple[int, ...]
    samples: tuple[SampleRecord, ...]
    prompt_logprobs: tuple[float | None, ...] | None = None  # where the prompt asks for them; the first id has none

    def keeping(self, metrics: Sequence[str]) -> RequestRecord:
        """The same with these metrics alone. Log-probabilities of the prompt belong to those of the answers."""
        told = "logprobs" in metrics
        samples = tuple(
            msgspec.structs.replace(
                sample, logprobs=sample.logprobs if told else None, digests=sample.digests if "digests" in metrics else None
            )
            for sample in self.samples
        )
        return msgspec.structs.replace(self, samples=samples, prompt_logprobs=self.prompt_logprobs if told else None)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`versions`, `settings` and `measured` decide nothing: they are for whoever reads a record. What was measured is held against
    bounds alone."""

    format: str = FORMAT
    model: str = ""
    numerics_id: str
    fingerprint: str
    metrics: tuple[str, ...]
    versions: dict[str, str] = {}
    settings: dict[str, Any] = {}
    measured: dict[str, float] = {}
    requests: dict[str, RequestRecord]

    def keeping(self, metrics: Sequence[str], names: Sequence[str] | None = None) -> Record:
        """The same with these metrics alone, and these requests."""
        requests = {name: self.requests[name].keeping(metrics) for name in (self.requests if names is None else names)}
        kept = tuple(metric for metric in self.metrics if metric in metrics)
        return msgspec.structs.replace(self, metrics=kept, requests=requests)

    def check_golden(self) -> None:
        """A golden file holds answers and no failures: nothing equals a number that is none."""
        for name, request in self.requests.items():
            for index, sample in enumerate(request.samples):
                where = f"request {name}" + (f", sample {index}" if len(request.samples) > 1 else "")
                if sample.finish_reason not in ("stop", "length"):
                    raise ConfigError(f"{where} ended with {sample.finish_reason!r}, which is no answer to compare with; mend it")
                if not all(map(math.isfinite, sample.logprobs or ())):
                    raise ConfigError(f"{where} has a log-probability that is no finite number; mend the model")


def read_record(path: Path) -> Record:
    try:
        found = from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; record it with `brigade verify record {path.parent}`") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the file and its permissions") from error
    except (ValueError, RecursionError) as error:  # what msgspec refuses is a ValueError too
        raise ConfigError(f"{path} is no record ({' '.join(str(error).split())[:200]}); record the case again") from error
    if found.format != FORMAT:
        raise ConfigError(f"{path} is in format {found.format!r}; this version reads {FORMAT!r}: record the case again")
    return found


def write_record(path: Path, record: Record) -> None:
    """Whole or not at all."""
    write_file(path, to_json(record))


def from_json(text: str) -> Record:
    return msgspec.convert(json.loads(text), Record)


def to_json(record: Record) -> str:
    return _pretty(msgspec.to_builtins(record)) + "\n"


def _pretty(value: Any, depth: int = 0) -> str:
    """JSON with one key a line, and a list of plain values in one line."""
    pad, end = " " * (depth + 1), " " * depth
    if isinstance(value, dict) and value:
        inner = (f"{pad}{json.dumps(key, ensure_ascii=False)}: {_pretty(one, depth + 1)}" for key, one in value.items())
        return "{\n" + ",\n".join(inner) + f"\n{end}}}"
    if isinstance(value, (list, tuple)) and any(isinstance(one, (dict, list, tuple)) for one in value):
        return "[\n" + ",\n".join(f"{pad}{_pretty(one, depth + 1)}" for one in value) + f"\n{end}]"
    return json.dumps(value, ensure_ascii=False)
