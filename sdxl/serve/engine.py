"""The queue of jobs and what is kept of them: one bounded first-in, first-out queue for all workers. No HTTP, no torch.

Its methods may be called by any thread. A job that is over stays until `keep` others have ended after it, or an hour
has passed, or the images of all take too much memory. The last one stays: its client has had no time to ask.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .job import Failure, Job, Status
from .metrics import Metrics
from .refusals import BusyError, ClosingError, UnknownError
from .settings import MIB
from .work import Work

_KEPT_SECONDS = 3600.0
_KEPT_BYTES = 256 * MIB  # of finished images
_WAITING_BYTES = 256 * MIB  # of uploads
_CLOSING = "the service is ending and takes no more work; ask again when it has started"
_UNKNOWN_SECONDS = 5.0  # that a job takes before one has ended


class Engine:
    """`queue` jobs can wait, beside those that run. `workers` take from it."""

    def __init__(self, queue: int, keep: int, workers: int = 1) -> None:
        self.metrics = Metrics()
        self.fault: tuple[int, str] | None = None  # the exit status and the reason, where the process must end
        self._queue, self._keep, self._workers = queue, keep, workers
        self._jobs: dict[str, Job] = {}  # all that can be asked for, the oldest first
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, float] = {}  # since when, in seconds of a clock that nobody sets
        self._ended: deque[tuple[float, Job]] = deque()  # those that are over, and when they ended by the same clock
        self._loaded: dict[int, str] = {}  # by worker, the model in its memory
        self._defaults: dict[str, Mapping[str, Any]] = {}  # by model, of those that were loaded once
        self._seconds = 0.0  # of a job, a moving average
        self._closing = False
        self._changed = threading.Condition()
        self._on_fault: Callable[[], object] = lambda: None

    # ---- for clients

    def submit(self, work: Work) -> Job:
        """Put work at the end of the queue. Raises `BusyError` if that is full, and `ClosingError`."""
        with self._changed:
            if self._closing:
                raise ClosingError(_CLOSING)
            uploads = sum(job.work.bytes for job in self._waiting) + work.bytes
            if len(self._waiting) >= self._queue or (self._waiting and uploads > _WAITING_BYTES):
                raise BusyError(
                    f"the queue is full: {len(self._waiting)} jobs wait; ask again in {self.patience} s", self.patience
                )
            job = Job(work)
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._number()
            self._prune()
            self._changed.notify()
        return job

    def get(self, id: str) -> Job:
        """A job by its id. Raises `UnknownError`."""
        with self._changed:
            self._prune()
            if id not in self._jobs:
                raise UnknownError("there is no job of this id; it is forgotten, or from before the last start")
            return self._jobs[id]

    def jobs(self, session: str | None = None) -> list[Job]:
        """The jobs of a session, the oldest first; None: those of no session."""
        with self._changed:
            self._prune()
            return [job for job in self._jobs.values() if job.work.session == session]

    def cancel(self, id: str, keep_guess: bool = False) -> Job:
        """End a job before its next step; with `keep_guess` its present guess becomes its last image. One that is over
        stays what it is. Raises `UnknownError`.
        """
        job = self.get(id)
        with self._changed:
            job.keeps_guess |= keep_guess
            job.is_cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._over(job, "cancelled", None)
                self._number()
        return job

    def skip(self, id: str) -> Job:
        """Leave out the batch that a job is at, and go on with the next one. Raises `UnknownError`."""
        job = self.get(id)
        job.skipped = job.state.batch if job.state.status == "running" else None
        return job

    @property
    def running(self) -> list[Job]:
        """The jobs at work."""
        with self._changed:
            return list(self._running)

    @property
    def waiting(self) -> list[Job]:
        """The jobs in the queue, the next one first."""
        with self._changed:
            return list(self._waiting)

    @property
    def loaded(self) -> list[str]:
        """The models in memory, one of each worker that has one."""
        with self._changed:
            return list(self._loaded.values())

    def defaults(self, model: str) -> Mapping[str, Any] | None:
        """What a model takes where a request says nothing; None until it was loaded for the first time."""
        with self._changed:
            return self._defaults.get(model)

    @property
    def is_ready(self) -> bool:
        """Whether a model is loaded and work is taken."""
        return bool(self._loaded) and not self._closing

    @property
    def is_closing(self) -> bool:
        """Whether the service is ending."""
        return self._closing

    @property
    def patience(self) -> int:
        """Seconds after which the next place in the queue may be free, an estimate."""
        return max(1, math.ceil((self._seconds or _UNKNOWN_SECONDS) / self._workers))

    # ---- for workers

    def take(self) -> Job | None:
        """The next job, when there is one; None when there will be none any more."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            if not self._waiting:
                return None
            job = self._waiting.popleft()
            self._running[job] = time.monotonic()
            self._number()
        job.update(status="running", started=time.time())
        return job

    def take_like(self, kind: str, most: int) -> list[Job]:
        """At most so many more of the waiting jobs, of those that may share a call with others of a kind."""
        with self._changed:
            jobs = [job for job in self._waiting if job.kind == kind][: max(most, 0)]
            for job in jobs:
                self._waiting.remove(job)
                self._running[job] = time.monotonic()
            self._number()
        for job in jobs:
            job.update(status="running", started=time.time())
        return jobs

    def end(self, job: Job, status: Status, failure: Failure | None = None) -> None:
        """A worker is done with a job that it took."""
        with self._changed:
            seconds = time.monotonic() - self._running.pop(job)
            self._seconds = seconds if not self._seconds else 0.8 * self._seconds + 0.2 * seconds
            self._over(job, status, failure)
            self._prune()
            self._changed.notify_all()

    def has_loaded(self, worker: int, model: str | None, defaults: Mapping[str, Any] | None = None) -> None:
        """A worker has a model in memory, with these defaults, or none."""
        with self._changed:
            if model is None:
                self._loaded.pop(worker, None)
            else:
                self._loaded[worker] = model
                self._defaults[model] = defaults or {}

    def fail(self, status: int, reason: str) -> None:
        """The process must end with an exit status, for a reason."""
        with self._changed:
            self.fault = self.fault or (status, reason)
        self.close()
        self._on_fault()

    # ---- for the process

    def on_fault(self, call: Callable[[], object]) -> None:
        """Have a function called in the thread of the worker that fails."""
        self._on_fault = call

    def close(self) -> None:
        """Take no more work, and give up that which waits. Running jobs go on."""
        with self._changed:
            self._closing = True
            while self._waiting:
                self._over(self._waiting.popleft(), "failed", Failure("ClosingError", _CLOSING))
            self._changed.notify_all()

    def stop(self) -> None:
        """Cancel the running jobs."""
        for job in self.running:
            job.is_cancelled = True

    def wait_idle(self, seconds: float) -> bool:
        """Wait until nothing runs; whether that has come."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, seconds)

    # ---- under the lock

    def _number(self) -> None:
        for place, job in enumerate(self._waiting):
            if job.state.place != place or place == 0:
                job.update(place=place)

    def _over(self, job: Job, status: Status, failure: Failure | None) -> None:
        job.work = replace(job.work, batches=())  # its uploads are not needed any more
        self.metrics.add_job(status, None if failure is None else failure.type)
        self._ended.append((time.monotonic(), job))
        job.update(
            status=status, failure=failure, ended=time.time(), stage=None, seconds_left=None, preview=None, place=0
        )

    def _prune(self) -> None:
        bytes, oldest = sum(job.bytes for _, job in self._ended), time.monotonic() - _KEPT_SECONDS
        while self._ended and (
            self._ended[0][0] < oldest
            or len(self._ended) > self._keep
            or (bytes > _KEPT_BYTES and len(self._ended) > 1)
        ):
            _, job = self._ended.popleft()
            bytes -= job.bytes
            del self._jobs[job.id]
