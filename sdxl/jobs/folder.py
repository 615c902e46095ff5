"""The folder of a job's images, which processes share and in which a job that was stopped goes on.

Beside the images lies the folder `job` with `plan.json`, `done.jsonl` and `claims`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, OutputError
from ..images.output import remedy, write_file
from ..images.record import read_parameters
from ..pipeline.defaults import NUMBER, earlier_defaults
from ..runtime.precision import Precision, recorded_precision
from ..weights.part import PART, part_prefix
from ..weights.path import AnyPath, expanded
from .claims import Claims
from .job import Batch, Job, WorkItem, gather
from .journal import Journal
from .plan import JobPlan, read_plan, write_plan


@dataclass(frozen=True)
class JobFolder:
    """The folder of a job that this process works on until the end of a `with`. `plan` is the one at its beginning.
    `parts` are the temporary files beside the images, where versions until 0.1.0 wrote them.
    """

    path: Path
    job: Job
    plan: JobPlan
    claims: Claims
    journal: Journal
    parts: tuple[Path, ...]

    def __enter__(self) -> JobFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()
        self.claims.close()

    def batches(self, size: int) -> list[Batch]:
        """All images of the job in batches of at most `size`."""
        return self.job.batches(size, self.plan.first_seed)

    def count_done(self) -> int:
        """The number of finished images."""
        self.journal.refresh()
        return len(self.journal.finished())

    def agree(self, choose: Callable[[], Precision]) -> Precision:
        """The precision of all images of the job: what the first process of all has chosen, perhaps this one."""
        path = _plan_path(self.path)
        with self.claims.changing():
            known = self._read_plan().precision
        if known is not None:
            return known
        precision = choose()  # which may take a while
        try:
            with self.claims.changing():
                plan = self._read_plan()
                if plan.precision is not None:
                    return plan.precision
                write_plan(plan.with_precision(precision), path)
                return precision
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}; {remedy(error)}") from error

    def pending(self, batches: Iterable[Batch], failed: Collection[int] = ()) -> list[Batch]:
        """What no process has finished of these batches, without the items whose numbers are in `failed`. An item whose
        image was removed is pending again.
        """
        self.journal.refresh()
        self.journal.forget_missing()
        tried = ([item for item in batch.items if item.number not in failed] for batch in batches)
        return [rest for items in tried if (rest := self._rest(items)) is not None]

    def _rest(self, items: Sequence[WorkItem]) -> Batch | None:
        """The batch of those items that are not finished, if there are any."""
        rest = [item for item in items if not self.journal.has(item)]
        return gather(rest, self.plan.first_seed) if rest else None

    def claim(self, batches: Iterable[Batch], limit: Callable[[Batch], int] | None = None) -> Iterator[Batch]:
        """Claim what is neither finished nor claimed by another process, a batch at each step, of as many items as
        `limit` says at that moment.
        """
        for batch in batches:
            items: Sequence[WorkItem] = batch.items
            while items:
                count = len(items) if limit is None else limit(batch)
                part, items = items[:count], items[count:]
                if (claimed := self._claim(part)) is not None:
                    yield claimed

    def _claim(self, items: Sequence[WorkItem]) -> Batch | None:
        """Those of some items that can be claimed."""
        ranges = self.claims.claim([item.number for item in items])
        if not ranges:
            return None
        with self.claims.changing():  # Windows lets no file be replaced that another process reads
            self._read_plan()
        self.journal.refresh()
        rest = self._rest([item for item in items if any(n <= item.number < n + m for n, m in ranges)])
        if rest is None:
            self.claims.release(ranges)
            return None
        self._clean(rest)
        return replace(rest, ranges=tuple(ranges), arguments=self._defaults | rest.arguments)

    @property
    def _defaults(self) -> dict[str, Any]:
        """The arguments whose defaults have changed since the job was begun, with their values of that time."""
        return earlier_defaults(self.plan.defaults)

    def finish(self, batch: Batch, images: Sequence[bytes]) -> None:
        """Write the PNGs of a batch, then record its items."""
        for file, data in zip(batch.files, images, strict=True):
            write_file(data, self.path / file, parts=self.path / "job")
        with self.claims.changing():  # not all file systems, nor Windows, append as a whole
            self.journal.record(batch.items)

    def release(self, batch: Batch) -> None:
        """Leave the items of a batch to other processes, if they are not finished."""
        self.claims.release(batch.ranges)

    def _read_plan(self) -> JobPlan:
        """The present plan. Raises `OutputError` if another process has changed the folder's job."""
        plan = read_plan(_plan_path(self.path))
        if plan.job != self.plan.job:
            raise OutputError(f"{self.path} belongs to another job now; choose another --output-dir")
        return plan

    def _clean(self, batch: Batch) -> None:
        """Remove the temporary files of a batch that a killed process left. The folder of the images is not listed
        again, since that would take ever longer.
        """
        prefixes = tuple(part_prefix(Path(file)) for file in batch.files)
        for path in (*self.parts, *_parts(self.path / "job")):
            if path.name.startswith(prefixes):
                with suppress(OSError):  # it is gone; or, on Windows, another program reads it: then it stays
                    path.unlink()


