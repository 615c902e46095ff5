"""Why a path is not found: what was perhaps meant by one that does not exist, or what is in the way to it."""

from __future__ import annotations

import os
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from ..errors import unread_advice
from .path import expanded

_SUFFIX = ".safetensors"


def fault_of(path: str | os.PathLike[str]) -> str:
    """For an error message: why a path that is not found cannot even be looked at, and what to do; nothing where it
    does not exist.
    """
    try:
        os.stat(expanded(path))
    except OSError as error:
        advice = unread_advice(error, "")
        return advice and f"{error.strerror}; {advice}"
    except ValueError:  # a null byte
        return ""
    return ""


def folder_fault(folder: Path) -> str:
    """For an error message: why no files are found in a folder; nothing where it can be read."""
    try:
        os.scandir(folder).close()
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', error)})" if os.path.isdir(folder) else "is no folder"
    return ""


def hint_of(name: str | os.PathLike[str]) -> str:
    """For an error message: a path of a like name that exists, or nothing. A path of Windows has its slashes turned,
    and an ending may be missing. Only the folder that the path names is read.
    """
    if "\0" in os.fspath(name):  # which no path has
        return ""
    text = str(expanded(name))
    turned = text.replace("\\", "/")
    if turned != text and os.path.exists(turned):
        return f"perhaps {turned} is meant"
    path = Path(turned)
    if not path.parent.name:  # a plain name, which may be one of many things
        return ""
    names = []
    with suppress(OSError):
        names = sorted(each for each in os.listdir(path.parent) if _may_be(path.parent / each))
    stems = {each.removesuffix(_SUFFIX): each for each in names}
    close = get_close_matches(path.name.removesuffix(_SUFFIX), stems, n=1, cutoff=0.7)
    return f"perhaps {path.parent / stems[close[0]]} is meant" if close else ""


def _may_be(path: Path) -> bool:
    return path.suffix == _SUFFIX or os.path.isdir(path)
