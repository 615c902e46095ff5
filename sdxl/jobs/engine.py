"""Engines generate the batches of a job; the loop assigns batches to an engine and saves the images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import ArgumentError, DrawError, NonFiniteError, OutOfMemoryError, SDXLError
from ..images.record import encode_png
from ..pipeline.pipeline import Pipeline
from ..pipeline.request import Request
from ..pipeline.sources import read_sources
from .folder import JobFolder
from .job import Batch

PAUSE = 0.5  # seconds between looks at the progress of other processes

Outcome = list[bytes] | SDXLError
"""The PNGs of a batch, or its error."""

Engine = Callable[[Iterator[Batch]], Iterator[tuple[Batch, Outcome]]]
"""Takes a batch when it can generate one, and yields each batch with its outcome, in any order."""


@dataclass(frozen=True)
class Progress:
    """The progress of a job: its finished images, by all processes; the batch that finished or failed, and its error.
    `batch` is None while other processes generate the last batches.
    """

    done: int
    batch: Batch | None = None
    error: SDXLError | None = None


def draw(pipe: Pipeline, batch: Batch) -> Outcome:
    """Generate one batch. Its error is returned, not raised: the other batches continue."""
    try:
        result = pipe(**batch.arguments, progress=False)
    except (ArgumentError, NonFiniteError, OutOfMemoryError) as error:
        return error
    except SDXLError:  # such as a missing model file: the job ends
        raise
    except RuntimeError as error:  # from torch
        reason = str(error).strip().splitlines()[0]
        if "CUDA error" in reason:  # this process cannot generate any more
            raise DrawError(f"the GPU has failed ({reason}); run the same command again") from error
        return DrawError(f"torch failed ({reason}); generate the image alone to see more")
    pairs = zip(result.images, result.parameters, strict=True)
    return [encode_png(image, parameters) for image, parameters in pairs]


def local(pipe: Pipeline) -> Engine:
    """The engine of this process: one batch after the other."""

    def engine(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        for batch in batches:
            yield batch, draw(pipe, batch)

    return engine


def work(batches: Sequence[Batch], folder: JobFolder, engine: Engine) -> Iterator[Progress]:
    """Generate what is pending of these batches until each image is finished, by any process, or has failed.

    Raises `OutputError` if results cannot be written. A job can be resumed whenever it was stopped.
    """
    failed: set[int] = set()
    while pending := folder.pending(batches, failed):
        idle = True
        for batch, outcome in _round(folder, pending, engine):
            idle = False
            if isinstance(outcome, SDXLError):
                failed |= {item.number for item in batch.items}
            else:
                folder.finish(batch, outcome)
            folder.release(batch)
            yield Progress(folder.journal.images, batch, outcome if isinstance(outcome, SDXLError) else None)
        if idle:
            yield Progress(folder.journal.images)
            time.sleep(PAUSE)


def _round(folder: JobFolder, pending: Sequence[Batch], engine: Engine) -> Iterator[tuple[Batch, Outcome]]:
    """The outcomes of batches that no other process has claimed. The engine gets those whose images can be opened."""
    broken: list[tuple[Batch, Outcome]] = []

    def opened() -> Iterator[Batch]:
        for batch in folder.claim(pending):
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
    """The batch with its images and latents opened, so that workers on other machines need no files."""
    sources = read_sources(Request(**batch.arguments))
    return replace(batch, arguments=batch.arguments | sources.arguments())
