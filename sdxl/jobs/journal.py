"""`done.jsonl`: a line for each finished item of a job, written after its files. Lines are only appended."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from ..images.output import remedy
from .job import Job, WorkItem, gather

_CHUNK = 1 << 20  # bytes
_LONGEST = 1 << 24  # bytes of a line: more than 2^16 images take


@dataclass(frozen=True)
class Entry:
    """A line: the files of an item, or of the items of a batch where an older version wrote it. `is_ours` says whether
    the job would generate the same images.
    """

    files: tuple[str, ...]
    is_ours: bool


class Journal:
    """The finished images of a job, of all processes."""

    def __init__(self, folder: Path, job: Job, first_seed: int) -> None:
        """Read the file in the folder `job` of `folder`. Raises `OutputError`."""
        self._folder, self._job, self._first_seed = folder, job, first_seed
        self._path = folder / "job/done.jsonl"
        self._latest: dict[str, Entry] = {}  # for each file
        self._read, self._rest = 0, b""  # bytes of the file, and the line at the end that is not complete
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}; {remedy(error)}") from error
        self.refresh()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    @property
    def images(self) -> int:
        """The number of finished images."""
        return sum(entry.is_ours for entry in self._latest.values())

    def has(self, item: WorkItem) -> bool:
        """Whether an item is recorded, by this process or, as of the last `refresh`, by another."""
        return all(file in self._latest and self._latest[file].is_ours for file in item.files)

    def forget_missing(self) -> None:
        """Forget the images whose files were removed: they are to be generated again."""
        self._latest = {file: entry for file, entry in self._latest.items() if os.path.isfile(self._folder / file)}

    def finished(self) -> list[str]:
        """The files of the recorded images, in the order in which they were recorded."""
        return [file for file, entry in self._latest.items() if entry.is_ours and os.path.isfile(self._folder / file)]

    def foreign(self) -> list[str]:
        """The files of recorded images that the job would not generate as they are."""
        others = {entry.files: entry for entry in self._latest.values() if not entry.is_ours}
        return [files[0] for files in others if all(os.path.isfile(self._folder / file) for file in files)]

    def record(self, items: Sequence[WorkItem]) -> None:
        """Append items whose files are complete. Raises `OutputError`."""
        lines = "".join(json.dumps(self._line(item)) + "\n" for item in items)
        try:
            data = (self._missing_newline() + lines).encode()
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}; {remedy(error)}") from error
        self.refresh()

    def refresh(self) -> None:
        """Read the lines that were recorded since the last call."""
        while data := self._unread():
            self._read += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for entry in filter(None, map(self._entry, lines)):
                self._latest |= dict.fromkeys(entry.files, entry)
            self._rest = self._rest[:_LONGEST]

    def _unread(self) -> bytes:
        os.lseek(self._file, self._read, os.SEEK_SET)
        return os.read(self._file, _CHUNK)

    def _line(self, item: WorkItem) -> dict[str, object]:
        seeds = gather([item], self._first_seed).arguments["seed"]
        key = self._job.key(item.files, self._first_seed)
        return {"key": key, "lines": [item.line] * len(item.files), "files": item.files, "seeds": seeds}

    def _entry(self, line: bytes) -> Entry | None:
        """A line of the file; None for an empty one, and for one that is damaged or that a crash cut off."""
        try:
            data = json.loads(line)
            key, files = str(data["key"]), tuple(map(str, data["files"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return Entry(files, key == self._job.key(files, self._first_seed))

    def _missing_newline(self) -> str:
        """A newline if the last line was cut off by a crash, else nothing."""
        if not os.lseek(self._file, 0, os.SEEK_END):
            return ""
        os.lseek(self._file, -1, os.SEEK_END)
        return "" if os.read(self._file, 1) == b"\n" else "\n"
