"""`generate --batch`: runs a job of many images and shows its progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, SDXLError, warn
from ..pipeline.argument_groups import SOURCES, WITH_IMAGE
from ..pipeline.model_request import DEFAULT_MODEL
from ..pipeline.request import Request
from ..pipeline.request_checks import MOST_IMAGES
from . import interrupts
from .console import UNPRINTED, as_json, note, show
from .options import model_request, open_pipeline, read_file
from .progress import count, reporting

if TYPE_CHECKING:
    from ..jobs.engine import Engine
    from ..jobs.folder import JobFolder
    from ..jobs.job import Batch, Job
    from ..pipeline.batch_sizes import BatchSizes
    from ..pipeline.pipeline import Pipeline
    from ..runtime.precision import Precision

JOB_FLAGS = ("output_dir", "batch_size", "engine", "workers")
"""The flags that need --batch."""

_AUTO = "auto"
_STDIN = "-"
_LONGEST = 2000  # letters of a message


def add_batch_flags(group: Any) -> None:
    """The flags of a job."""
    group.add_argument(
        "--batch",
        type=read_file,
        metavar="FILE",
        help="a file of JSON lines, or - for the standard input: each line is an object with the arguments of images, "
        "such as negative_prompt, and optionally output, a file name; other flags apply to all lines. The same command "
        "resumes a job that was stopped, also with another batch size; several processes may work on one job",
    )
    group.add_argument(
        "--output-dir", type=read_file, metavar="DIR", help="the folder of the images and of the job's state"
    )
    group.add_argument(
        "--batch-size",
        metavar="N",
        help="images with the same settings generated together: a number, or auto for as many as fit into memory and "
        "make this device faster (default: 1)",
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
    if options.output_dir is None or options.output or options.source:
        raise ArgumentError("--batch FILE requires --output-dir DIR and excludes --output and --from; change the flags")
    first_seed = given.pop("seed", None)
    if isinstance(first_seed, list):
        raise ArgumentError("--seed is given several times; with --batch it is the seed of the first image")
    defaults = absolute_defaults(given)
    # a wrong flag is one error, not one for each line
    checked = {name: value for name, value in defaults.items() if name not in (*SOURCES, *WITH_IMAGE)}
    Request(**{"prompt": "", "seed": first_seed, **checked})
    where = "the standard input" if str(options.batch) == _STDIN else str(options.batch)
    return run_job(options, _read(options, defaults, model, first_seed), model, first_seed, where)


def absolute_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that apply to all lines of a job, with absolute paths: it can be resumed from any folder."""
    return {name: _absolute(value) for name, value in given.items()}


def run_job(options: argparse.Namespace, job: Job, model: dict[str, Any], first_seed: int | None, where: str) -> int:
    """Run the pending part of a job in the folder of the flags, and print the result; `where` names its lines. The exit
    status is 1 if some failed.
    """
    options.batch_size = 1 if options.batch_size is None else read_batch_size(options.batch_size)
    options.engine = options.engine or "local"
    if options.batch_size is None and options.engine != "local":
        raise ArgumentError(
            f"--batch-size is auto with --engine {options.engine}; expected a number, since sizes are tried in one "
            "process. Try --batch-size 4"
        )
    if options.workers is not None and options.engine == "local":
        warn("--workers has no effect with --engine local; give --engine ray too")
    from ..jobs.folder import open_folder

    with open_folder(options.output_dir, job, first_seed) as folder:
        for line, error in job.faults.items():
            note(_report([line], where, error))
        failed, printed = set(job.faults), True
        try:
            if folder.count_done() < len(job.files):
                more, printed = _work(options, model, folder, where)
                failed |= more
        except KeyboardInterrupt:
            note("interrupted; the same command resumes the job")
            return interrupts.status()
        rest = f"; {len(failed)} line{'s' * (len(failed) > 1)} failed" if failed else ""
        summary = f"{folder.count_done()} of {len(job.files)} images are in {folder.path}{rest}"
    if options.json:
        note(summary)
    else:
        printed &= show(summary)
    return 1 if failed else 0 if printed else UNPRINTED


