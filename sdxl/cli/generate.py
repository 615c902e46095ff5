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
from .options import add_flags, default_model, given_model, given_request, open_pipeline
from .parser import Parser, command
from .progress import reporting
from .replay import compare_precision, compare_sources, replay, replay_precision
from .saving import choose_outputs, save

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
        precision = None if "dtype" in model else replay_precision(options.source)
        given, model, hashes = replay(options.source, given, model)
    if "prompt" not in given:
        raise ArgumentError("there is nothing to generate; give a prompt in quotes, or --from picture.png")
    model = default_model() | model
    garbage.import_whole("sdxl.pipeline.pipeline")
    from ..pipeline.sources import read_sources

    request = Request(**given)
    sources = read_sources(request)  # before the model is loaded: a wrong image costs no time
    compare_sources(sources, hashes)
    outputs = choose_outputs(options.output, request)
    title = str(model.get("model", DEFAULT_MODEL))
    with reporting(options.quiet, options.verbose, title):
        pipe = open_pipeline(options, model, precision)
        if precision is not None:
            compare_precision(precision, pipe)
        began = time.perf_counter()
        result = pipe(**(given | sources.arguments()), progress=False)
    return save(result, outputs, time.perf_counter() - began, options.json)
