"""The command line: generate, inspect, convert, bench. The only module that prints."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import Field, asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .aliases import guess
from .errors import ArgumentError, SDXLError, SDXLWarning
from .request import Request
from .version import __version__

if TYPE_CHECKING:
    from .engine import Engine
    from .job import Batch
    from .pipeline import Pipeline
    from .record import Place

DEFAULT_MODEL = "stabilityai/stable-diffusion-xl-base-1.0"
_SOURCES = ("image", "mask", "latents")
_REPEATED = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2", "seed", "image", "mask")
_LOADING = ("model", "refiner", "unet", "vae", "revision", "variant", "dtype", "offload", "int8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error, 2 for wrong arguments, 130 for an interruption."""
    options = _parser().parse_args(arguments)
    warnings.formatwarning = _format_warning
    warnings.simplefilter("default", SDXLWarning)  # the same words once
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except ArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SDXLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read what is printed has read enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Parser(argparse.ArgumentParser):
    """One that answers a mistake with a sentence and not with all flags."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end the process with status 2."""
        flag = re.search(r"unrecognized arguments: --([\w-]+)", message)
        known = [
            *(each.name for each in fields(Request)),
            *_LOADING,
            "compile",
            "device",
            "max_memory",
            "output",
            "quiet",
        ]
        ours = guess(flag[1].replace("-", "_"), known) if flag else None
        hint = f"perhaps --{ours.replace('_', '-')} is meant, " if ours else ""
        self.exit(2, f"error: {message}; {hint}{self.prog} --help shows all flags\n")


def _format_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    return f"warning: {message}\n"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sdxl", description="Stable Diffusion XL in PyTorch.")
    parser.add_argument("--version", action="version", version=f"sdxl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="draw pictures", description="Draw pictures from a prompt."))
    inspect = commands.add_parser(
        "inspect", help="say what a model file is", description="Say what a file or folder is."
    )
    inspect.add_argument("file", type=_file, metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="print the report as JSON")
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser(
        "convert",
        help="write a single file as a folder, or a folder as a single file",
        description="Write SRC as a single file (DST ends in .safetensors) or as a diffusers folder.",
    )
    convert.add_argument("source", type=_file, metavar="SRC")
    convert.add_argument("target", type=_file, metavar="DST")
    convert.add_argument("--variant", help="which files of a folder to read, such as fp16")
    convert.set_defaults(run=_convert)
    _add_bench(
        commands.add_parser(
            "bench",
            help="measure how fast this machine draws",
            description="Time the stages of a picture, beside the machine's own matrix product.",
        )
    )
    return parser


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a file, a folder, a hub id, or miniature (%(default)s)")
    parser.add_argument("--dtype", help="of the weights: float32, bfloat16 or float16 (default: the fastest)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    parser.add_argument(
        "--size", type=int, metavar="N", help="of the picture's side (default: the model's native size)"
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="how often each stage runs (%(default)s)")
    parser.add_argument("--int8", action="store_true", help="8-bit transformer blocks on a CPU")
    parser.add_argument("--compile", action="store_true", help="compile for CUDA")
    parser.set_defaults(run=_bench)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    absent = argparse.SUPPRESS  # so that --from can tell what was given
    model.add_argument(
        "--model", default=absent, help=f"a file, a folder, a hub id, or miniature (default: {DEFAULT_MODEL})"
    )
    model.add_argument(
        "--refiner", default=absent, help="a refiner that takes over at the end: a file, a folder, or a hub id"
    )
    model.add_argument("--unet", default=absent, help="take the UNet from this file, folder or hub id")
    model.add_argument("--vae", default=absent, help="take the VAE from this file, folder or hub id")
    model.add_argument("--revision", default=absent, help="a branch, tag or commit on the hub")
    model.add_argument("--variant", default=absent, help="which files of a folder or hub model, such as fp16")
    model.add_argument(
        "--dtype",
        default=absent,
        help="of the weights: float32, bfloat16 or float16 (default: bfloat16 where it is fast, else float32)",
    )
    model.add_argument(
        "--offload",
        default=absent,
        choices=("auto", "none", "text", "stage", "block"),
        help="what is in memory: none, all of the model; text, all but the text encoders; stage, the part at work; "
        "block, the layer at work; "
        "auto, what fits (default: auto)",
    )
    model.add_argument(
        "--int8",
        action="store_true",
        default=absent,
        help="8-bit transformer blocks on a CPU: faster, not quite the same",
    )
    model.add_argument("--max-memory", type=float, metavar="GB", help="let auto stay within so many GB")
    model.add_argument("--compile", action="store_true", help="compile for CUDA: worth it for many pictures of a size")
    model.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    picture = parser.add_argument_group("picture")
    for each in fields(Request):
        _add_option(picture, each)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--output",
        type=_file,
        metavar="PNG",
        help="where to; several get numbers (default: picture.png, or the next that is not there yet)",
    )
    files.add_argument("--from", type=_file, dest="source", metavar="PNG", help="make this picture again")
    files.add_argument("--quiet", action="store_true", help="no progress bar")
    job = parser.add_argument_group("many pictures")
    job.add_argument(
        "--batch",
        type=_file,
        metavar="FILE",
        help="draw what a file of JSON lines asks for: each an object with the picture's arguments, named with _ as in "
        "negative_prompt, and perhaps its output; other flags hold for all lines. The same command goes on with a job "
        "that was stopped, and several may work at one job",
    )
    job.add_argument("--output-dir", type=_file, metavar="DIR", help="where the pictures and the state of the job go")
    job.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="pictures of a kind drawn together (default: %(default)s)",
    )
    job.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="who draws: this process, or a Ray cluster"
    )
    job.add_argument(
        "--workers", type=int, metavar="N", help="of the Ray cluster (default: one for each GPU; without any, one)"
    )
    parser.set_defaults(run=_generate)


