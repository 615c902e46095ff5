"""The state of a batch job on disk, for resuming it and for other processes that work on it.

The folder `job` beside the images has three files: `plan.json` is the identity of the job, `done.jsonl` has a line for
each finished batch, and `claims` has a locked byte for each batch in progress. The system releases the locks of a
process whenever that ends.
"""

from __future__ import annotations

import glob
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..images.png import PART, part_prefix, remedy, write_png
from .job import Batch, Job

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


ALL = 2**30  # more batches than any job has


@dataclass(frozen=True)
class JobFolder:
    """The folder of a job's results, the seed of its first image, and its fingerprint `job`."""

    folder: Path
    first_seed: int
    job: str

    def count_done(self, batches: Sequence[Batch]) -> int:
        """The number of finished images of these batches."""
        with Journal(self) as journal:
            pending = journal.pending(batches)
        return sum(len(batch.files) for batch in batches) - sum(len(batch.files) for batch in pending)


def open_folder(folder: Path, job: Job, batch_size: int, first_seed: int | None) -> JobFolder:
    """Begin a job in a folder or resume it, also with more lines, or with other lines if their images are not finished.

    Raises `OutputError` if finished images would be different now, or if the folder has images of no job.
    """
    plan = folder / "job/plan.json"
    try:
        plan.parent.mkdir(parents=True, exist_ok=True)
        taken = [file for file in job.files if (folder / file).exists()]
        if taken and not plan.exists():
            raise OutputError(f"{folder / taken[0]} exists already; choose an empty --output-dir")
        if not plan.exists():
            seed = secrets.randbelow(2**32) if first_seed is None else first_seed
            _publish(plan, job.fingerprint, seed, replace=False)
        known, seed = _read_plan(plan)
        if known == job.fingerprint:
            return JobFolder(folder, seed, known)
        job_folder = JobFolder(folder, seed if first_seed is None else first_seed, job.fingerprint)
        _change_plan(job_folder, job.batches(batch_size, job_folder.first_seed))
        return job_folder
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; {remedy(error)}") from error


def _change_plan(job_folder: JobFolder, batches: Sequence[Batch]) -> None:
    """Replace the job of a folder, if all finished images stay the same and no process works on it."""
    with Journal(job_folder) as journal:
        if not journal.lock(0, ALL):
            raise OutputError(f"{job_folder.folder} is in use by another job; wait, or choose another --output-dir")
        wanted = {batch.key for batch in batches}
        if lost := [files for key, files in journal.finished().items() if key not in wanted]:
            raise OutputError(
                f"{job_folder.folder} holds another job: with these lines, arguments, model or batch size "
                f"{lost[0][0]} would be another image; choose another --output-dir, or move that file away"
            )
        _publish(job_folder.folder / "job/plan.json", job_folder.job, job_folder.first_seed, replace=True)


