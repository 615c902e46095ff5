"""Engines generate the batches of a job; the loop assigns batches to an engine and saves the images."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from ..errors import (
    ArgumentError,
    CheckpointError,
    DrawError,
    NonFiniteError,
    OutOfMemoryError,
    SDXLError,
    SDXLWarning,
    warn,
)
from ..images.record import encode_png
from ..pipeline.batch_sizes import BatchSizes
from ..pipeline.pipeline import Pipeline
from ..pipeline.request import Request
from ..pipeline.result import Result
from ..pipeline.sources import read_sources
from .content import names_networks
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
    return _encoded(_generate(pipe, batch))


def _generate(pipe: Pipeline, batch: Batch) -> Result | SDXLError:
    """The images of a batch, or its error."""
    try:
        return _call(pipe, batch)
    except OutOfMemoryError as error:
        shortage = error.with_traceback(None)  # the frames of the work hold its memory
        shortage.__cause__ = shortage.__context__ = None
    except (ArgumentError, NonFiniteError) as error:
        return error
    except CheckpointError as error:
        if not names_networks(batch.arguments):
            raise  # the model cannot be read: the job ends
        return error
    except SDXLError:  # such as a missing model file: the job ends
        raise
    except RuntimeError as error:  # from torch
        reason = str(error).strip().splitlines()[0]
        if "CUDA error" in reason:  # this process cannot generate any more
            raise DrawError(f"the GPU has failed ({reason}); run the same command again") from error
        return DrawError(f"torch failed ({reason}); generate the image alone to see more")
    pipe.residency.model.free()
    return shortage


def _call(pipe: Pipeline, batch: Batch) -> Result:
    """One call. Where memory runs out, that of an image alone goes on with less of the model in memory; several images
    are first to be fewer.
    """
    if len(batch.items) < 2:
        return pipe(**batch.arguments, progress=False)
    return deque(pipe.steps(**batch.arguments), maxlen=1).pop().result()


def local(pipe: Pipeline, sizes: BatchSizes | None = None, overlap: bool | None = None) -> Engine:
    """The engine of this process: one batch after the other. It records the times of batches in `sizes`. With `overlap`
    it encodes the files of a batch in a thread while it is at the next one: by default where a GPU generates, since a
    CPU has no core to spare.
    """
    overlaps = pipe.device.type != "cpu" if overlap is None else overlap

    def timed(batch: Batch) -> Result | SDXLError:
        began = time.perf_counter()
        result = _generate(pipe, batch)
        if sizes is not None and not isinstance(result, SDXLError):
            sizes.record(batch.kind, len(batch.files), time.perf_counter() - began)
        return result

    def one_by_one(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        for batch in batches:
            yield batch, _encoded(timed(batch))

    def overlapping(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outcome]]:
        encoding: list[tuple[Batch, Future[Outcome]]] = []  # at most one
        results = ((batch, timed(batch)) for batch in batches)
        with ThreadPoolExecutor(1) as thread:
            while True:
                try:
                    made = next(results, None)
                except BaseException:  # such as an interrupt: what is generated is not lost
                    yield from _done(encoding)
                    raise
                yield from _done(encoding)
                if made is None:
                    return
                batch, result = made
                if isinstance(result, SDXLError):  # at once, before another batch of this size is begun
                    yield batch, result
                else:
                    encoding.append((batch, thread.submit(_encoded, result)))

    return overlapping if overlaps else one_by_one


def _done(encoding: list[tuple[Batch, Future[Outcome]]]) -> Iterator[tuple[Batch, Outcome]]:
    """Batches when their files are complete."""
    while encoding:
        batch, files = encoding.pop()
        yield batch, files.result()


def _encoded(result: Result | SDXLError) -> Outcome:
    """The files of images."""
    return result if isinstance(result, SDXLError) else list(map(encode_png, result.images, result.parameters))


def fitting(pipe: Pipeline, batch: Batch, most: int) -> int | None:
    """How many images of the kind of a batch fit into memory at once, at most `most`; None where they are refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SDXLWarning)  # they come again with the images
        try:
            return pipe.most_images(Request(**batch.items[0].arguments), most)
        except SDXLError:  # which comes again too
            return None


def work(
    batches: Sequence[Batch],
    folder: JobFolder,
    engine: Engine,
    sizes: BatchSizes | None = None,
    fits: Callable[[Batch, int], int | None] = lambda batch, most: most,
) -> Iterator[Progress]:
    """Generate what is pending of these batches until each image is finished, by any process, or has failed. They are
    cut into parts of the `sizes` that memory has room for, as `fits` says of a batch and a number of images. Where
    memory runs out, the images of a batch are generated in smaller ones.

    Raises `OutputError` if results cannot be written. A job can be resumed whenever it was stopped.
    """
    failed: set[int] = set()
    own = BatchSizes(max((len(batch.items) for batch in batches), default=1)) if sizes is None else sizes

    def limit(batch: Batch) -> int:
        return own.limit(batch.kind, partial(fits, batch)) if len(batch.items) > 1 else 1

    while pending := folder.pending(batches, failed):
        idle = True
        for batch, outcome in _round(folder, pending, engine, limit):
            idle = False
            if isinstance(outcome, OutOfMemoryError) and len(batch.items) > 1:
                _halve(batch, own)
                folder.release(batch)
                continue
            if isinstance(outcome, SDXLError):
                failed |= {item.number for item in batch.items}
            else:
                folder.finish(batch, outcome)
            folder.release(batch)
            yield Progress(folder.journal.images, batch, outcome if isinstance(outcome, SDXLError) else None)
        if idle:
            yield Progress(folder.journal.images)
            time.sleep(PAUSE)


def _halve(batch: Batch, sizes: BatchSizes) -> None:
    """Have the images of a batch for which memory did not suffice generated in smaller ones."""
    count = len(batch.items)
    fewer = sizes.halve(batch.kind, count)
    warn(f"memory ran out with {count} images at once; going on with {fewer}")


def _round(
    folder: JobFolder, pending: Sequence[Batch], engine: Engine, limit: Callable[[Batch], int]
) -> Iterator[tuple[Batch, Outcome]]:
    """The outcomes of batches that no other process has claimed. The engine gets those whose images can be opened."""
    broken: list[tuple[Batch, Outcome]] = []

    def opened() -> Iterator[Batch]:
        for batch in folder.claim(pending, limit):
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
