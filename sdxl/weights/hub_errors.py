"""What can go wrong between here and the Hugging Face hub, in one sentence each."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import is_disk_full

BUSY = (408, 429, 500, 502, 503, 504)
FOREIGN = "what answers is not the hub, perhaps a proxy or a login page; check the network and HF_ENDPOINT"
_REFUSALS = {
    401: "the hub wants a valid login: run `hf auth login`, or correct HF_TOKEN",
    403: "the hub refuses access: accept the model's terms there, and check that your token may read it",
    404: "the server does not know it; check the name and HF_ENDPOINT",
    429: "the hub has had too many requests from here; wait some minutes, or log in with `hf auth login`",
}


def explain(name: str, error: Exception, file: str = "") -> str:
    """One sentence: what could not be had, why, and what to do."""
    from huggingface_hub import errors

    what = f"{name}/{file}" if file else name
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its terms on the hub and log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no such revision on the hub; check revision="
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{name} is neither a local path nor a model on the hub that you may read"
    if isinstance(error, OSError) and of_disk(error):
        return _unwritable(what, error)
    return f"{what} cannot be fetched: {trouble(error)}"


def _unwritable(what: str, error: OSError) -> str:
    """The sentence for a cache that takes no more."""
    if is_disk_full(error):
        why = "the disk is full or limits the size of files"
        advice = "free space there or set HF_HOME to a folder on another disk, and run the same command again"
    else:
        why, advice = "it cannot be written", "make it writable or set HF_HOME to a folder that is"
    return f"{what} cannot be kept in the hub's cache {cache()}: {why} ({error.strerror}); {advice}"


def trouble(error: BaseException) -> str:
    """What is wrong between here and the hub, and what to do about it."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        return trouble(error.__cause__)
    status, kind, reason = status_of(error), type(error).__name__, str(error).strip().split("\n")[0]
    if status in _REFUSALS:
        return _REFUSALS[status]
    if status >= 500:
        return f"the hub has trouble itself (status {status}); try again later"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the hub cannot be reached because HF_HUB_OFFLINE is set; unset it to fetch the model"
    if isinstance(error, foreign()):
        return FOREIGN
    if "Timeout" in kind:
        return "the hub does not answer in time; check the network and HF_ENDPOINT, and try again"
    if kind == "TooManyRedirects":
        return "the hub's address leads round in a circle; check HF_ENDPOINT and the network's proxy"
    if status or isinstance(error, ValueError):
        return reason
    return f"the hub cannot be reached ({reason or kind}); check the network and HF_ENDPOINT, and try again"


def status_of(error: BaseException) -> int:
    """The HTTP status of an answer; 0 where there was none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def failures() -> tuple[type[Exception], ...]:
    """What `huggingface_hub` lets through when the network, the server or the disk fails, which differs by version."""
    from huggingface_hub import errors

    return OSError, ValueError, RuntimeError, getattr(errors, "HTTPError", OSError)


def foreign() -> tuple[type[Exception], ...]:
    """What `huggingface_hub` raises when the answer is not one of the hub, such as a proxy's page."""
    from huggingface_hub import errors

    return json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, errors.FileMetadataError


def passing(error: Exception) -> bool:
    """Whether a failure may be gone in a second."""
    if status_of(error):
        return status_of(error) in BUSY
    return not of_disk(error) and not isinstance(error, (ValueError, RuntimeError))


def of_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and bool(error.errno) and not status_of(error)


def cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()
