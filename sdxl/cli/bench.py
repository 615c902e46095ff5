"""`bench`: measures the speed of this machine."""

from __future__ import annotations

import argparse
from dataclasses import fields

from ..pipeline.model_request import DEFAULT_MODEL, ModelRequest
from .console import UNPRINTED, show
from .options import add_flag, default_model, read_size
from .parser import Parser, command


def bench_parser() -> Parser:
    """The command and its flags."""
    parser = command("bench", "Time the stages of an image, and compare them with the machine's matrix product.")
    for each in fields(ModelRequest):
        if each.name in ("model", "dtype", "device", "int8", "fp8"):
            add_flag(parser, each)
    parser.add_argument(
        "--size", type=read_size, metavar="WxH", help="width and height, or a side (default: the model's native size)"
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of each stage (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile for CUDA")
    parser.set_defaults(run=_bench)
    return parser


def _bench(options: argparse.Namespace) -> int:
    from ..pipeline.pipeline import Pipeline
    from .compiling import compile_pipeline
    from .measure import machine, path, report

    given = {name: getattr(options, name) for name in ("dtype", "device", "int8", "fp8") if hasattr(options, name)}
    default = default_model().get("model", DEFAULT_MODEL)
    pipe = Pipeline.from_pretrained(getattr(options, "model", default), **given)
    if options.compile:
        compile_pipeline(pipe)
    height, width = options.size[::-1] if options.size else pipe.info.config.native_size
    placement = pipe.experts[0].placement
    facts = machine(placement.device) | {"weights": placement.dtype, "arithmetic": placement.arithmetic}
    facts["size"] = f"{width} x {height}"
    done = show(", ".join(f"{name} {value}".replace("torch.", "") for name, value in facts.items()))
    if placement.device.type == "cpu":
        done &= show(path(placement))
    done &= show(f"{'stage':8} {'seconds':>9} {'TFLOP':>8} {'TFLOP/s':>8}  of the matrix rate")
    for line in report(pipe, height, width, options.repeats):
        rate, share = line["tflop"] / line["seconds"], line["share"]
        done &= show(f"{line['stage']:8} {line['seconds']:9.4f} {line['tflop']:8.3f} {rate:8.3f}  {share:6.0%}")
    return 0 if done else UNPRINTED
