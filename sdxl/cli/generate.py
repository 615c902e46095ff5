"""`generate`: new images, or the image of a PNG again."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, SDXLWarning
from ..pipeline.model_request import RECORDED, ModelRequest
from ..pipeline.request import SOURCES, Request
from .batch import add_batch_flags, generate_batch
from .options import add_flag, add_request_flags, given_model, given_request, open_pipeline, read_file

if TYPE_CHECKING:
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.sources import Sources
    from ..runtime.precision import Precision


def add_generate(commands: Any) -> None:
    """The command and its flags."""
    parser = commands.add_parser("generate", help="generate images", description="Generate images from a prompt.")
    model = parser.add_argument_group("model")
    for each in fields(ModelRequest):
        add_flag(model, each)
    model.add_argument("--compile", action="store_true", help="compile for CUDA: worth it for many images of one size")
    add_request_flags(parser.add_argument_group("image"))
    files = parser.add_argument_group("files")
    files.add_argument(
        "--output",
        type=read_file,
        metavar="PNG",
        help="the file to write; several images get numbers (default: picture.png, or the next free name)",
    )
    files.add_argument("--from", type=read_file, dest="source", metavar="PNG", help="generate this image again")
    files.add_argument("--quiet", action="store_true", help="no progress bar")
    add_batch_flags(parser.add_argument_group("many images"))
    parser.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> int:
    request, model = given_request(options), given_model(options)
    if options.batch:
        return generate_batch(options, request, model)
    if options.output_dir:
        raise ArgumentError("--output-dir requires --batch FILE; give --output for a single image")
    _generate_one(options, request, model)
    return 0


def _generate_one(options: argparse.Namespace, given: dict[str, Any], model: dict[str, Any]) -> None:
    hashes: dict[str, str] = {}
    precision = None
    if options.source:
        precision = None if "dtype" in model else _recorded_precision(options.source)
        given, model, hashes = _replay(options.source, given, model)
    if "prompt" not in given:
        raise ArgumentError('there is nothing to generate; give --prompt "..." or --from picture.png')
    from ..images.png import check_writable, save_png
    from ..pipeline.sources import read_sources

    files = [path for name in SOURCES for path in _paths(given.get(name))]
    request = Request(**given)
    sources = read_sources(request)  # before the model is loaded: a wrong image costs no time
    _compare(sources, hashes)
    outputs = _outputs(options.output, request.count) if options.output else _free_outputs(request.count)
    check_writable(outputs[-1])
    if taken := {path.resolve() for path in outputs} & {path.resolve() for path in files}:
        raise ArgumentError(f"{taken.pop()} is a source and would be overwritten; choose another --output")
    pipe = open_pipeline(options, model, precision)
    if precision is not None:
        _compare_precision(precision, pipe)
    result = pipe(**(given | sources.arguments()), progress=not options.quiet)
    for path, image, parameters, seed in zip(outputs, result.images, result.parameters, result.seeds, strict=True):
        save_png(image, path, parameters)
        print(f"{path}  seed {seed}")


def _paths(value: Any) -> list[Path]:
    return [value] if isinstance(value, Path) else value if isinstance(value, list) else []


def _outputs(path: Path, count: int) -> list[Path]:
    """The files to write; several get numbers."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{n + 1}") for n in range(count)]


def _free_outputs(count: int) -> list[Path]:
    """The default files to write, none of which exists."""
    names = itertools.chain(["picture.png"], (f"picture-{n}.png" for n in itertools.count(2)))
    files = (_outputs(Path(name), count) for name in names)
    return next(paths for paths in files if not any(map(os.path.lexists, paths)))


def _replay(
    source: Path, given: dict[str, Any], model: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The recorded arguments of an image, overridden by the given ones, and the hashes of its own sources."""
    from ..images.png import read_parameters
    from ..pipeline.defaults import recorded_request
    from ..pipeline.recorded_model import find_recorded
    from ..pipeline.replay import check_replay
    from ..pipeline.tags import untagged_loras

    recorded = read_parameters(source)
    check_replay(recorded, source, {*given, *model})
    known = {each.name for each in fields(Request)}
    request = {name: value for name, value in recorded_request(recorded).items() if name in known}
    hashes = {name: str(value) for name in SOURCES if (value := request.pop(name, None)) is not None}
    for name in hashes:
        if name not in given:
            raise ArgumentError(
                f"{source} was made from {name}, which it does not contain; give it again with --{name}"
            )
    if "prompt" in given and "loras" in request:
        request["loras"] = untagged_loras(request)
    found = dict(find_recorded(recorded["model"], model))
    return request | given, _recorded_model(source, recorded["model"]) | found | model, hashes


def _recorded_model(source: Path, recorded: Mapping[str, Any]) -> dict[str, Any]:
    model = {name: value for name, value in recorded.items() if name in RECORDED}
    types = {each.name: each.metadata["option"].type for each in fields(ModelRequest)}
    for name, value in model.items():
        if type(value) is not types[name]:
            raise ArgumentError(
                f"the parameters in {source} are damaged ({name} is {value!r}); give another PNG of sdxl"
            )
    return model


def _recorded_precision(source: Path) -> Precision | None:
    from ..images.png import read_parameters
    from ..runtime.precision import recorded_precision

    return recorded_precision(read_parameters(source)["model"])


def _compare_precision(precision: Precision, pipe: Pipeline) -> None:
    """Say so where this machine would have chosen another precision than an image has."""
    from ..runtime.placement import fastest

    if (own := fastest(pipe.device)) != precision:
        print(f"{precision}, as recorded; this machine would choose {own}", file=sys.stderr)


def _compare(sources: Sources, hashes: dict[str, str]) -> None:
    """Warn if an image is generated again from another source than the first time."""
    from ..images.image import fingerprint

    for name, recorded in hashes.items():
        if fingerprint(sources.arguments()[name][0]) != recorded:
            warnings.warn(
                f"--{name} is not the one that the recorded image was made from; the result will differ",
                SDXLWarning,
                stacklevel=2,
            )
