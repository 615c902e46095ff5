"""`bench`: measures the speed of this machine."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from ..pipeline.model_request import DEFAULT_MODEL, ModelRequest
from .options import add_flag


def add_bench(commands: Any) -> None:
    """The command and its flags."""
    parser = commands.add_parser(
        "bench",
        help="measure the speed of this machine",
        description="Time the stages of an image, and compare them with the machine's matrix product.",
    )
    for each in fields(ModelRequest):
        if each.name in ("model", "dtype", "device", "int8"):
            add_flag(parser, each)
    parser.add_argument("--size", type=int, metavar="N", help="side of the image (default: the model's native size)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of each stage (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile for CUDA")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> None:
    from ..pipeline.pipeline import Pipeline
    from .measure import machine, report

    given = {name: getattr(options, name) for name in ("dtype", "device", "int8") if hasattr(options, name)}
    pipe = Pipeline.from_pretrained(getattr(options, "model", DEFAULT_MODEL), **given)
    if options.compile:
        pipe.compile()
    height, width = (options.size, options.size) if options.size else pipe.info.config.native_size
    placement = pipe.experts[0].placement
    facts = machine(placement.device) | {"weights": placement.dtype, "arithmetic": placement.arithmetic}
    facts["size"] = f"{height} x {width}"
    print(", ".join(f"{name} {value}".replace("torch.", "") for name, value in facts.items()))
    print(f"{'stage':8} {'seconds':>9} {'TFLOP':>8} {'TFLOP/s':>8}  of the matrix rate")
    for line in report(pipe, height, width, options.repeats):
        rate = line["tflop"] / line["seconds"]
        print(f"{line['stage']:8} {line['seconds']:9.4f} {line['tflop']:8.3f} {rate:8.3f}  {line['share']:6.0%}")
