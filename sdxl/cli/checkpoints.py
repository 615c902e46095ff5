"""`inspect` and `convert`: identify a file, and write a model in the other layout."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SDXLError
from ..pipeline.model_request import ModelRequest
from ..pipeline.request import Request
from .adapter_report import adapter_lines
from .console import UNPRINTED, as_json, note, show
from .idle import warn_of_variant
from .image_report import IMAGES, image_report
from .options import add_flag, read_file
from .parser import Parser, command

if TYPE_CHECKING:
    from ..weights.audit import Report


def inspect_parser() -> Parser:
    """The command and its flags."""
    parser = command(
        "inspect",
        "Identify a model, an adapter or an embedding: what it is for, its components and keys. Or show the parameters "
        "of an image.",
        usage="FILE... [--json] [--variant TEXT]",
    )
    parser.add_argument(
        "files", type=read_file, nargs="+", metavar="FILE", help="a .safetensors file, a folder, or an image"
    )
    parser.add_argument("--json", action="store_true", help="print the reports, or the parameters, as JSON")
    parser.add_argument("--variant", help="which files of a folder to read, such as fp16")
    parser.set_defaults(run=_inspect)
    return parser


def convert_parser() -> Parser:
    """The command and its flags."""
    parser = command(
        "convert",
        "Write SRC as a single file (DST ends in .safetensors) or as a diffusers folder, with LoRAs merged in.",
        usage="SRC DST [--variant TEXT] [--lora FILE]",
    )
    parser.add_argument("source", type=read_file, metavar="SRC")
    parser.add_argument("target", type=read_file, metavar="DST")
    parser.add_argument("--variant", help="which files of a folder to read, such as fp16")
    for each in (*fields(Request), *fields(ModelRequest)):
        if each.name in ("loras", "lora_dir") and each.metadata["option"].flag is not None:
            add_flag(parser, each)
    parser.set_defaults(run=_convert, loras=[], lora_dir=None)
    return parser


def _inspect(options: argparse.Namespace) -> int:
    """A report of each file. One of several that cannot be read stops no other."""
    failed, printed = False, True
    for file in options.files:
        try:
            printed &= show(*_lines(file, options.json, options.variant))
        except SDXLError as error:
            if len(options.files) == 1:
                raise
            note(f"error: {error}")
            failed = True
    return 1 if failed else 0 if printed else UNPRINTED


def _lines(file: Path, in_json: bool, variant: str | None) -> list[str]:
    if variant is not None:
        warn_of_variant(variant, file)
    return image_report(file, in_json) if file.suffix.lower() in IMAGES else _model(file, in_json, variant)


def _model(file: Path, in_json: bool, variant: str | None) -> list[str]:
    from ..adapters.inspection import inspect
    from ..weights.audit import Report

    report = inspect(file, variant)
    if in_json:
        return as_json(asdict(report), indent=2).split("\n")
    return [*(_report(report) if isinstance(report, Report) else adapter_lines(report))]


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
    if report.family is not None:
        yield f"  preset {report.family}"
    yield from (f"  wrong: {sentence}" for sentence in report.wrong)
    yield from (f"  note: {sentence}" for sentence in report.notes)


def _convert(options: argparse.Namespace) -> int:
    from ..adapters.merging import convert

    if options.variant is not None:
        warn_of_variant(options.variant, options.source)
    convert(options.source, options.target, options.variant, options.loras, options.lora_dir)
    return 0 if show(str(options.target)) else UNPRINTED