def open_folder(folder: AnyPath, job: Job, first_seed: int | None) -> JobFolder:
    """Begin a job in a folder or resume it, also with more lines, or with other lines if their images are not finished.

    Raises `OutputError` if finished images would be different now, or if the folder has images of no job.
    """
    folder = expanded(folder)
    try:
        _plan_path(folder).parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:  # closes what was opened, unless all goes well
            claims = Claims(folder / "job/claims")
            stack.callback(claims.close)
            with claims.changing():
                known = _known_plan(folder, job)
                plan = _begin(job, first_seed) if known is None else _resume(known, job, first_seed)
                journal = Journal(folder, job, plan.first_seed)
                stack.callback(journal.close)
                if known is not None and known != plan:
                    _check_change(folder, claims, journal)
                    plan = plan if journal.finished() else replace(plan.with_precision(None), defaults=NUMBER)
                if plan.precision is None:
                    plan = plan.with_precision(_first_precision(folder, journal))
                if plan != known:
                    write_plan(plan, _plan_path(folder))
                claims.join()
            stack.pop_all()
            return JobFolder(folder, job, plan, claims, journal, _parts(folder))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; {remedy(error)}") from error


def first_seed(folder: Path) -> int | None:
    """The seed of the first image of the job in a folder; None if it has no job. Raises `OutputError`."""
    path = _plan_path(folder)
    return read_plan(path).first_seed if path.exists() else None


def _parts(folder: Path) -> tuple[Path, ...]:
    """The temporary files in a folder."""
    return tuple(folder / name for name in os.listdir(folder) if name.endswith(PART))


def _plan_path(folder: Path) -> Path:
    return folder / "job/plan.json"


def _known_plan(folder: Path, job: Job) -> JobPlan | None:
    """The plan of a folder; None if it has no job yet. Raises `OutputError` for other files in the job's way."""
    if (path := _plan_path(folder)).exists():
        return read_plan(path)
    if taken := [file for file in job.files if (folder / file).exists()]:
        raise OutputError(f"{folder / taken[0]} exists already; choose an empty --output-dir")
    return None


def _begin(job: Job, first_seed: int | None) -> JobPlan:
    seed = secrets.randbelow(2**32) if first_seed is None else first_seed
    return JobPlan(job.fingerprint, seed, defaults=NUMBER)


def _resume(known: JobPlan, job: Job, first_seed: int | None) -> JobPlan:
    if known.job == job.fingerprint:
        return known
    return replace(known, job=job.fingerprint, first_seed=known.first_seed if first_seed is None else first_seed)


def _check_change(folder: Path, claims: Claims, journal: Journal) -> None:
    """Raise `OutputError` unless all finished images stay the same and no other process works on the folder."""
    if not claims.are_all_free():
        raise OutputError(f"{folder} is in use by another job; wait, or choose another --output-dir")
    if lost := journal.foreign():
        raise OutputError(
            f"{folder} holds another job: with these lines, arguments or model {lost[0]} would be another image; "
            "choose another --output-dir, or move that file away"
        )


def _first_precision(folder: Path, journal: Journal) -> Precision | None:
    """The precision of a folder whose plan has none, of an older version: that of the first image with a record."""
    for file in journal.finished():
        try:
            if precision := recorded_precision(read_parameters(folder / file)["model"]):
                return precision
        except ArgumentError:  # no image of ours, or a damaged one
            continue
    return None
