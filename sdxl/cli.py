"""The command line: generate, inspect, convert. The only module that prints."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import Any

from .errors import ArgumentError, SDXLError, SDXLWarning
from .request import Request
from .version import __version__

DEFAULT_MODEL = "stabilityai/stable-diffusion-xl-base-1.0"
_REPEATED = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2", "seed")
_LOADING = ("model", "unet", "vae", "revision", "variant", "dtype")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error, 2 for wrong arguments, 130 for an interruption."""
    options = _parser().parse_args(arguments)
    warnings.formatwarning = _format_warning
    warnings.simplefilter("always", SDXLWarning)
    try:
        options.run(options)
    except ArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SDXLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _format_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    return f"warning: {message}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sdxl", description="Stable Diffusion XL in PyTorch.")
    parser.add_argument("--version", action="version", version=f"sdxl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="draw pictures", description="Draw pictures from a prompt."))
    inspect = commands.add_parser(
        "inspect", help="say what a model file is", description="Say what a file or folder is."
    )
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="print the report as JSON")
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser(
        "convert",
        help="write a single file as a folder, or a folder as a single file",
        description="Write SRC as a single file (DST ends in .safetensors) or as a diffusers folder.",
    )
    convert.add_argument("source", type=Path, metavar="SRC")
    convert.add_argument("target", type=Path, metavar="DST")
    convert.add_argument("--variant", help="which files of a folder to read, such as fp16")
    convert.set_defaults(run=_convert)
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    absent = argparse.SUPPRESS  # so that --from can tell what was given
    model.add_argument(
        "--model", default=absent, help=f"a file, a folder, a hub id, or miniature (default: {DEFAULT_MODEL})"
    )
    model.add_argument("--unet", default=absent, help="take the UNet from this file, folder or hub id")
    model.add_argument("--vae", default=absent, help="take the VAE from this file, folder or hub id")
    model.add_argument("--revision", default=absent, help="a branch, tag or commit on the hub")
    model.add_argument("--variant", default=absent, help="which files of a folder or hub model, such as fp16")
    model.add_argument(
        "--dtype",
        default=absent,
        help="float32, bfloat16 or float16 (default: bfloat16 where it is fast, else float32)",
    )
    model.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    picture = parser.add_argument_group("picture")
    for each in fields(Request):
        _add_option(picture, each)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--output", type=Path, default=Path("picture.png"), help="a PNG; several get numbers (default: %(default)s)"
    )
    files.add_argument("--from", type=Path, dest="source", metavar="PNG", help="make this picture again")
    files.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_generate)


def _add_option(group: Any, each: Field[Any]) -> None:
    """The flag of one field of `Request`."""
    kinds = {"float": float, "int": int, "int | None": int, "int | Sequence[int] | None": int, "Tensor | None": Path}
    pair = each.name.endswith(("_size", "_top_left"))
    kind: Any = _pair if pair else kinds.get(str(each.type), str)
    default = (
        "" if each.default is None or not isinstance(each.default, (int, float)) else f" (default: {each.default})"
    )
    group.add_argument(
        "--" + each.name.replace("_", "-"),
        type=kind,
        default=argparse.SUPPRESS,
        action="append" if each.name in _REPEATED else "store",
        metavar="A,B" if pair else "FILE" if kind is Path else "N" if kind in (int, float) else "TEXT",
        help=each.metadata["help"] + default,
    )


def _pair(text: str) -> tuple[int, int]:
    try:
        first, second = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two whole numbers such as 1024,1024") from None
    return first, second


def _generate(options: argparse.Namespace) -> None:
    given = {each.name: getattr(options, each.name) for each in fields(Request) if hasattr(options, each.name)}
    for name in _REPEATED:
        if len(given.get(name, ())) == 1:
            given[name] = given[name][0]
    loading = {name: getattr(options, name) for name in _LOADING if hasattr(options, name)}
    if options.source:
        given, loading = _replay(options.source, given, loading)
    if "prompt" not in given:
        raise ArgumentError('there is nothing to draw; give --prompt "..." or --from picture.png')
    from .image import check_writable

    check_writable(options.output)
    if isinstance(given.get("latents"), Path):
        given["latents"] = _read_latents(given["latents"])
    Request(**given)  # wrong arguments are told before the model is loaded
    from .image import save_png
    from .pipeline import Pipeline

    pipe = Pipeline.from_pretrained(loading.pop("model", DEFAULT_MODEL), device=options.device, **loading)
    result = pipe(**given, progress=not options.quiet)
    for n, (image, parameters) in enumerate(zip(result.images, result.parameters, strict=True)):
        path = options.output if len(result.seeds) == 1 else options.output.with_stem(f"{options.output.stem}-{n + 1}")
        save_png(image, path, parameters)
        print(f"{path}  seed {result.seeds[n]}")


def _replay(source: Path, given: dict[str, Any], loading: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that a picture records, under those that are given now."""
    from .image import read_parameters

    recorded = read_parameters(source)
    known = {each.name for each in fields(Request)}
    request = {name: value for name, value in recorded["request"].items() if name in known}
    if request.pop("latents", None) and "latents" not in given:
        raise ArgumentError(f"{source} was made from latents that it does not hold; give them again with --latents")
    model = {name: value for name, value in recorded["model"].items() if name in _LOADING}
    return request | given, model | loading


def _read_latents(path: Path) -> Any:
    from .tensorfile import TensorFile

    file = TensorFile(path)
    if len(file.shapes) != 1:
        raise ArgumentError(f"{path} has {len(file.shapes)} tensors; --latents takes a file with one")
    return file.read(next(iter(file.shapes))).float()


def _inspect(options: argparse.Namespace) -> None:
    from .inspection import inspect
    from .keymap import summarize

    report = inspect(options.file)
    if options.json:
        print(json.dumps(asdict(report), default=str, indent=2))
        return
    print(f"{report.path}: {report.kind}")
    for name, part in report.parts.items():
        dtypes = ", ".join(f"{dtype}" if len(part.dtypes) == 1 else f"{n} {dtype}" for dtype, n in part.dtypes.items())
        print(f"  {name:16} {part.tensors:6,} tensors {part.parameters:14,} parameters  {dtypes}")
    for label, keys in (("missing", report.missing), ("unexpected", report.unexpected), ("ignored", report.ignored)):
        if keys:
            print(f"  {label} {len(keys)}: {summarize(keys)}")


def _convert(options: argparse.Namespace) -> None:
    from .checkpoint import convert

    convert(options.source, options.target, options.variant)
    print(options.target)
