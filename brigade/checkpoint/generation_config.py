"""What a checkpoint's `generation_config.json` proposes for sampling.

Only what would have an effect where the file comes from: the numbers count if it says `do_sample`. They are defaults, for
a request that brings no parameters of its own. Lengths are not read: how much to say is the caller's to decide.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from brigade.errors import CheckpointError

NAME = "generation_config.json"
SAMPLED = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}  # theirs: ours
ALWAYS = {"repetition_penalty": "repetition_penalty"}


def sampling_defaults(folder: Path | None) -> dict[str, Any]:
    """Sampling parameters by our names; empty where there is no file, or nothing in it."""
    if folder is None or not (folder / NAME).exists():
        return {}
    file = folder / NAME
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); check the file and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); fetch the file again, or remove it") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds no settings; fetch the file again, or remove it")
    names = {**SAMPLED, **ALWAYS} if values.get("do_sample") else ALWAYS
    return {ours: values[theirs] for theirs, ours in names.items() if values.get(theirs) is not None}
