"""`generate`: new images, or the image of a PNG again."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, SDXLWarning
from ..pipeline.model_request import DEFAULT_MODEL, RECORDED, ModelRequest
from ..pipeline.request import SOURCES, Request
from .batch import JOB_FLAGS, add_batch_flags, generate_batch
from .console import note
from .options import (
    add_flags,
    default_model,
    given_model,
    given_request,
    open_pipeline,
)
from .parser import Parser, command
from .progress import reporting
from .saving import choose_outputs, save

if TYPE_CHECKING:
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.sources import Sources
    from ..runtime.precision import Precision


_EPILOG = """\
examples:
  sdxl generate "a red circle on a blue background" --model miniature
  sdxl generate "a lighthouse" --model sd_xl_base_1.0.safetensors --size 1216x832 --num-images 4
  sdxl generate "a watercolour of a lighthouse" --image photo.jpg --strength 0.5
  sdxl generate "a sailing boat" --image photo.jpg --mask mask.png
  sdxl generate --from picture.png --seed -1
  sdxl generate --batch job.jsonl --output-dir out

sdxl --help shows the environment and the exit status."""


def generate_parser() -> Parser:
    """The command and its flags."""
    parser = command("generate", "Generate images from a prompt.", _EPILOG, '["PROMPT"] [flags]')
    parser.add_argument("words", nargs="*", metavar="PROMPT", help="what to generate, in quotes; or --prompt")
    add_flags(parser)
    add_batch_flags(parser.add_argument_group("many images"))
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--json", action="store_true", help="a line of JSON for each image in place of its name")
    shown.add_argument("--quiet", action="store_true", help="no progress")
    shown.add_argument("-v", "--verbose", action="count", default=0, help="a log of the stages; -vv: of each step")
    parser.set_defaults(run=_generate)
    return parser


def _generate(options: argparse.Namespace) -> int:
    request, model = given_request(options), given_model(options)
    if options.batch:
        return generate_batch(options, request, default_model() | model)
    if lost := [flag for flag in JOB_FLAGS if getattr(options, flag) is not None]:
        advice = "; --num-images is the number of images" if lost[0] == "batch_size" else ""
        raise ArgumentError(f"--{lost[0].replace('_', '-')} requires --batch FILE{advice or '; give both'}")
    return _generate_one(options, request, model)


def _generate_one(options: argparse.Namespace, given: dict[str, Any], model: dict[str, Any]) -> int:
    hashes: dict[str, str] = {}
    precision = None
    if options.source:
        precision = None if "dtype" in model else _recorded_precision(options.source)
        given, model, hashes = _replay(options.source, given, model)
    if "prompt" not in given:
        raise ArgumentError("there is nothing to generate; give a prompt in quotes, or --from picture.png")
    model = default_model() | model
    from ..pipeline.sources import read_sources

    request = Request(**given)
    sources = read_sources(request)  # before the model is loaded: a wrong image costs no time
    _compare(sources, hashes)
    outputs = choose_outputs(options.output, request)
    title = str(model.get("model", DEFAULT_MODEL))
    with reporting(options.quiet, options.verbose, title):
        pipe = open_pipeline(options, model, precision)
        if precision is not None:
            _compare_precision(precision, pipe)
        began = time.perf_counter()
        result = pipe(**(given | sources.arguments()), progress=False)
    return save(result, outputs, time.perf_counter() - began, options.json)


def _replay(
    source: Path, given: dict[str, Any], model: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The recorded arguments of an image, overridden by the given ones, and the hashes of its own sources."""
    from ..images.png import read_parameters
    from ..pipeline.recorded_model import find_recorded
    from ..pipeline.replay import check_replay

    recorded = read_parameters(source)
    check_replay(recorded, source, {*given, *model})
    known = {each.name for each in fields(Request)}
    request = {name: value for name, value in recorded["request"].items() if name in known}
    hashes = {name: str(value) for name in SOURCES if (value := request.pop(name, None)) is not None}
    for name in hashes:
        if name not in given:
            raise ArgumentError(
                f"{source} was made from {name}, which it does not contain; give it again with --{name}"
            )
    found = dict(find_recorded(recorded["model"], model))
    return request | given, _recorded_model(source, recorded["model"]) | found | model, hashes


def _recorded_model(source: Path, recorded: Mapping[str, Any]) -> dict[str, Any]:
    model = {name: value for name, value in recorded.items() if name in RECORDED}
    options = {each.name: each.metadata["option"] for each in fields(ModelRequest)}
    for name, value in model.items():
        if type(value) is not (list if options[name].repeated else options[name].type):
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
        note(f"{precision}, as recorded; this machine would choose {own}")


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
