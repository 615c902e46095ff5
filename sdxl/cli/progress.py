"""Progress and logs on stderr: what the library reports about its stages, for a terminal or for a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from . import allocator
from .console import draw, is_terminal, note

_BETWEEN_LINES, _BETWEEN_DRAWINGS = 10.0, 0.1  # seconds: in a file, on a terminal
_CELLS = 24  # of a bar


@contextmanager
def reporting(quiet: bool = False, verbose: int = 0, title: str = "", counted: str = "steps") -> Iterator[None]:
    """Show what the work inside reports: progress unless `quiet`; with `verbose` 1 a log of the stages, with 2 also of
    each step. `title` is the model in the line about what is generated, `counted` the stage that is counted.
    """
    log, handlers = logging.getLogger("sdxl"), list[logging.Handler]()
    if verbose:
        handlers.append(_Log(title, logging.INFO if verbose == 1 else logging.DEBUG))
        note(f"allocator of memory: {allocator.in_use()}")
    if not quiet and (is_terminal() or not verbose):
        handlers.append(_Progress("" if verbose else title, counted))
    level = log.level
    for handler in handlers:
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(level)
        for handler in handlers:
            log.removeHandler(handler)
        if handlers:
            draw("")


def count(stage: str, done: int, total: int) -> None:
    """Report how many parts of a stage of the command line are finished."""
    extra = {"stage": stage, "done": done, "total": total}
    logging.getLogger("sdxl").debug("%s: %d of %d", stage, done, total, extra=extra)


class _Log(logging.Handler):
    """A line for each event, with the seconds since the start."""

    def __init__(self, title: str, level: int) -> None:
        super().__init__(level)
        self.title, self.began = title, time.perf_counter()

    def emit(self, record: logging.LogRecord) -> None:
        title = f"{self.title}: " if getattr(record, "stage", "") == "start" else ""
        note(f"[{time.perf_counter() - self.began:8.2f} s] {title}{record.getMessage()}")


class _Progress(logging.Handler):
    """On a terminal one line that changes; elsewhere a line for each stage, and now and then for the one that is
    counted.
    """

    def __init__(self, title: str, counted: str) -> None:
        super().__init__()
        self.title, self.counted = title, counted
        self.on_terminal = is_terminal()
        self.show = draw if self.on_terminal else note
        self.stage = ""
        self.first, self.began, self.shown = 0, time.perf_counter(), 0.0

    def emit(self, record: logging.LogRecord) -> None:
        stage, done, total = (getattr(record, name, None) for name in ("stage", "done", "total"))
        if stage == "start" and self.title:
            note(f"{self.title}: {record.getMessage()}")
            self.title = ""
        elif stage == self.counted and isinstance(done, int) and isinstance(total, int):
            self._count(done, total)
        elif self.counted == "steps" and not done:
            self.stage = str(stage)
            self.show(record.getMessage())

    def _count(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if self.stage != self.counted:  # the first ones are not timed: what came before them was another stage
            self.stage, self.first, self.began = self.counted, done, now
        pause = _BETWEEN_DRAWINGS if self.on_terminal else _BETWEEN_LINES
        if done == total or now - self.shown > pause:
            self.shown = now
            each = (now - self.began) / (done - self.first) if done > self.first else None
            self.show(f"{self.counted}: {_bar(done, total) if self.on_terminal else ''}{_count(done, total, each)}")


def _bar(done: int, total: int) -> str:
    full = _CELLS * done // max(total, 1)
    return f"[{'#' * full}{'.' * (_CELLS - full)}] "


def _count(done: int, total: int, each: float | None) -> str:
    """How many are done, how long each takes, and how long the rest will take."""
    speed = "" if each is None else f", {each:.2f} s each"
    left = "" if each is None or done >= total else f", {each * (total - done):.0f} s left"
    return f"{done} of {total}{speed}{left}"
