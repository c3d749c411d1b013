"""How much one request may ask for, whatever its API: what all of its answers may become together, and lists that every token is
held against."""

from __future__ import annotations

from brigade.engine.prompt import ChatPrompt, Prompt
from brigade.engine.sampling.params import MAX_LOGPROBS, SamplingParams
from brigade.errors import RequestError
from brigade.serve.job import Job
from brigade.serve.limits import MOST_BIASES, MOST_LOGPROBS, MOST_STOP_CHARACTERS, MOST_STOP_IDS, MOST_TOKENS
from brigade.serve.served import Served


def check_size(job: Job, served: Served) -> None:
    """Speaks of fields by the engine's names, as whoever runs the job does."""
    _check_lists(job)
    n, rows, answer = job.params.get("n", 1), job.params.get("logprobs"), _longest_answer(job, served)
    tokens = job.samples * answer
    of = f"{len(job.prompts)} prompts with n {n}" if len(job.prompts) > 1 else f"n {n}"
    if tokens > MOST_TOKENS:
        raise RequestError(
            f"{of} and up to {answer} tokens in each answer are {tokens} tokens; {MOST_TOKENS} are allowed in one request: "
            "lower max_tokens or n, or ask in several requests", "max_tokens",
        )  # fmt: skip
    answers = tokens * _each(rows) if job.samples > 1 else 0  # one alone takes as long to be said as several requests would
    told = answers + _of_prompts(job, served) * (n if job.params.get("echo") else 1)
    if told > MOST_LOGPROBS:
        raise RequestError(
            f"{of} and up to {answer} tokens in each answer may have {told} log-probabilities, those of the prompts among "
            f"them; {MOST_LOGPROBS} are allowed in one request: lower max_tokens or n, or ask for fewer of them",
            "prompt_logprobs" if rows is None else "logprobs",
        )  # fmt: skip


def _check_lists(job: Job) -> None:
    stop = job.params.get("stop", ())
    sizes = {
        "stop": (len(stop) if isinstance(stop, str) else sum(map(len, stop)), MOST_STOP_CHARACTERS, "characters"),
        "stop_token_ids": (len(job.params.get("stop_token_ids", ())), MOST_STOP_IDS, "ids"),
        "logit_bias": (len(job.params.get("logit_bias", ())), MOST_BIASES, "tokens"),
    }
    for name, (size, most, what) in sizes.items():
        if size > most:
            raise RequestError(f"{name} has {size} {what}; {most} are allowed: give fewer", name)


def _each(rows: int | None) -> int:
    """Log-probabilities at one token: its own, and so many of the most likely. More of them than an engine gives, it refuses."""
    return 0 if rows is None else 1 + min(rows, MAX_LOGPROBS)


def _of_prompts(job: Job, served: Served) -> int:
    """Log-probabilities. The length of a text is looked for only where they are asked for."""
    each = _each(job.params.get("prompt_logprobs"))
    return each and each * sum(_longest_prompt(prompt, served) for prompt in job.prompts)


def _longest_answer(job: Job, served: Served) -> int:
    default = served.defaults.get("max_tokens", SamplingParams.max_tokens)
    most = job.params.get("max_tokens", default)
    room = max(served.positions - min(map(_known_length, job.prompts), default=0), 0)
    return room if most is None else min(most, room)


def _known_length(prompt: Prompt) -> int:
    """Positions that a prompt takes for certain. Of a text they are not known before it is read."""
    return 0 if isinstance(prompt, (str, ChatPrompt)) else len(prompt)


def _longest_prompt(prompt: Prompt, served: Served) -> int:
    """Tokens, of which a text has no more than bytes."""
    text = prompt.text if isinstance(prompt, ChatPrompt) else prompt
    size = len(text.encode("utf-8", "replace")) if isinstance(text, str) else len(text)
    return min(size, served.positions)
