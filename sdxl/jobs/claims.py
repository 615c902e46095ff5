"""`claims`: a file of which processes lock single bytes, to share a job. The system releases the locks of a process
whenever that ends.

The byte of an item's number belongs to the process that generates it. `_CHANGE` belongs to the one that looks at the
plan or changes it. Each process that works on the job, or is about to, has one of the bytes below that.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError
from ..images.output import remedy

if sys.platform == "win32":
    import msvcrt

    def _lock_here(file: int, count: int) -> bool:
        """Lock so many bytes from the file's position on; Windows' own way to wait for them gives up after 10 s."""
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, count)
        except PermissionError:
            return False
        return True

else:
    import fcntl

_CHANGE = 2**30 - 1  # more than any job has items; older versions lock all bytes up to here to change a plan
_PAUSE = 0.02  # seconds

Range = tuple[int, int]
"""The first byte that is locked, and how many."""


class Claims:
    """The locks of this process on one job. They belong to the process, not to the object: a process works on one job
    at a time, and `close` releases all of them.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises `OutputError`."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}; {remedy(error)}") from error

    def close(self) -> None:
        """Release all locks."""
        os.close(self._file)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Wait until no other process looks at the plan."""
        self._lock((_CHANGE, 1), wait=True)
        try:
            yield
        finally:
            self.release([(_CHANGE, 1)])

    def are_all_free(self) -> bool:
        """Whether no other process works on the job, or is about to."""
        everything = 0, _CHANGE
        if not self._lock(everything):
            return False
        self.release([everything])
        return True

    def join(self) -> None:
        """Stay at the job until `close`: no other process can change it."""
        byte = _CHANGE - 1
        while not self._lock((byte, 1)):
            byte -= 1

    def claim(self, numbers: Sequence[int]) -> list[Range]:
        """Lock the bytes of these ascending numbers: all from the first to the last at once, so that another process
        that wants the same finds all or nothing; else those that are free.
        """
        whole = numbers[0], numbers[-1] + 1 - numbers[0]
        if self._lock(whole):
            return [whole]
        return [(number, 1) for number in numbers if self._lock((number, 1))]

    def release(self, ranges: Sequence[Range]) -> None:
        """Unlock what was locked."""
        for first, count in ranges:
            if sys.platform == "win32":
                os.lseek(self._file, first, os.SEEK_SET)
                msvcrt.locking(self._file, msvcrt.LK_UNLCK, count)
            else:
                fcntl.lockf(self._file, fcntl.LOCK_UN, count, first)

    def _lock(self, range: Range, wait: bool = False) -> bool:
        """False if another process has one of these bytes."""
        first, count = range
        try:
            if sys.platform == "win32":
                os.lseek(self._file, first, os.SEEK_SET)
                while not _lock_here(self._file, count):
                    if not wait:
                        return False
                    time.sleep(_PAUSE)
            else:
                fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), count, first)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be locked: {error.strerror}; choose an --output-dir on a file system that has "
                "locks"
            ) from error
        return True
