"""A job: what it is to do, how far it is, and what has come of it. Imports no torch."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .sharing import kind_of
from .work import Work

Status = Literal["queued", "running", "done", "failed", "cancelled"]
Watcher = Callable[[], object]


@dataclass(frozen=True)
class Failure:
    """Why a job failed: the type of the error, its message without paths, and the argument that it is about."""

    type: str
    message: str
    argument: str | None = None


@dataclass(frozen=True)
class Image:
    """A finished image: a PNG with its parameters, without paths."""

    name: str
    png: bytes = field(repr=False)
    seed: int | None
    width: int
    height: int
    parameters: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class State:
    """How far a job is. `place` jobs are before it in the queue; of a running one, `stage` is loading, steps or
    decoding, `batch` and `step` count from 0 and say how many are finished, and `seconds_left` is an estimate.
    `preview` is a JPEG of the present guess.
    """

    status: Status = "queued"
    place: int = 0
    stage: str | None = None
    batch: int = 0
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    preview: bytes | None = field(default=None, repr=False)
    images: tuple[Image, ...] = ()
    warnings: tuple[str, ...] = ()
    failure: Failure | None = None
    started: float | None = None
    ended: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("done", "failed", "cancelled")


def progress(state: State, batches: int) -> float:
    """The part of a job of so many batches that is finished at a state, 0 to 1."""
    if state.status == "done":
        return 1.0
    return (state.batch + (state.step / state.steps if state.steps else 0)) / max(batches, 1)


class Job:
    """`state` is replaced, never changed, so any thread may read it. The engine's threads alone `update` it."""

    def __init__(self, work: Work) -> None:
        self.id, self.created, self.work = secrets.token_hex(12), time.time(), work
        self.batches, self.state = len(work.batches), State()
        self.kind = kind_of(work)
        self.is_cancelled = self.keeps_guess = False
        self.skipped: int | None = None  # the batch that is to be left out
        self._watchers: list[Watcher] = []
        self._lock = threading.Lock()

    def update(self, **changes: Any) -> None:
        """Replace parts of the state, and say so to those who watch."""
        with self._lock:
            self.state = replace(self.state, **changes)
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher()

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Have a function called after each change, in any thread; it must return at once and raise nothing. Gives a
        function that ends this.
        """
        with self._lock:
            self._watchers.append(watcher)

        def unwatch() -> None:
            with self._lock:
                self._watchers.remove(watcher)

        return unwatch

    @property
    def progress(self) -> float:
        """The part of it that is finished, 0 to 1."""
        return progress(self.state, self.batches)

    @property
    def bytes(self) -> int:
        """The memory of its images."""
        return sum(len(image.png) for image in self.state.images)
