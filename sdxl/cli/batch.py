"""`generate --batch`: runs a job of many images and shows its progress."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..pipeline.model_request import DEFAULT_MODEL
from ..pipeline.request import SOURCES, WITH_IMAGE, Request
from .console import UNPRINTED, note, show
from .options import open_pipeline, read_file
from .progress import count, reporting

if TYPE_CHECKING:
    from ..jobs.engine import Engine
    from ..jobs.job import Batch
    from ..jobs.journal import JobFolder
    from ..pipeline.pipeline import Pipeline


JOB_FLAGS = ("output_dir", "batch_size", "engine", "workers")
"""The flags that need --batch."""


def add_batch_flags(group: Any) -> None:
    """The flags of a job."""
    group.add_argument(
        "--batch",
        type=read_file,
        metavar="FILE",
        help="a file of JSON lines: each line is an object with the arguments of images, such as negative_prompt, and "
        "optionally output, a file name; other flags apply to all lines. The same command resumes a job that was "
        "stopped; several processes may work on one job",
    )
    group.add_argument(
        "--output-dir", type=read_file, metavar="DIR", help="the folder of the images and of the job's state"
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images with the same settings generated together (default: 1)",
    )
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        help="where to generate: in this process or on a Ray cluster (default: local)",
    )
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on the Ray cluster (default: one for each GPU; without a GPU, one)",
    )


def generate_batch(options: argparse.Namespace, given: dict[str, Any], model: dict[str, Any]) -> int:
    """Run a job and print the result; the exit status is 1 if lines failed."""
    options.batch_size = 1 if options.batch_size is None else options.batch_size
    options.engine = options.engine or "local"
    if options.output_dir is None or options.output or options.source:
        raise ArgumentError("--batch FILE requires --output-dir DIR and excludes --output and --from; change the flags")
    if options.batch_size < 1:
        raise ArgumentError(f"--batch-size is {options.batch_size}; it must be at least 1")
    first_seed = given.pop("seed", None)
    if isinstance(first_seed, list):
        raise ArgumentError("--seed is given several times; with --batch it is the seed of the first image")
    from ..jobs.job import read_job
    from ..jobs.journal import open_folder

    defaults = {name: _absolute(value) for name, value in given.items()}
    # a wrong flag is one error, not one for each line
    checked = {name: value for name, value in defaults.items() if name not in (*SOURCES, *WITH_IMAGE)}
    Request(**{"prompt": "", "seed": first_seed, **checked})
    job = read_job(options.batch, defaults, _identity(first_seed, model), options.batch_size)
    folder = open_folder(options.output_dir, job, options.batch_size, first_seed)
    for line, error in job.faults.items():
        note(f"line {line} of {options.batch}: {error}")
    batches, failed = job.batches(options.batch_size, folder.first_seed), set(job.faults)
    try:
        if folder.count_done(batches) < len(job.files):
            failed |= _work(options, model, batches, folder)
    except KeyboardInterrupt:
        note("interrupted; the same command resumes the job")
        return 130
    rest = f"; {len(failed)} lines failed" if failed else ""
    done = show(f"{folder.count_done(batches)} of {len(job.files)} images are in {folder.folder}{rest}")
    return 1 if failed else 0 if done else UNPRINTED


def _work(options: argparse.Namespace, model: dict[str, Any], batches: Sequence[Batch], folder: JobFolder) -> set[int]:
    """Generate the pending images of a job and show the progress; return the lines that failed."""
    from ..jobs.engine import work

    failed: set[int] = set()
    total = sum(len(batch.files) for batch in batches)
    with reporting(options.quiet, options.verbose, str(model.get("model", DEFAULT_MODEL)), counted="images"):
        for progress in work(batches, folder, _engine(options, model)):
            count("images", progress.done, total)
            if progress.error is not None and progress.batch is not None:
                lines = sorted(set(progress.batch.lines))
                failed |= set(lines)
                where = f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))} of {options.batch}"
                note(f"{where}: {progress.error}")
    return failed


def _identity(first_seed: int | None, model: dict[str, Any]) -> dict[str, Any]:
    """The values that distinguish a job from another one, in addition to its lines."""
    return {"seed": first_seed, **{name: value for name, value in model.items() if name != "offload"}}


def _engine(options: argparse.Namespace, model: dict[str, Any]) -> Engine:
    """The engine of a job."""
    if options.engine == "ray":
        from ..jobs.ray_engine import ray_engine

        return ray_engine(partial(_open_for_many, options, model), options.workers)
    from ..jobs.engine import local

    return local(_open_for_many(options, model))


def _open_for_many(options: argparse.Namespace, model: dict[str, Any]) -> Pipeline:
    pipe = open_pipeline(options, model)
    pipe.prepare_for_many()
    return pipe


def _absolute(value: Any) -> Any:
    """A flag's value with absolute paths: the job can be resumed from any folder."""
    if isinstance(value, list):
        return [_absolute(each) for each in value]
    return str(value.absolute()) if isinstance(value, Path) else value
