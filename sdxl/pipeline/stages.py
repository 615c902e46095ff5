"""The stages of the work (loading, text, steps, decoding) as events of Python's logging, for progress and logs.

The logger `sdxl` gets the start of a stage and each step at DEBUG, the end of a stage at INFO. Each record has `stage`,
`done` and `total`. Without a listener it costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..runtime.memory import used
from ..runtime.placement import Placement

LOG = logging.getLogger("sdxl")


def report(stage: str, message: str, done: int = 0, total: int = 0, level: int = logging.DEBUG) -> None:
    """One event of a stage, of which `done` of `total` parts are finished."""
    LOG.log(level, message, extra={"stage": stage, "done": done, "total": total})


@contextmanager
def stage(name: str, at: Placement, what: str = "") -> Iterator[None]:
    """Report the start and the end of a stage, with its seconds, its dtype and the memory that is in use after it. On a
    GPU the seconds are the host's, which does not wait for it.
    """
    if not LOG.isEnabledFor(logging.INFO):
        yield
        return
    report(name, f"{name} {what}".strip())
    began = time.perf_counter()
    yield
    report_end(name, time.perf_counter() - began, at, what)


def report_end(name: str, seconds: float, at: Placement, what: str = "") -> None:
    """The end of a stage, if anybody listens."""
    if LOG.isEnabledFor(logging.INFO):
        dtype, memory = str(at.dtype).removeprefix("torch."), used(at.device) / 1e9
        text = f"{name} {what}".strip()
        report(name, f"{text}: {seconds:.2f} s, {dtype}, {memory:.2f} GB in use", 1, 1, logging.INFO)