def _add_option(group: Any, each: Field[Any]) -> None:
    """The flag of one field of `Request`."""
    kind, metavar = _kind(each)
    default = (
        "" if each.default is None or not isinstance(each.default, (int, float)) else f" (default: {each.default})"
    )
    group.add_argument(
        "--" + each.name.replace("_", "-"),
        type=kind,
        default=argparse.SUPPRESS,
        action="append" if each.name in _REPEATED else "store",
        metavar=metavar,
        help=each.metadata["help"] + default,
    )


def _kind(each: Field[Any]) -> tuple[Any, str]:
    """How the flag of a field is read, and what its value is called in the help."""
    if each.name.endswith(("_size", "_top_left")):
        return partial(_numbers, example="1024,1024"), "A,B"
    if each.name == "guidance_interval":
        return partial(_numbers, example="0.3,5.5", kind=float), "LOW,HIGH"
    if each.name == "outpaint":
        return partial(_numbers, example="128,0,128,0"), "L,T,R,B"
    if "Tensor" in str(each.type):
        return _file, "FILE"
    kinds = {
        "float": float,
        "float | None": float,
        "int": int,
        "int | None": int,
        "int | Sequence[int] | None": int,
    }
    return (kinds[str(each.type)], "N") if str(each.type) in kinds else (str, "TEXT")


def _file(text: str) -> Path:
    return Path(os.path.expanduser(text))  # the shell leaves the ~ of --flag=~/file


def _numbers(text: str, example: str, kind: type[int] | type[float] = int) -> tuple[int | float, ...]:
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != example.count(",") + 1:
        count = {2: "two", 4: "four"}[example.count(",") + 1]
        whole = "whole " if kind is int else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not {count} {whole}numbers such as {example}")
    return numbers


def _generate(options: argparse.Namespace) -> int:
    given = {each.name: getattr(options, each.name) for each in fields(Request) if hasattr(options, each.name)}
    for name in _REPEATED:
        if len(given.get(name, ())) == 1:
            given[name] = given[name][0]
    loading = {name: getattr(options, name) for name in _LOADING if hasattr(options, name)}
    if options.batch:
        return _generate_many(options, given, loading)
    if options.output_dir:
        raise ArgumentError("--output-dir goes with --batch FILE; a single picture takes --output")
    _generate_one(options, given, loading)
    return 0


