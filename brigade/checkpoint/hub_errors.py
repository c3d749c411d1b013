"""What goes wrong between here and the hub, in one line with the remedy."""

from __future__ import annotations

import errno
from pathlib import Path

from brigade.errors import CheckpointError, in_one_line

OVERLOADED = (408, 425, 429)  # and all from 500 on: the same request may be answered later
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def may_pass(error: Exception) -> bool:
    """Whether the same attempt may succeed later: the network broke off, or the hub has too much to do."""
    error = _cause(error)
    status = _status(error)
    if status is not None:
        return status in OVERLOADED or status >= 500
    return not _is_of_the_disk(error) and not _is_bad_name(error)


def refusal(error: Exception, repo: str, revision: str, endpoint: str, cache: Path) -> CheckpointError:
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    error = _cause(error)
    status = _status(error)
    if isinstance(error, GatedRepoError):  # one of the next kind too
        text = (
            f"{repo} is gated: accept its terms at {endpoint}/{repo}, and set HF_TOKEN to a token of yours, or keep one by "
            "`hf auth login`"
        )
    elif isinstance(error, RevisionNotFoundError):
        text = f"{repo} has no revision {revision!r}; write a branch, a tag or a commit behind @, or drop it"
    elif (
        isinstance(error, RepositoryNotFoundError)
        or _is_bad_name(error)
        or status == 404
        or (status == 401 and get_token() is None)  # a hub tells no stranger whether there is such a model
    ):
        text = (
            f"no model {repo!r}: there is no such folder, and {endpoint} has no such model, or shows it to few; mend the name, or "
            "set HF_TOKEN to a token that may read it"
        )
    elif status in (401, 403):
        text = (
            f"{endpoint} refuses to give {repo} (status {status}); set HF_TOKEN to a token that is valid and may read it, or unset "
            "it for a public model"
        )
    elif _is_of_the_disk(error) and getattr(error, "errno", None) in FULL:
        text = f"the disk of {cache} is full: {repo} could not be written; make room, or set HF_HOME to a folder on another disk"
    elif _is_of_the_disk(error):
        text = f"the cache {cache} cannot be written ({in_one_line(error)[:200]}); set HF_HOME to a folder that can"
    else:
        text = (
            f"{repo} could not be fetched from {endpoint} ({in_one_line(error)[:200]}); check the network and try again: files "
            "that are whole stay in the cache"
        )
    return CheckpointError(text)


def _cause(error: Exception) -> Exception:
    """The library says of a request that failed only that a file is nowhere; the cause is behind it."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return error.__cause__ if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception) else error


def _status(error: Exception) -> int | None:
    """Of an answer that was no success."""
    from huggingface_hub.errors import HfHubHTTPError

    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_of_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (*FULL, *FORBIDDEN)


def _is_bad_name(error: Exception) -> bool:
    from huggingface_hub.errors import HFValidationError

    return isinstance(error, HFValidationError)
