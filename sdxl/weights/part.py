"""A file while it is written: under a temporary name beside its own, which it gets when it is complete."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

PART = ".part"  # the suffix of a file while it is written

_PATIENCE = 2.0  # seconds
_LONGEST = 40  # characters of a prefix: names have at most 255 bytes


def part_prefix(path: Path) -> str:
    """The prefix of the temporary name of `path`, short enough for the file system's limit. No other name has it."""
    name = path.name
    return name if len(name) <= _LONGEST else name[:24] + hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def open_part(path: Path, folder: Path | None = None) -> tuple[int, str]:
    """A handle of a new, empty file beside `path`, or in a `folder` of the same file system, and its temporary name.

    The permissions are those that `open` would give: of the file that is there, else what the umask leaves. Raises
    `OSError`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        temporary = str((folder or path.parent) / f"{part_prefix(path)}{secrets.token_hex(4)}{PART}")
        with suppress(FileExistsError):
            handle = os.open(temporary, flags, 0o666)
            break
    if sys.platform == "win32":  # whose only permission, to write, a file needs until it has its name
        return handle, temporary
    with suppress(OSError):  # nothing is there, or the file system has no permissions
        there = os.lstat(path)
        if stat.S_ISREG(there.st_mode):
            os.chmod(temporary, there.st_mode & 0o777)
    return handle, temporary


def keep(temporary: str | Path) -> None:
    """Have a complete file on its disk, so that its name never stands for less, whatever stops the machine. Network
    drives say only then that they are full. Raises `OSError`.
    """
    with open(temporary, "r+b") as file:  # Windows refuses it for a file that is open to be read
        os.fsync(file.fileno())


def put_in_place(temporary: str | Path, path: Path) -> None:
    """Give a complete file its name. Windows refuses that while another program has a file of either name open, as
    scanners for viruses have each new one: there it is tried again for a while. Raises `OSError`.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return os.replace(temporary, path)
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > end:
                raise
        time.sleep(0.05)
