"""`inspect` and `convert`: identify a model file, and write the model in the other layout."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from .options import read_file


def add_inspect(commands: Any) -> None:
    """The command and its flags."""
    parser = commands.add_parser(
        "inspect",
        help="identify a model file",
        description="Identify a file or folder: its model, components and keys.",
    )
    parser.add_argument("file", type=read_file, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--variant", help="which files of a folder to read, such as fp16")
    parser.set_defaults(run=_inspect)


def add_convert(commands: Any) -> None:
    """The command and its flags."""
    parser = commands.add_parser(
        "convert",
        help="write a single file as a folder, or a folder as a single file",
        description="Write SRC as a single file (DST ends in .safetensors) or as a diffusers folder.",
    )
    parser.add_argument("source", type=read_file, metavar="SRC")
    parser.add_argument("target", type=read_file, metavar="DST")
    parser.add_argument("--variant", help="which files of a folder to read, such as fp16")
    parser.set_defaults(run=_convert)


def _inspect(options: argparse.Namespace) -> None:
    from ..weights.audit import inspect
    from ..weights.keymap import summarize

    report = inspect(options.file, options.variant)
    if options.json:
        print(json.dumps(asdict(report), default=str, indent=2))
        return
    print(f"{report.path}: {report.kind}")
    for name, component in report.parts.items():
        counts = component.dtypes.items()
        dtypes = ", ".join(dtype if len(counts) == 1 else f"{n} {dtype}" for dtype, n in counts)
        print(f"  {name:16} {component.tensors:6,} tensors {component.parameters:14,} parameters  {dtypes}")
    for label, keys in (("missing", report.missing), ("unexpected", report.unexpected), ("ignored", report.ignored)):
        if keys:
            print(f"  {label} {len(keys)}: {summarize(keys)}")
    if (family := getattr(report, "family", None)) is not None:
        print(f"  preset: {family}")
    for sentence in report.wrong:
        print(f"  wrong: {sentence}")
    for sentence in report.notes:
        print(f"  note: {sentence}")


def _convert(options: argparse.Namespace) -> None:
    from ..weights.save import convert

    convert(options.source, options.target, options.variant)
    print(options.target)
