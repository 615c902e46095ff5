"""The state of a batch job on disk, for its next start and for other processes that work on it.

Beside the pictures a folder `job` holds `plan.json` (which job this is), `done.jsonl` (a line for each finished batch)
and `claims`, a file of which one byte is locked for each batch that somebody draws. The system lets go of locks when a
process ends, however it ends.
"""

from __future__ import annotations

import glob
import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import OutputError
from .job import Batch, Job
from .png import PART, remedy, write_png

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@dataclass(frozen=True)
class Place:
    """Where a job's results go, and the seed of its first picture."""

    folder: Path
    first_seed: int

    def count_done(self, batches: Sequence[Batch]) -> int:
        """How many pictures of these batches are finished."""
        with Record(self) as record:
            return sum(len(batch.files) for batch in batches) - sum(len(batch.files) for batch in record.left(batches))


def open_place(folder: Path, job: Job, first_seed: int | None) -> Place:
    """Begin a job in a folder, or go on with it. Raises `OutputError` if another job's or other pictures are there."""
    plan = folder / "job/plan.json"
    try:
        plan.parent.mkdir(parents=True, exist_ok=True)
        taken = [file for file in job.files if (folder / file).exists()]
        if taken and not plan.exists():
            raise OutputError(f"{folder / taken[0]} is there already; choose an empty --output-dir")
        if not plan.exists():
            seed = secrets.randbelow(2**32) if first_seed is None else first_seed
            _create(plan, json.dumps({"job": job.fingerprint, "first_seed": seed}) + "\n")
        data = json.loads(plan.read_text(encoding="utf-8"))
        known, seed = data["job"], int(data["first_seed"])
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; {remedy(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{plan} is damaged ({error!r}); choose another --output-dir") from error
    if known != job.fingerprint:
        raise OutputError(
            f"{folder} holds another job: its lines, its model, its arguments or its batch size were others; choose "
            "another --output-dir, or give that job's command to go on with it"
        )
    return Place(folder, seed)


def _create(path: Path, text: str) -> None:
    """Write a new file as a whole, unless another process has done it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Record:
    """Which batches are finished, and which are claimed. Use it in a `with` statement, which lets go of the claims."""

    def __init__(self, place: Place) -> None:
        self.folder = place.folder
        self._done: dict[int, list[str]] = {}
        self._read = 0  # bytes of done.jsonl
        self._file = self._open("done.jsonl")
        self._claims = self._open("claims")

    def _open(self, name: str) -> int:
        path = self.folder / "job" / name
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}; {remedy(error)}") from error

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        os.close(self._claims)

    @property
    def pictures(self) -> int:
        """How many pictures are finished."""
        return sum(map(len, self._done.values()))

    def left(self, batches: Sequence[Batch]) -> list[Batch]:
        """Those that are not finished, by this process or another; a picture that was taken away is drawn again."""
        self._refresh()
        for batch in batches:
            if batch.number in self._done and not all((self.folder / file).is_file() for file in batch.files):
                del self._done[batch.number]
        return [batch for batch in batches if batch.number not in self._done]

    def claim(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Those that are neither finished nor claimed by another process, each claimed when it is asked for."""
        for batch in batches:
            if not self._lock(batch.number):
                continue
            self._refresh()
            if batch.number in self._done:
                self.release(batch)
                continue
            self._tidy(batch)
            yield batch

    def finish(self, batch: Batch, pictures: Sequence[bytes]) -> None:
        """Write a batch's PNGs, and then that they are written."""
        for file, data in zip(batch.files, pictures, strict=True):
            write_png(data, self.folder / file)
        entry = {"batch": batch.number, "lines": batch.lines, "files": batch.files, "seeds": batch.arguments["seed"]}
        try:
            os.write(self._file, (self._rest() + json.dumps(entry) + "\n").encode())
            os.fsync(self._file)
        except OSError as error:
            path = self.folder / "job/done.jsonl"
            raise OutputError(f"{path} cannot be written: {error.strerror}; {remedy(error)}") from error
        self._refresh()

    def _refresh(self) -> None:
        """Read what was recorded since the last time."""
        while data := self._unread():
            whole = data.rfind(b"\n") + 1
            if not whole:
                return  # another process is at it
            self._read += whole
            for line in data[:whole].split(b"\n"):
                if (entry := _entry(line)) is not None:
                    self._done[entry["batch"]] = entry["files"]

    def _unread(self) -> bytes:
        os.lseek(self._file, self._read, os.SEEK_SET)
        return os.read(self._file, 1 << 20)

    def _rest(self) -> str:
        """What ends a line that a crash cut off, if the record ends with one."""
        if not os.lseek(self._file, 0, os.SEEK_END):
            return ""
        os.lseek(self._file, -1, os.SEEK_END)
        return "" if os.read(self._file, 1) == b"\n" else "\n"

    def _tidy(self, batch: Batch) -> None:
        """Remove what a process that was killed left of a batch's pictures."""
        for file in batch.files:
            for path in glob.glob(glob.escape(str(self.folder / file)) + "*" + PART):
                Path(path).unlink(missing_ok=True)

    def _lock(self, number: int) -> bool:
        try:
            if sys.platform == "win32":
                os.lseek(self._claims, number, os.SEEK_SET)
                msvcrt.locking(self._claims, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise OutputError(
                f"{self.folder / 'job/claims'} cannot be locked: {error.strerror}; choose an --output-dir on a file "
                "system that has locks"
            ) from error
        return True

    def release(self, batch: Batch) -> None:
        """Let others have a batch."""
        if sys.platform == "win32":
            os.lseek(self._claims, batch.number, os.SEEK_SET)
            msvcrt.locking(self._claims, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, batch.number)


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line of done.jsonl; None for an empty one, and for one that a crash cut off."""
    try:
        entry = json.loads(line)
        return {"batch": int(entry["batch"]), "files": list(entry["files"])}
    except (ValueError, KeyError, TypeError):
        return None
