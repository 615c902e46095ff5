"""Images are saved first, all of them, and printed then: what cannot be printed or saved costs no other image."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import ArgumentError, OutputError
from ..images.output import numbered
from ..pipeline.argument_groups import SOURCES, TEXTS
from ..pipeline.request import Request
from ..weights.path import expanded
from . import interrupts
from .console import UNPRINTED, as_json, note, show, show_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..pipeline.result import Result

STDOUT = Path("-")
_MOST_TEXT = 60_000  # bytes of texts beside which the other parameters fit into a JPEG's EXIF
_SHOWN = ("steps", "sampler", "schedule", "guidance_scale", "strength")  # in a line of JSON


def choose_outputs(given: Path | None, request: Request, with_grid: bool = False) -> list[Path]:
    """The files to write, numbered if they are several, beside which a grid may have its place. Raises `ArgumentError`
    and `OutputError`, before any work, if they cannot be written.
    """
    from ..images.output import check_writable, image_format, is_same_file

    count = request.count
    if given == STDOUT:
        _check_stdout(count)
        return [STDOUT]
    outputs = numbered(given, count) if given else _free(count, with_grid)
    check_writable(outputs[-1])
    texts = "".join(text for name in TEXTS for text in request.texts(name) or ())
    if image_format(outputs[0]) == "JPEG" and 2 * len(texts) + len(texts.encode()) > _MOST_TEXT:
        raise ArgumentError(f"the prompt has {len(texts)} characters, and a JPEG cannot record so many; give a .png")
    steering: list[Any] = [*cast(Any, request.control or ()), *cast(Any, request.reference or ())]
    sources = [*_paths([getattr(request, name) for name in SOURCES]), *_paths([each.image for each in steering])]
    if taken := [path for path in outputs for source in sources if is_same_file(path, source)]:
        raise ArgumentError(f"{taken[0]} is a source and would be overwritten; choose another --output")
    return outputs


def _check_stdout(count: int) -> None:
    if count > 1:
        raise ArgumentError(f"--output - takes one image, and there are {count}; give a file name, it gets numbers")
    if sys.stdout is not None and sys.stdout.isatty():
        raise ArgumentError("--output - would write a PNG to the terminal; redirect stdout, or give a file name")


def _paths(value: Any) -> list[Path]:
    """The paths in a value: one, or lists of some."""
    if isinstance(value, (list, tuple)):
        return [path for each in value for path in _paths(each)]
    return [expanded(value)] if isinstance(value, (str, Path)) else []


def grid_path(outputs: Sequence[Path]) -> Path:
    """The file of the grid of several numbered ones."""
    return outputs[0].with_stem(f"{outputs[0].stem.removesuffix('-1')}-grid")


def _free(count: int, with_grid: bool) -> list[Path]:
    """The default files to write, none of which exists, nor their grid."""
    names = itertools.chain(["picture.png"], (f"picture-{n}.png" for n in itertools.count(2)))
    files = (numbered(Path(name), count) for name in names)
    taken = ([*paths, grid_path(paths)] if with_grid else paths for paths in files)
    return next(paths[:count] for paths in taken if not any(map(os.path.lexists, paths)))


def save(result: Result, outputs: Sequence[Path], seconds: float, in_json: bool) -> int:
    """Save all images and print a line for each; the exit status. Raises `OutputError` with the seeds of the images
    that could not be saved, after all others were.
    """
    from ..images.record import encode_image, save_image

    assert isinstance(result.images, list)
    lines: list[str] = []
    lost: list[int | None] = []
    failure: OutputError | None = None
    for n, (path, image, parameters) in enumerate(zip(outputs, result.images, result.parameters, strict=True)):
        try:
            if path == STDOUT:
                done = show_bytes(encode_image(image, parameters, "PNG"))
                note(_line(path, image, parameters, seconds, in_json))
                return 0 if done else UNPRINTED
            save_image(image, path, parameters)
            lines.append(_line(path, image, parameters, seconds, in_json))
        except OutputError as error:
            failure = failure or error
            lost.append(result.seeds[n])
        except KeyboardInterrupt:
            show(*lines)
            note(f"interrupted; not saved: {_seeds([*lost, *result.seeds[n:]])}")
            return interrupts.status()
    done = show(*lines)
    if failure is not None:
        raise OutputError(f"{failure}; not saved: {_seeds(lost)}") from failure
    return 0 if done else UNPRINTED


def _line(path: Path, image: Image, parameters: Mapping[str, Any], seconds: float, in_json: bool) -> str:
    request, model = parameters["request"], parameters["model"]
    if not in_json:
        return f"{path}  seed {request['seed']}"
    facts = {name: request.get(name) for name in _SHOWN}
    size = {"width": image.width, "height": image.height}
    made = {"model": model.get("model"), "dtype": model.get("dtype"), "seconds": round(seconds, 3)}
    return as_json({"file": str(path), "seed": request["seed"], **size, **facts, **made})


def _seeds(seeds: Sequence[int | None]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
