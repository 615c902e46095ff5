"""`--grid`, `--x` and `--y`: several images as one, and a job whose images differ in one argument or two."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, warn
from ..pipeline.argument_groups import SOURCES, WITH_IMAGE
from ..pipeline.request import Request
from .axes import Axis, read_axis
from .batch import absolute_defaults, run_job
from .console import UNPRINTED, as_json, show
from .replay import read_recorded
from .saving import grid_path

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..jobs.job import Job
    from ..pipeline.result import Result

_MOST_CELLS = 1000
_AXES = {"x": "the columns", "y": "the rows"}


def add_grid_flags(group: Any) -> None:
    """The flags of grids."""
    group.add_argument("--grid", action="store_true", help="also write all images as one, with labels: NAME-grid.png")
    for name, what in _AXES.items():
        group.add_argument(
            f"--{name}",
            metavar="NAME=V,V,...",
            help=f"an argument and its values in {what} of a grid, as in steps=10,20,30; values with commas stand in "
            "quotes; also a part, as in hires.strength or lora.weight. The images and grid.png go to --output-dir "
            "(default: grid, or the next free name), where the same command resumes",
        )


def write_grid(result: Result, outputs: Sequence[Path], in_json: bool) -> int:
    """Write the images of a call as one beside their files, and print its name; the exit status."""
    from ..images.grids import differences, grid

    if len(outputs) == 1:
        warn("--grid has no effect: there is one image; give --num-images")
        return 0
    assert isinstance(result.images, list)
    return _write(grid(result.images, differences(result.parameters)), grid_path(outputs), len(result), in_json)


def _write(image: Image, path: Path, count: int, in_json: bool) -> int:
    from ..images.grids import encode_grid
    from ..images.output import resolve_output, write_file

    write_file(encode_grid(image, path), resolve_output(path))
    size = {"width": image.width, "height": image.height, "images": count}
    line = as_json({"file": str(path), **size}) if in_json else f"{path}  grid of {count} images"
    return 0 if show(line) else UNPRINTED


def generate_table(options: argparse.Namespace, given: dict[str, Any], model: dict[str, Any]) -> int:
    """Generate an image for each pair of values, as a job, and write the grid of all; the exit status."""
    if options.batch or options.output:
        raise ArgumentError("--x and --y exclude --batch and --output; --output-dir is the folder of the images")
    x, y = (None if (text := getattr(options, name)) is None else read_axis(f"--{name}", text) for name in _AXES)
    axes = [axis for axis in (x, y) if axis is not None]
    if len({(axis.name, axis.part) for axis in axes}) < len(axes):
        raise ArgumentError(f"--x and --y are both {axes[0].name}; give another argument, or one of them")
    for axis in axes:
        if not axis.part and axis.name in given:
            raise ArgumentError(f"{axis.name} is given beside an axis of it; leave one out")
    if options.source:
        again = read_recorded(options, given, model)
        given, model = again.request, again.model
    if "prompt" not in {*given, *(axis.name for axis in axes)}:
        raise ArgumentError("there is nothing to generate; give a prompt in quotes, or --x prompt=FIRST,SECOND")
    options.output_dir = options.output_dir or _free_folder()
    seed = _seed(options.output_dir, given.pop("seed", None))
    job = _job(options, absolute_defaults(given), model, seed, x, y)
    status = run_job(options, job, model, seed, "the grid")
    return status if status > 128 else max(status, _write_table(options, x, y))  # it was interrupted


def _job(
    options: argparse.Namespace,
    defaults: Mapping[str, Any],
    model: Mapping[str, Any],
    seed: int,
    x: Axis | None,
    y: Axis | None,
) -> Job:
    """A job with a line for each cell. Raises `ArgumentError` for values that are wrong whatever the model."""
    from ..jobs.job import identity, parse_job

    rows, columns = (1 if axis is None else len(axis.values) for axis in (y, x))
    if rows * columns > _MOST_CELLS:
        raise ArgumentError(f"the grid has {rows * columns} images; expected at most {_MOST_CELLS}")
    lines = []
    for row, column in itertools.product(range(rows), range(columns)):
        cell: dict[str, Any] = {"seed": seed}
        for axis, number in ((x, column), (y, row)):
            if axis is not None:
                base = {**defaults, **cell}
                cell[axis.name] = axis.put(base, number)[axis.name]
        checked = {name: value for name, value in {**defaults, **cell}.items() if name not in (*SOURCES, *WITH_IMAGE)}
        if Request(**{"prompt": "", **checked}).count > 1:
            raise ArgumentError("a grid has one image for each pair of values; give one prompt, and no --num-images")
        lines.append(json.dumps(cell | {"output": f"{row + 1}-{column + 1}.png"}))
    folders = [getattr(options, name, None) for name in ("lora_dir", "control_dir")]
    return parse_job("\n".join(lines), Path(), defaults, identity(model, seed), *folders)


def _seed(folder: Path, given: Any) -> int:
    """The seed of all cells: the given one, that of the job in the folder, or a random one."""
    from ..jobs.folder import first_seed

    if isinstance(given, list):
        raise ArgumentError("--seed is given several times; all images of a grid have one. Try --x seed=1,2,3")
    known = given if given is not None else first_seed(folder)
    return secrets.randbelow(2**32) if known is None else known


def _free_folder() -> Path:
    names = itertools.chain(["grid"], (f"grid-{n}" for n in itertools.count(2)))
    return next(Path(name) for name in names if not os.path.lexists(name))


def _write_table(options: argparse.Namespace, x: Axis | None, y: Axis | None) -> int:
    """Write the grid of the images that there are."""
    from ..images.grids import grid
    from ..images.image import open_picture

    columns = 1 if x is None else len(x.values)
    rows = 1 if y is None else len(y.values)
    files = [options.output_dir / f"{row + 1}-{column + 1}.png" for row in range(rows) for column in range(columns)]
    images = [open_picture(file) if file.exists() else None for file in files]
    if not any(images):
        return 1
    x_labels, y_labels = (None if axis is None else axis.labels for axis in (x, y))
    whole = grid(images, columns=columns, x_labels=x_labels, y_labels=y_labels)
    return _write(whole, options.output_dir / "grid.png", len(images), options.json)
