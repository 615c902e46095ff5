"""Who draws the batches of a job, and the loop that gives them out and keeps what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import ArgumentError, DrawError, NonFiniteError, OutOfMemoryError, SDXLError
from ..images.png import encode_png
from ..pipeline.pipeline import Pipeline
from ..pipeline.request import Request
from ..pipeline.sources import read_sources
from .job import Batch
from .journal import JobFolder, Journal

PAUSE = 0.5  # seconds between looks at what other processes have done

Outcome = list[bytes] | SDXLError
"""The PNGs of a batch, or why there are none."""

Engine = Callable[[Iterator[Batch]], Iterator[tuple[Batch, Outcome]]]
"""Takes batches as it can draw them, and gives each back with what came of it, in any order."""


@dataclass(frozen=True)
class Progress:
    """After something has happened: how many pictures of the job are done, by whomever; the batch that was finished or
    that failed, and why; none of them while the last batches are in other processes' hands.
    """

    done: int
    batch: Batch | None = None
    error: SDXLError | None = None


def draw(pipe: Pipeline, batch: Batch) -> Outcome:
    """Draw one batch. What is wrong with it is a value, so that it does not stop the others."""
    try:
        result = pipe(**batch.arguments, progress=False)
    except (ArgumentError, NonFiniteError, OutOfMemoryError) as error:
        return error  # others, such as a file of the model that is gone, are not the batch's
    except RuntimeError as error:  # from torch
        reason = str(error).strip().splitlines()[0]
        if "CUDA error" in reason:  # nothing can be drawn in this process any more
            raise DrawError(f"the GPU has failed ({reason}); give the same command again") from error
        return DrawError(f"torch could not draw it ({reason}); draw it alone to see more")
    pairs = zip(result.images, result.parameters, strict=True)
    return [encode_png(image, parameters) for image, parameters in pairs]


def local(pipe: Pipeline) -> Engine:
    """This process, one batch after the other."""

    def engine(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        for batch in batches:
            yield batch, draw(pipe, batch)

    return engine


def work(batches: Sequence[Batch], folder: JobFolder, engine: Engine) -> Iterator[Progress]:
    """Draw what is not done yet until all is done, by this process or others that work at the same job, or has failed.

    Raises `OutputError` where results cannot be written. Stopped at any moment, it can be begun again.
    """
    failed: set[int] = set()
    with Journal(folder) as journal:
        while pending := [batch for batch in journal.pending(batches) if batch.number not in failed]:
            idle = True
            for batch, outcome in _round(journal, pending, engine):
                idle = False
                if isinstance(outcome, SDXLError):
                    failed.add(batch.number)
                else:
                    journal.finish(batch, outcome)
                journal.release(batch)
                yield Progress(journal.pictures, batch, outcome if isinstance(outcome, SDXLError) else None)
            if idle:
                yield Progress(journal.pictures)
                time.sleep(PAUSE)


def _round(journal: Journal, pending: Sequence[Batch], engine: Engine) -> Iterator[tuple[Batch, Outcome]]:
    """What comes of those that nobody else has claimed; the engine gets those whose pictures can be opened."""
    broken: list[tuple[Batch, Outcome]] = []

    def opened() -> Iterator[Batch]:
        for batch in journal.claim(pending):
            try:
                yield _with_sources(batch)
            except SDXLError as error:
                broken.append((batch, error))

    for pair in engine(opened()):
        yield pair
        while broken:
            yield broken.pop()
    yield from broken


def _with_sources(batch: Batch) -> Batch:
    """The batch with its images and latents opened, so that their files need not be where it is generated."""
    sources = read_sources(Request(**batch.arguments))
    return replace(batch, arguments=batch.arguments | sources.arguments())
