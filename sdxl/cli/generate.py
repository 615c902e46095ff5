"""`generate`: new images, or the image of a PNG again."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..errors import ArgumentError
from ..pipeline.model_request import DEFAULT_MODEL
from ..pipeline.request import Request
from . import garbage
from .batch import JOB_FLAGS, add_batch_flags, generate_batch
from .console import UNPRINTED
from .grids import add_grid_flags, generate_table, write_grid
from .options import add_flags, default_model, given_model, given_request, open_pipeline
from .parser import Parser, command
from .progress import reporting
from .replay import compare_precision, compare_sources, read_recorded
from .saving import choose_outputs, save
from .verification import check_verification, show_verification

_EPILOG = """\
examples:
  sdxl generate "a red circle on a blue background" --model miniature
  sdxl generate "a lighthouse" --model sd_xl_base_1.0.safetensors --size 1216x832 --num-images 4
  sdxl generate "a watercolour of a lighthouse" --image photo.jpg --strength 0.5
  sdxl generate "a sailing boat" --image photo.jpg --mask mask.png
  sdxl generate --from picture.png --seed -1
  sdxl generate --from picture.png --verify
  sdxl generate "a lighthouse" --hires scale=1.5,strength=0.5
  sdxl generate "a lighthouse" --seed 1 --x steps=10,20,30 --y sampler=euler,dpmpp_2m
  sdxl generate --batch job.jsonl --output-dir out

sdxl --help shows the environment and the exit status."""


def generate_parser() -> Parser:
    """The command and its flags."""
    parser = command("generate", "Generate images from a prompt.", _EPILOG, '["PROMPT"] [flags]')
    parser.add_argument("words", nargs="*", metavar="PROMPT", help="what to generate, in quotes; or --prompt")
    add_flags(parser)
    many = parser.add_argument_group("many images")
    add_grid_flags(many)
    add_batch_flags(many)
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--json", action="store_true", help="a line of JSON for each image in place of its name")
    shown.add_argument("--quiet", action="store_true", help="no progress")
    shown.add_argument("-v", "--verbose", action="count", default=0, help="a log of the stages; -vv: of each step")
    parser.set_defaults(run=_generate)
    return parser


def _generate(options: argparse.Namespace) -> int:
    check_verification(options)
    request, model = given_request(options), given_model(options)
    if options.x is not None or options.y is not None:
        return generate_table(options, request, default_model() | model)
    if options.batch and options.grid:
        raise ArgumentError("--grid belongs to the images of one call; --x and --y make a grid of a job")
    if options.batch:
        return generate_batch(options, request, default_model() | model)
    if lost := [flag for flag in JOB_FLAGS if getattr(options, flag) is not None]:
        advice = "; --num-images is the number of images" if lost[0] == "batch_size" else ""
        raise ArgumentError(f"--{lost[0].replace('_', '-')} requires --batch FILE{advice or '; give both'}")
    return _generate_one(options, request, model)


def _generate_one(options: argparse.Namespace, given: dict[str, Any], model: dict[str, Any]) -> int:
    again = None
    if options.source:
        again = read_recorded(options, given, model)
        given, model = again.request, again.model
    if "prompt" not in given:
        raise ArgumentError("there is nothing to generate; give a prompt in quotes, or --from picture.png")
    model = default_model() | model
    garbage.import_whole("sdxl.pipeline.pipeline")
    from ..pipeline.sources import read_sources

    request = Request(**given)
    sources = read_sources(request)  # before the model is loaded: a wrong image costs no time
    compare_sources(sources, again.sources if again else {})
    outputs = [] if options.verify else choose_outputs(options.output, request, options.grid)
    title = str(model.get("model", DEFAULT_MODEL))
    precision = again.precision if again else None
    with reporting(options.quiet, options.verbose, title):
        pipe = open_pipeline(options, model, precision)
        if precision is not None:
            compare_precision(precision, pipe)
        began = time.perf_counter()
        result = pipe(**(given | sources.arguments()), progress=False)
    if options.verify and again is not None:
        return show_verification(options.source, again, result, options.json)
    seconds = time.perf_counter() - began
    if options.output is None:  # another process may have taken the free names meanwhile
        outputs = choose_outputs(None, request, options.grid)
    status = save(result, outputs, seconds, options.json)
    if options.grid and status in (0, UNPRINTED):
        status = max(status, write_grid(result, outputs, options.json))
    return status
