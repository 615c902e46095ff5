"""The user's cache of hashes: a file that was hashed once is not read again, and one that was moved is found.

It is a file of JSON lines that only grows: processes add whole lines to its end, and a damaged line counts as absent. A
line holds as long as its files have the sizes and times that it states. Without a cache that can be read and written,
files are hashed again: nothing here is an error.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["file", "folder", "tensors"]
"""What is hashed: a file's bytes, a folder's weight files, or the bytes behind a safetensors file's header."""

_MOST_BYTES = 64 * 2**20
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Hashed:
    """A file or folder at the absolute `path`, as it was when it was hashed. A folder's weight `files` are named
    relative to it. `size`, `mtime_ns` and `ctime_ns` are the sums of their bytes and times: `cp -p`, `mv` and archives
    give another file of one size the same mtime, but not the same ctime.
    """

    kind: Kind
    path: str
    files: tuple[str, ...]
    size: int
    mtime_ns: int
    ctime_ns: int


def observe(kind: Kind, path: str | os.PathLike[str], files: Sequence[str] = ()) -> Hashed:
    """A file or folder as it is now. Raises `OSError`."""
    real = os.path.realpath(path)
    found = [os.stat(os.path.join(real, name)) for name in files] if files else [os.stat(real)]
    times = sum(s.st_mtime_ns for s in found), sum(s.st_ctime_ns for s in found)
    return Hashed(kind, real, tuple(files), sum(s.st_size for s in found), *times)


def recall(hashed: Hashed) -> str | None:
    """The hash of a file or folder, if it is in the cache."""
    return _hashes().get(hashed)


def find_paths(sha256: str) -> list[Path]:
    """The files and folders whose hash begins with `sha256`, and that are as they were; the latest first."""
    found = [each for each, known in _hashes().items() if known.startswith(sha256) and each.kind != "tensors"]
    return [Path(each.path) for each in reversed(found) if _is_unchanged(each)]


def _is_unchanged(hashed: Hashed) -> bool:
    try:
        return observe(hashed.kind, hashed.path, hashed.files) == hashed
    except (OSError, ValueError):
        return False


def remember(hashed: Hashed, sha256: str) -> None:
    """Add a hash, if the cache can be written."""
    # begins with a new line too: half a line, of a process that was killed, spoils no other
    line = f"\n{json.dumps(asdict(hashed) | {'sha256': sha256})}\n".encode()
    with suppress(OSError, RuntimeError):
        path = cache_folder() / _NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            os.write(descriptor, line)  # at once: lines of several processes do not mix
        finally:
            os.close(descriptor)


def cache_folder() -> Path:
    """The folder of this package's caches: `SDXL_CACHE_DIR`, else `sdxl` in the user's cache directory. Raises
    `RuntimeError` for a user without a home.
    """
    if own := os.environ.get("SDXL_CACHE_DIR"):
        return Path(own).expanduser()
    if users := os.environ.get("XDG_CACHE_HOME"):
        return Path(users).expanduser() / "sdxl"
    if sys.platform == "win32" and (users := os.environ.get("LOCALAPPDATA")):
        return Path(users) / "sdxl"
    return Path("~/Library/Caches/sdxl" if sys.platform == "darwin" else "~/.cache/sdxl").expanduser()


_NAME = "hashes.jsonl"


@dataclass
class _Contents:
    """What was read of a cache: its file, how many bytes of it, and the hashes."""

    identity: tuple[str, int] = ("", 0)
    end: int = 0
    hashes: dict[Hashed, str] = field(default_factory=dict)


_contents = _Contents()
_lock = threading.Lock()


def _hashes() -> dict[Hashed, str]:
    """The hashes in the cache, the oldest first. Only what was added since the last call is read."""
    global _contents
    with _lock, suppress(OSError, RuntimeError):
        path = cache_folder() / _NAME
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            identity = (str(path), state.st_ino)
            if identity != _contents.identity or state.st_size < _contents.end:
                _contents = _Contents(identity)
            file.seek(_contents.end)
            # not `_MOST_BYTES` themselves: a read takes memory for all that it asks for
            data = file.read(min(state.st_size - _contents.end, _MOST_BYTES))
        whole = data[: data.rfind(b"\n") + 1]
        _contents.end += len(whole)
        for line in whole.splitlines():
            for hashed, sha256 in _parse(line):
                _contents.hashes.pop(hashed, None)
                _contents.hashes[hashed] = sha256
        return dict(_contents.hashes)
    return {}


def _parse(line: bytes) -> Iterator[tuple[Hashed, str]]:
    """The hash in a line; none if the line is damaged."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        data: dict[str, Any] = json.loads(line)
        sha256 = data.pop("sha256")
        hashed = Hashed(**(data | {"files": tuple(data["files"])}))
        types = {"kind": str, "path": str, "size": int, "mtime_ns": int, "ctime_ns": int}
        are_right = all(type(data[name]) is each for name, each in types.items())
        if are_right and all(isinstance(name, str) for name in hashed.files) and _SHA256.fullmatch(sha256):
            yield hashed, sha256