def _generate_one(options: argparse.Namespace, given: dict[str, Any], loading: dict[str, Any]) -> None:
    hashes: dict[str, str] = {}
    if options.source:
        given, loading, hashes = _replay(options.source, given, loading)
    if "prompt" not in given:
        raise ArgumentError('there is nothing to draw; give --prompt "..." or --from picture.png')
    from .png import check_writable, save_png

    files = [path for name in _SOURCES for path in _paths(given.get(name))]
    request = Request(**given)  # wrong arguments are told, and pictures opened, before the model is loaded
    given |= {name: getattr(request, name) for name in _SOURCES}
    _compare_sources(request, hashes)
    count = len(request.prompts) * request.num_images
    outputs = _outputs(options.output, count) if options.output else _free_outputs(count)
    check_writable(outputs[-1])
    if taken := {path.resolve() for path in outputs} & {path.resolve() for path in files}:
        raise ArgumentError(f"{taken.pop()} is a source and would be overwritten; choose another --output")
    result = _open(options, loading)(**given, progress=not options.quiet)
    for path, image, parameters, seed in zip(outputs, result.images, result.parameters, result.seeds, strict=True):
        save_png(image, path, parameters)
        print(f"{path}  seed {seed}")


def _open(options: argparse.Namespace, loading: dict[str, Any]) -> Pipeline:
    """The model that the flags ask for."""
    from .pipeline import Pipeline

    if options.max_memory is not None and not math.isfinite(options.max_memory):
        raise ArgumentError(f"--max-memory is {options.max_memory}; it must be a number of GB")
    most = None if options.max_memory is None else int(1e9 * options.max_memory)
    loading = {"model": DEFAULT_MODEL, "offload": "auto", **loading}
    pipe = Pipeline.from_pretrained(device=options.device, max_memory=most, **loading)
    if options.compile:
        pipe.compile()
    return pipe


def _generate_many(options: argparse.Namespace, given: dict[str, Any], loading: dict[str, Any]) -> int:
    """Draw a job, and tell how it goes; the exit status is 1 if there are lines that could not be drawn."""
    if options.output_dir is None or options.output or options.source:
        raise ArgumentError(
            "--batch FILE goes with --output-dir DIR, and not with --output or --from; change the flags"
        )
    if options.batch_size < 1:
        raise ArgumentError(f"--batch-size is {options.batch_size}; it must be at least 1")
    first_seed = given.pop("seed", None)
    if isinstance(first_seed, list):
        raise ArgumentError("--seed is given several times; with --batch it is that of the first picture")
    from .job import WITH_IMAGE, read_job
    from .record import open_place

    defaults = {name: _absolute(value) for name, value in given.items()}
    # wrong flags are told once, and not for each line
    Request(**{"prompt": "", "seed": first_seed, **_without(defaults, (*_SOURCES, *WITH_IMAGE))})
    job = read_job(options.batch, defaults, _meaning(first_seed, loading), options.batch_size)
    place = open_place(options.output_dir, job, options.batch_size, first_seed)
    for line, error in job.faults.items():
        print(f"line {line} of {options.batch}: {error}", file=sys.stderr)
    batches, failed = job.batches(options.batch_size, place.first_seed), set(job.faults)
    try:
        if place.count_done(batches) < len(job.files):
            failed |= _work(options, loading, batches, place)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    told = f"; {len(failed)} lines failed" if failed else ""
    print(f"{place.count_done(batches)} of {len(job.files)} pictures are in {place.folder}{told}")
    return 1 if failed else 0


def _work(options: argparse.Namespace, loading: dict[str, Any], batches: Sequence[Batch], place: Place) -> set[int]:
    """Draw what is left of a job, and show how it goes; the lines that failed."""
    from tqdm import tqdm

    from .engine import work

    failed: set[int] = set()
    total, engine = sum(len(batch.files) for batch in batches), _engine(options, loading)
    done = place.count_done(batches)
    with tqdm(total=total, initial=done, unit="picture", disable=options.quiet) as bar:
        for progress in work(batches, place, engine):
            bar.update(progress.done - done)
            done = progress.done
            if progress.error is not None and progress.batch is not None:
                lines = sorted(set(progress.batch.lines))
                failed |= set(lines)
                which = f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))} of {options.batch}"
                tqdm.write(f"{which}: {progress.error}", file=sys.stderr)
    return failed


