"""A case: a folder with `case.yaml`, which says what is run and what must be equal, and `golden.json`, what was said once.

Everything that can be refused without a model is refused here, in one line that names the file and the place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from brigade.engine.sampling.params import PARAMETERS, SamplingParams
from brigade.errors import ConfigError, UserError
from brigade.verify.compare import Terms
from brigade.verify.layout import ONE_RANK, Layout
from brigade.verify.models import ModelChoice
from brigade.verify.play import Ask
from brigade.verify.record import METRICS
from brigade.verify.run import Arrivals, Bounds, Change, Run

CASE, GOLDEN = "case.yaml", "golden.json"
SHIPPED = Path(__file__).resolve().parent / "cases"
PROMPTS = ("text", "token_ids", "chat")
RUN = ("layout", "engine", "settings", "arrivals", "passes", "threads", "kills", "at_most", "at_least")
MODEL = ("random_weights", "dtype", "quant", "skip_layers", "backend", "device", "numerics", "max_model_len")


class Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`case.yaml` as it is written. `tokenizer`: the model whose tokenizer makes ids of texts, where this one has none."""

    model: str
    prompts: tuple[str | dict[str, Any], ...]
    random_weights: int | None = None
    dtype: str = "auto"
    quant: str | None = None
    skip_layers: tuple[str, ...] = ()
    backend: str = "auto"
    device: str = "cpu"
    numerics: str | None = None
    max_model_len: int | None = None
    tokenizer: str | None = None
    params: dict[str, Any] = {}
    metrics: tuple[Literal["ids", "logprobs", "digests"], ...] = METRICS
    tolerance: float | None = None
    layout: Layout = ONE_RANK
    engine: str = "dynamic"
    settings: dict[str, Any] = {}
    arrivals: Arrivals = "together"
    passes: int = 1
    threads: int | None = None
    kills: int = 0
    at_most: Bounds = {}
    at_least: Bounds = {}
    runs: tuple[Change, ...] = ()


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    folder: Path
    model: ModelChoice
    tokenizer: str | None
    asks: tuple[Ask, ...]
    base: Run  # what is recorded
    runs: tuple[Run, ...]  # what is checked
    metrics: tuple[str, ...]
    tolerance: float | None

    @property
    def golden(self) -> Path:
        return self.folder / GOLDEN

    def terms(self, run: Run) -> Terms:
        return Terms(self.metrics_of(run), self.tolerance, run.at_most, run.at_least)

    def metrics_of(self, run: Run) -> tuple[str, ...]:
        """Logits, and so their digests, stay with the replicas where there are several."""
        return self.metrics if run.layout.dp == 1 else tuple(one for one in self.metrics if one != "digests")


def find_case(name: str) -> Path:
    """A folder, or the name of a case that comes with the package."""
    for folder in (Path(name), SHIPPED / name):
        if (folder / CASE).is_file():
            return folder
    known = ", ".join(path.name for path in shipped_cases())
    raise ConfigError(f"no case {name!r}: a case is a folder with {CASE}, or one that comes with the package: {known}")


def shipped_cases() -> list[Path]:
    return sorted(path.parent for path in SHIPPED.glob(f"*/{CASE}"))


def read_case(folder: Path) -> Case:
    path = folder / CASE
    written = _read(path)
    try:
        return _settle(folder, written)
    except UserError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read(path: Path) -> Written:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the file and its permissions") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML ({' '.join(str(error).split())[:300]}); mend the file") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings; it must be a mapping such as `model: mini`")
    try:
        return msgspec.convert(content, Written)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        where = f" at {place.strip('`.')}" if place.strip("`.") else ""
        known = f"; known: {', '.join(Written.__struct_fields__)}" if "unknown field" in problem and not where else ""
        remedy = "; add it, as docs/verify.md shows" if "missing required field" in problem else ""
        raise ConfigError(f"{path}{where}: {problem[:1].lower()}{problem[1:]}{known}{remedy}") from error


def _settle(folder: Path, written: Written) -> Case:
    if not written.prompts:
        raise ConfigError('prompts is empty; list at least one, such as `prompts: ["def f("]`')
    if "ids" not in written.metrics or len(set(written.metrics)) < len(written.metrics):
        raise ConfigError(f"metrics is {', '.join(written.metrics) or 'empty'}; name ids, and each of the others once at most")
    if written.tolerance is not None and not 0 < written.tolerance < math.inf:
        raise ConfigError(f"tolerance is {written.tolerance!r}; it must be a number above 0, or not be there")
    chosen = ModelChoice(_place(folder, written.model), **{name: getattr(written, name) for name in MODEL})
    base = Run("as recorded", **{name: getattr(written, name) for name in RUN})
    base.arrival_steps(len(written.prompts))
    if base.layout.dp > 1:
        raise ConfigError(f"dp is {base.layout.dp}, but a case is recorded from one engine; give dp under runs")
    runs = tuple(change.of(base) for change in written.runs) or (base,)
    for run in runs:
        run.arrival_steps(len(written.prompts))
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two runs are called {twice!r}; give each a name of its own")
    asks = tuple(_ask(number, given, written.params, written.metrics) for number, given in enumerate(written.prompts))
    tokenizer = None if written.tokenizer is None else _place(folder, written.tokenizer)
    return Case(
        folder.resolve().name, folder, chosen, tokenizer, asks, base, runs, written.metrics, written.tolerance
    )  # fmt: skip


def _place(folder: Path, name: str) -> str:
    """A model by its name, or a path that begins at the case's folder."""
    return str(folder / name) if (folder / name).exists() or name.startswith(".") else name


def _ask(number: int, given: str | dict[str, Any], common: Mapping[str, Any], metrics: tuple[str, ...]) -> Ask:
    own = {"text": given} if isinstance(given, str) else dict(given)
    try:
        kinds = [name for name in PROMPTS if name in own]
        if len(kinds) != 1:
            raise ConfigError(f"a prompt has exactly one of {', '.join(PROMPTS)}; this one has {', '.join(kinds) or 'none'}")
        content = own.pop(kinds[0])
        params = checked_params({**common, **own}, metrics)
        return Ask(str(number), _prompt(kinds[0], content), params)
    except UserError as error:
        raise ConfigError(f"prompt {number}: {error}") from error


def _prompt(kind: str, content: Any) -> str | list[int] | list[dict[str, Any]]:
    """A chat stays a list of messages until the model's template is there."""
    if kind == "text" and isinstance(content, str):
        return content
    if kind == "token_ids" and isinstance(content, list) and content and all(type(one) is int for one in content):
        return content
    if kind == "chat" and isinstance(content, list) and content and all(isinstance(one, dict) for one in content):
        return content
    wanted = {"text": "a text", "token_ids": "a list of ids", "chat": "a list of messages with role and content"}[kind]
    raise ConfigError(f"{kind} must be {wanted}")


def checked_params(given: Mapping[str, Any], metrics: tuple[str, ...]) -> dict[str, Any]:
    """Sampling parameters that give the same tokens each time, and what the metrics need. They stay a mapping, because the model's
    own defaults come under them."""
    unknown = sorted(set(given) - set(PARAMETERS))
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r}; known: {', '.join((*PROMPTS, *PARAMETERS))}")
    params = {**given, **({"logprobs": 0} if "logprobs" in metrics else {})}
    if "logprobs" in given:
        raise ConfigError("logprobs is a metric: name it under metrics, and not among the parameters")
    found = SamplingParams(**params)
    if found.seed is None and given.get("temperature") != 0:
        raise ConfigError("without a seed no run finds these tokens again; give temperature 0, or a seed")
    return params