def _read_plan(path: Path) -> tuple[str, int]:
    """The fingerprint of a job, and its first seed."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return str(data["job"]), int(data["first_seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} is damaged ({error!r}); choose another --output-dir") from error


def _publish(path: Path, job: str, first_seed: int, replace: bool) -> None:
    """Write a plan atomically: in place of another, or only if no other process has written one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=PART)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps({"job": job, "first_seed": first_seed}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            _link(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _link(temporary: str, path: Path) -> None:
    """Give a file a second name, unless that exists. On file systems without links, two processes may race for it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:
        if not path.exists():
            os.replace(temporary, path)


class Journal:
    """The finished and the claimed batches of a job. The end of its `with` statement releases the claims. Claims belong
    to the process: one process has one journal with claims at a time.
    """

    def __init__(self, job_folder: JobFolder) -> None:
        self.folder, self._job = job_folder.folder, job_folder.job
        self._done: dict[str, list[str]] = {}
        self._read = 0  # bytes of done.jsonl
        self._file = self._open("done.jsonl")
        self._claims: int | None = None  # opened late: closing it releases all claims of this process

    def _open(self, name: str) -> int:
        path = self.folder / "job" / name
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}; {remedy(error)}") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if self._claims is not None:
            os.close(self._claims)

    @property
    def images(self) -> int:
        """The number of finished images."""
        return sum(map(len, self._done.values()))

    def pending(self, batches: Sequence[Batch]) -> list[Batch]:
        """The batches that no process has finished. A batch whose image was removed is pending again."""
        self._done = self.finished()
        return [batch for batch in batches if batch.key not in self._done]

    def finished(self) -> dict[str, list[str]]:
        """The files of each recorded batch whose files exist, by its key."""
        self._refresh()
        folder = self.folder
        return {key: files for key, files in self._done.items() if all((folder / file).is_file() for file in files)}

    def claim(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Claim the batches that are neither finished nor claimed by another process, one at each step."""
        for batch in batches:
            if not self.lock(batch.number):
                continue
            self._check_plan()
            self._refresh()
            if batch.key in self._done:
                self.release(batch)
                continue
            self._clean(batch)
            yield batch

    def finish(self, batch: Batch, images: Sequence[bytes]) -> None:
        """Write a batch's PNGs, then record the batch."""
        for file, data in zip(batch.files, images, strict=True):
            write_png(data, self.folder / file)
        entry = {
            "batch": batch.number,
            "key": batch.key,
            "lines": batch.lines,
            "files": batch.files,
            "seeds": batch.arguments["seed"],
        }
        try:
            os.write(self._file, (self._missing_newline() + json.dumps(entry) + "\n").encode())
            os.fsync(self._file)
        except OSError as error:
            path = self.folder / "job/done.jsonl"
            raise OutputError(f"{path} cannot be written: {error.strerror}; {remedy(error)}") from error
        self._refresh()

    def _refresh(self) -> None:
        """Read the lines that were recorded since the last call."""
        while data := self._unread():
            whole = data.rfind(b"\n") + 1
            if not whole:
                return  # another process is writing
            self._read += whole
            for line in data[:whole].split(b"\n"):
                if (entry := _entry(line)) is not None:
                    self._done[entry["key"]] = entry["files"]

    def _unread(self) -> bytes:
        os.lseek(self._file, self._read, os.SEEK_SET)
        return os.read(self._file, 1 << 20)

    def _missing_newline(self) -> str:
        """A newline if the last line was cut off by a crash, else nothing."""
        if not os.lseek(self._file, 0, os.SEEK_END):
            return ""
        os.lseek(self._file, -1, os.SEEK_END)
        return "" if os.read(self._file, 1) == b"\n" else "\n"

    def _clean(self, batch: Batch) -> None:
        """Remove the temporary files of a batch that a killed process left."""
        for file in batch.files:
            for path in glob.glob(glob.escape(str(self.folder / part_prefix(Path(file)))) + "*" + PART):
                Path(path).unlink(missing_ok=True)

    def _check_plan(self) -> None:
        """Raise `OutputError` if another process has changed the folder's job."""
        if _read_plan(self.folder / "job/plan.json")[0] != self._job:
            raise OutputError(f"{self.folder} belongs to another job now; choose another --output-dir")

    def lock(self, number: int, count: int = 1) -> bool:
        """Claim `count` batches from `number` on; False if another process has one of them."""
        if self._claims is None:
            self._claims = self._open("claims")
        try:
            if sys.platform == "win32":
                os.lseek(self._claims, number, os.SEEK_SET)
                msvcrt.locking(self._claims, msvcrt.LK_NBLCK, count)
            else:
                fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, count, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise OutputError(
                f"{self.folder / 'job/claims'} cannot be locked: {error.strerror}; choose an --output-dir on a file "
                "system that has locks"
            ) from error
        return True

    def release(self, batch: Batch) -> None:
        """Release the claim of a batch."""
        assert self._claims is not None
        if sys.platform == "win32":
            os.lseek(self._claims, batch.number, os.SEEK_SET)
            msvcrt.locking(self._claims, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, batch.number)


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line of done.jsonl; None for an empty one, and for one that a crash cut off."""
    try:
        entry = json.loads(line)
        return {"key": str(entry["key"]), "files": list(map(str, entry["files"]))}
    except (ValueError, KeyError, TypeError):
        return None