def _read(options: argparse.Namespace, defaults: dict[str, Any], model: dict[str, Any], first_seed: int | None) -> Job:
    """The job in a file, or in the standard input."""
    path, folders = options.batch, [getattr(options, name, None) for name in ("lora_dir", "control_dir")]
    from ..jobs.job import identity, parse_job, read_job

    if str(path) != _STDIN:
        return read_job(path, defaults, identity(model, first_seed), *folders)
    if sys.stdin is None:
        raise ArgumentError("the standard input cannot be read (it is closed); give JSON lines in UTF-8")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except (OSError, AttributeError, UnicodeDecodeError) as error:  # a program's own text stream has no buffer
        raise ArgumentError(f"the standard input cannot be read ({error}); give JSON lines in UTF-8") from error
    return parse_job(text, Path(), defaults, identity(model, first_seed), *folders)


def _report(lines: Sequence[int], where: str, error: SDXLError) -> str:
    """The message for lines that failed, of a bounded length."""
    text = f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))} of {where}: {error}"
    return text[:_LONGEST] + "..." * (len(text) > _LONGEST)


def _work(options: argparse.Namespace, model: dict[str, Any], folder: JobFolder, where: str) -> tuple[set[int], bool]:
    """Generate the pending images of a job, with progress; the lines that failed, and whether all could be printed."""
    from ..jobs.engine import work
    from ..pipeline.batch_sizes import MOST, BatchSizes

    failed: set[int] = set()
    sizes = BatchSizes(options.batch_size)
    printed, total = True, len(folder.job.files)
    with reporting(options.quiet, options.verbose, str(model.get("model", DEFAULT_MODEL)), counted="images"):
        engine, fits = _engine(options, model, folder, sizes)
        for progress in work(folder.batches(sizes.size or MOST), folder, engine, sizes, fits):
            count("images", progress.done, total)
            if options.json and progress.error is None and progress.batch is not None:
                pairs = zip(progress.batch.files, progress.batch.arguments["seed"], strict=True)
                printed &= show(*(as_json({"file": str(folder.path / file), "seed": seed}) for file, seed in pairs))
            if progress.error is not None and progress.batch is not None:
                lines = sorted(set(progress.batch.lines))
                failed |= set(lines)
                note(_report(lines, where, progress.error))
    return failed, printed


def _engine(
    options: argparse.Namespace, model: dict[str, Any], folder: JobFolder, sizes: BatchSizes
) -> tuple[Engine, Callable[[Batch, int], int | None]]:
    """The engine of a job, and how many images it has memory for."""
    from ..jobs.opening import Opening, open_local

    opening = Opening(
        partial(_choose, options, model), partial(_open_for_many, options, model), getattr(options, "dtype", None)
    )
    if options.engine == "ray":
        from ..jobs.ray_engine import ray_engine

        return ray_engine(opening, folder, options.workers), lambda batch, most: most
    from ..jobs.engine import fitting, local

    pipe = open_local(opening, folder)
    return local(pipe, sizes), partial(fitting, pipe)


def _choose(options: argparse.Namespace, model: dict[str, Any]) -> Precision:
    from ..pipeline.loading import choose_precision

    return choose_precision(model_request(options, model))


def _open_for_many(options: argparse.Namespace, model: dict[str, Any], precision: Precision) -> Pipeline:
    pipe = open_pipeline(options, model, precision)
    pipe.prepare_for_many()
    return pipe


def read_batch_size(text: str) -> int | None:
    """The size of batches; None for auto."""
    if text == _AUTO:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MOST_IMAGES):
        raise ArgumentError(f"--batch-size is {text}; expected a number of at least 1, or auto")
    return int(text)


def _absolute(value: Any) -> Any:
    """A flag's value with absolute paths: the job can be resumed from any folder."""
    if isinstance(value, list):
        return [_absolute(each) for each in value]
    return str(value.absolute()) if isinstance(value, Path) else value
