"""`inspect` and `convert`: identify a file, and write a model in the other layout."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from .console import UNPRINTED, as_json, show
from .idle import warn_of_variant
from .image_report import IMAGES, image_report
from .options import read_file
from .parser import Parser, command

if TYPE_CHECKING:
    from ..weights.audit import Report


def inspect_parser() -> Parser:
    """The command and its flags."""
    parser = command(
        "inspect",
        "Identify a model file or folder: its model, components and keys. Or show the parameters of an image.",
        usage="FILE [--json] [--variant TEXT]",
    )
    parser.add_argument("file", type=read_file, metavar="FILE", help="a .safetensors file, a folder, or an image")
    parser.add_argument("--json", action="store_true", help="print the report, or the parameters, as JSON")
    parser.add_argument("--variant", help="which files of a folder to read, such as fp16")
    parser.set_defaults(run=_inspect)
    return parser


def convert_parser() -> Parser:
    """The command and its flags."""
    parser = command(
        "convert",
        "Write SRC as a single file (DST ends in .safetensors) or as a diffusers folder.",
        usage="SRC DST [--variant TEXT]",
    )
    parser.add_argument("source", type=read_file, metavar="SRC")
    parser.add_argument("target", type=read_file, metavar="DST")
    parser.add_argument("--variant", help="which files of a folder to read, such as fp16")
    parser.set_defaults(run=_convert)
    return parser


def _inspect(options: argparse.Namespace) -> int:
    if options.variant is not None:
        warn_of_variant(options.variant, options.file)
    lines = image_report(options.file, options.json) if options.file.suffix.lower() in IMAGES else _model(options)
    return 0 if show(*lines) else UNPRINTED


def _model(options: argparse.Namespace) -> list[str]:
    from ..weights.audit import inspect

    report = inspect(options.file, options.variant)
    return as_json(asdict(report), indent=2).split("\n") if options.json else [*_report(report)]


def _report(report: Report) -> Iterator[str]:
    from ..weights.keymap import summarize

    yield f"{report.path}: {report.kind}"
    for name, component in report.parts.items():
        counts = component.dtypes.items()
        dtypes = ", ".join(dtype if len(counts) == 1 else f"{n} {dtype}" for dtype, n in counts)
        yield f"  {name:16} {component.tensors:6,} tensors {component.parameters:14,} parameters  {dtypes}"
    for label, keys in (("missing", report.missing), ("unexpected", report.unexpected), ("ignored", report.ignored)):
        if keys:
            yield f"  {label} {len(keys)}: {summarize(keys)}"
    yield from (f"  wrong: {sentence}" for sentence in report.wrong)
    yield from (f"  note: {sentence}" for sentence in report.notes)


def _convert(options: argparse.Namespace) -> int:
    from ..weights.save import convert

    if options.variant is not None:
        warn_of_variant(options.variant, options.source)
    convert(options.source, options.target, options.variant)
    return 0 if show(str(options.target)) else UNPRINTED
