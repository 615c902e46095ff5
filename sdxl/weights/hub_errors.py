"""One sentence for each failure of the Hugging Face hub, of the network and of the cache."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import is_disk_full

BUSY = (408, 429, 500, 502, 503, 504)
FOREIGN = "the answer is not from the hub, perhaps from a proxy or a login page; check the network and HF_ENDPOINT"
_REFUSALS = {
    401: "the hub requires a valid login; run `hf auth login`, or correct HF_TOKEN",
    403: "the hub refuses access; accept the model's terms there, and check that your token may read it",
    404: "the server does not have it; check the name and HF_ENDPOINT",
    429: "the hub received too many requests from this address; wait some minutes, or log in with `hf auth login`",
}


def explain(name: str, error: Exception, file: str = "") -> str:
    """One sentence: the model or file that failed, the reason, and the advice."""
    from huggingface_hub import errors

    target = f"{name}/{file}" if file else name
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated; accept its terms on the hub and log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no such revision on the hub; check revision="
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{name} is neither a local path nor a model on the hub that you may read; check the name and your login"
    if isinstance(error, OSError) and of_disk(error):
        return _unwritable(target, error)
    return f"{target} cannot be downloaded: {trouble(error)}"


def _unwritable(target: str, error: OSError) -> str:
    """The sentence for a cache that cannot be written."""
    if is_disk_full(error):
        reason = "the disk is full or limits the size of files"
        advice = "free space there or set HF_HOME to a folder on another disk, and run the same command again"
    else:
        reason, advice = "it cannot be written", "make it writable or set HF_HOME to a folder that is"
    return f"{target} cannot be saved in the hub's cache {cache()}: {reason} ({error.strerror}); {advice}"


def trouble(error: BaseException) -> str:
    """The reason for a failure of the hub or the network, and the advice."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        return trouble(error.__cause__)
    status, name, reason = status_of(error), type(error).__name__, str(error).strip().split("\n")[0]
    if status in _REFUSALS:
        return _REFUSALS[status]
    if status >= 500:
        return f"the hub has an internal error (status {status}); try again later"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the hub cannot be reached because HF_HUB_OFFLINE is set; unset it to download the model"
    if isinstance(error, foreign()):
        return FOREIGN
    if "Timeout" in name:
        return "the hub does not answer in time; check the network and HF_ENDPOINT, and try again"
    if name == "TooManyRedirects":
        return "the hub's address redirects in a circle; check HF_ENDPOINT and the network's proxy"
    if isinstance(error, RuntimeError) and "home directory" in reason:  # pathlib's words, of a user without an entry
        return "this user has no home, where the hub's cache would be; set HF_HOME to a folder"
    if status or isinstance(error, ValueError):
        return reason
    return f"the hub cannot be reached ({reason or name}); check the network and HF_ENDPOINT, and try again"


def status_of(error: BaseException) -> int:
    """The HTTP status of an answer; 0 if there was no answer."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def failures() -> tuple[type[Exception], ...]:
    """The errors of `huggingface_hub` for a failure of the network, the server or the disk, in all its versions."""
    from huggingface_hub import errors

    return OSError, ValueError, RuntimeError, getattr(errors, "HTTPError", OSError)


def foreign() -> tuple[type[Exception], ...]:
    """The errors of `huggingface_hub` for an answer that is not from the hub, such as a proxy's page."""
    from huggingface_hub import errors

    return json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, errors.FileMetadataError


def is_temporary(error: Exception) -> bool:
    """Whether a failure may be over in a second."""
    if status_of(error):
        return status_of(error) in BUSY
    return not of_disk(error) and not isinstance(error, (ValueError, RuntimeError))


def of_disk(error: Exception) -> bool:
    """Whether the disk failed, and not the network."""
    return isinstance(error, OSError) and bool(error.errno) and not status_of(error)


def cache() -> Path:
    """The folder of the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()