def _meaning(first_seed: int | None, loading: dict[str, Any]) -> dict[str, Any]:
    """What makes a job another one, beside its lines."""
    return {"seed": first_seed, **{name: value for name, value in loading.items() if name != "offload"}}


def _engine(options: argparse.Namespace, loading: dict[str, Any]) -> Engine:
    """Who draws a job."""
    if options.engine == "ray":
        from .cluster import cluster

        return cluster(partial(_open_for_many, options, loading), options.workers)
    from .engine import local

    return local(_open_for_many(options, loading))


def _open_for_many(options: argparse.Namespace, loading: dict[str, Any]) -> Pipeline:
    pipe = _open(options, loading)
    pipe.prepare_for_many()
    return pipe


def _without(given: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


def _absolute(value: Any) -> Any:
    """Paths among the flags as what they are in whatever folder a job is gone on with."""
    if isinstance(value, list):
        return [_absolute(each) for each in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def _paths(value: Any) -> list[Path]:
    return [value] if isinstance(value, Path) else value if isinstance(value, list) else []


def _outputs(path: Path, count: int) -> list[Path]:
    """Where the pictures go: several get numbers."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{n + 1}") for n in range(count)]


def _free_outputs(count: int) -> list[Path]:
    """Where the pictures go if nobody says, so that none that is there is lost."""
    names = itertools.chain(["picture.png"], (f"picture-{n}.png" for n in itertools.count(2)))
    places = (_outputs(Path(name), count) for name in names)
    return next(paths for paths in places if not any(map(os.path.lexists, paths)))


def _replay(
    source: Path, given: dict[str, Any], loading: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The arguments that a picture records, under those that are given now, and the hashes of its own sources."""
    from .png import read_parameters

    recorded = read_parameters(source)
    known = {each.name for each in fields(Request)}
    request = {name: value for name, value in recorded["request"].items() if name in known}
    hashes = {name: str(value) for name in _SOURCES if (value := request.pop(name, None)) is not None}
    for name in hashes:
        if name not in given:
            raise ArgumentError(f"{source} was made from {name}, which it does not hold; give it again with --{name}")
    model = {name: value for name, value in recorded["model"].items() if name in _LOADING}
    for name, value in model.items():
        if type(value) is not (bool if name == "int8" else str):
            raise ArgumentError(f"the parameters in {source} are damaged ({name} is {value!r}); it cannot be replayed")
    return request | given, model | loading, hashes


def _compare_sources(request: Request, hashes: dict[str, str]) -> None:
    """Warn if a picture is drawn again from another source than the first time."""
    from .image import fingerprint

    for name, recorded in hashes.items():
        if fingerprint(getattr(request, name)[0]) != recorded:
            warnings.warn(
                f"--{name} is not the one that the recorded picture was made from, so the result will differ",
                SDXLWarning,
                stacklevel=2,
            )


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


def _bench(options: argparse.Namespace) -> None:
    from .bench import machine, report
    from .pipeline import Pipeline

    pipe = Pipeline.from_pretrained(options.model, dtype=options.dtype, device=options.device, int8=options.int8)
    if options.compile:
        pipe.compile()
    height, width = (options.size, options.size) if options.size else pipe.about.config.native_size
    at = pipe.experts[0].at
    named = {**machine(at.device), "weights": at.dtype, "arithmetic": at.arithmetic, "size": f"{height} x {width}"}
    print(", ".join(f"{name} {value}".replace("torch.", "") for name, value in named.items()))
    print(f"{'stage':8} {'seconds':>9} {'TFLOP':>8} {'TFLOP/s':>8}  of the matrix rate")
    for line in report(pipe, height, width, options.repeats):
        rate = line["tflop"] / line["seconds"]
        print(f"{line['stage']:8} {line['seconds']:9.4f} {line['tflop']:8.3f} {rate:8.3f}  {line['share']:6.0%}")


def _convert(options: argparse.Namespace) -> None:
    from .save import convert

    convert(options.source, options.target, options.variant)
    print(options.target)
