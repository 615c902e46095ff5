"""Makes flags from the fields of `Request` and `ModelRequest`, and reads their values."""

from __future__ import annotations

import argparse
import math
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.control import Control
from ..adapters.embedding import Embedding, read_flag
from ..adapters.reference import Reference
from ..errors import ArgumentError, brief
from ..pipeline.argument_groups import SEEDS
from ..pipeline.model_request import RECORDED, ModelRequest
from ..pipeline.option import Option
from ..pipeline.request import Request
from ..weights.path import expanded
from .idle import warn_of_idle_flags
from .pair_flag import read_pair
from .parts import check_part, split_parts

if TYPE_CHECKING:
    from ..pipeline.pipeline import Pipeline
    from ..runtime.precision import Precision


_GROUPS = {
    "the image": (
        "prompt",
        "negative_prompt",
        "model",
        "--size",
        "width",
        "height",
        "steps",
        "guidance_scale",
        "seed",
        "num_images",
        "--output",
        "--from",
        "--verify",
    ),
    "larger images, variations": ("hires", "variation_seed", "variation_strength"),
    "image to image, inpainting, outpainting": ("image", "strength", "mask", "mask_padding", "feather", "outpaint"),
    "sampling": (
        *("preset", "compat", "sampler", "schedule", "eta", "sampler_options", "sigmas", "timesteps"),
        *("guidance_rescale", "guidance_interval", "guider", "latents"),
    ),
    "text and size conditioning": ("prompt_2", "negative_prompt_2", "clip_skip", "_size", "_top_left"),
    "refiner": ("refiner", "refine_at", "aesthetic_score", "negative_aesthetic_score"),
    "the model, and where it is computed": (),  # and all others
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of `Request` and `ModelRequest`, in groups, the most common first."""
    each_field = {each.name: each for each in (*fields(ModelRequest), *fields(Request))}
    homes = {name: _group(name) for name in (*each_field, *_OWN)}
    for title, names in _GROUPS.items():
        group = parser.add_argument_group(title)
        mine = [name for name, home in homes.items() if home == title]
        for name in sorted(mine, key=lambda name: names.index(name) if name in names else len(names)):
            if name in _OWN:
                group.add_argument(name, **_OWN[name])
            else:
                add_flag(group, each_field[name])


def _group(name: str) -> str:
    def has(names: tuple[str, ...]) -> bool:
        return name in names or name.endswith(tuple(each for each in names if each.startswith("_")))

    return next((title for title, names in _GROUPS.items() if has(names)), list(_GROUPS)[-1])


def add_flag(group: Any, each: Field[Any]) -> None:
    """The flag of one field. It is absent from the parsed options if it is not given."""
    flag: Option = each.metadata["option"]
    if flag.flag is None:
        return
    default = f" (default: {each.default})" if type(each.default) in (int, float) else ""
    details: dict[str, Any] = {"help": flag.help + default, "default": argparse.SUPPRESS}
    if flag.type is bool:
        details["action"] = "store_true"
    else:
        details |= {"action": "append" if flag.repeated else "store", "type": _reader(flag), "metavar": flag.metavar}
    if flag.choices is not None:
        details |= {"choices": flag.choices, "metavar": None}
    group.add_argument(f"--{flag.flag or each.name}".replace("_", "-"), dest=each.name, **details)


def _reader(flag: Option) -> Callable[[str], Any]:
    if flag.type is dict:
        return _read_setting
    if flag.example:
        return partial(_read_numbers, example=flag.example, type=flag.type)
    if flag.type is Path:
        return read_file
    if flag.type is Embedding:
        return read_flag
    if flag.type in (Control, Reference):
        return partial(read_pair, flag.type)
    return partial(read_value, flag.type) if is_dataclass(flag.type) else flag.type


def read_value(type: Any, text: str) -> Any:
    """A value of several parts from FILE[,name=value]..., in which a first field without a default is the file, or from
    name=value,... alone.
    """
    own = fields(type)
    words = {each.name for each in own if "float" not in each.type and "int" not in each.type}
    names = [each.name for each in own if each.default is not MISSING]
    parts = split_parts(text, names)
    given: dict[str, Any] = {own[0].name: parts.pop(0)} if own[0].name not in names else {}
    for file in given.values():
        check_part(file, names, text, is_file=True)
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or name not in names:
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=VALUE with one of {', '.join(names)}")
        if name in given:
            raise argparse.ArgumentTypeError(f"{text!r} gives {name} twice")
        if name not in words:
            check_part(value, names, text)
        given[name] = value if name in words else read_part(value)
    try:
        return type(**given)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def read_part(text: str) -> float | str:
    """A number, or else the text."""
    try:
        return float(text)
    except ValueError:
        return text


def read_file(text: str) -> Path:
    """A path. Expands the ~ of --flag=~/file, which the shell does not expand."""
    return expanded(text)


def read_output(text: str) -> Path:
    """The path of a file. One that ends in a slash is a folder's."""
    if text.endswith(("/", os.sep)):
        raise argparse.ArgumentTypeError(f"{text} is a folder; give a file name such as {text}picture.png")
    return read_file(text)


def read_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT, or the side of a square: width and height."""
    found = re.fullmatch(r"(\d+)(?:\s*[xX*]\s*(\d+))?", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 1216x832 (width x height)")
    return int(found[1]), int(found[2] or found[1])


def _read_numbers(text: str, example: str, type: type[int] | type[float]) -> tuple[int | float, ...]:
    try:
        numbers = tuple(type(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if numbers and example.endswith("..."):
        return numbers
    if len(numbers) != example.count(",") + 1:
        count = "a list of" if example.endswith("...") else {2: "two", 4: "four"}[example.count(",") + 1]
        whole = "whole " if type is int else ""
        raise argparse.ArgumentTypeError(
            f"{text!r} is not {count} {whole}numbers such as {example.removesuffix('...')}"
        )
    return numbers


def _read_setting(text: str) -> tuple[str, float | str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as s_churn=4")
    return name, read_part(value)


_OWN: dict[str, dict[str, Any]] = {
    "--size": {
        "type": read_size,
        "metavar": "WxH",
        "help": "width and height in one, such as 1216x832, or the side of a square",
    },
    "--output": {
        "type": read_output,
        "metavar": "FILE",
        "help": "the file to write: .png, .jpg or .webp; several images get numbers; - writes a PNG to stdout "
        "(default: picture.png, or the next free name)",
    },
    "--from": {
        "type": read_file,
        "dest": "source",
        "metavar": "FILE",
        "help": "generate this image again; other flags change it. Also one of AUTOMATIC1111, Forge, Civitai or "
        "ComfyUI, or a text file with their parameters",
    },
    "--verify": {
        "action": "store_true",
        "help": "with --from: make the image again in memory, and say whether it is the same, also by the exit status",
    },
    "--compile": {"action": "store_true", "help": "compile for CUDA: worth it for many images of one size"},
}
"""The flags that are no fields."""


def given_request(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Request` that were given; a repeated flag that was given once is a single value."""
    given = {each.name: getattr(options, each.name) for each in fields(Request) if hasattr(options, each.name)}
    given |= _prompt(options) | _size(options) | _seed(options)
    for each in fields(Request):
        several = given.get(each.name) if each.metadata["option"].repeated else None
        if each.metadata["option"].type is dict and each.name in given:
            given[each.name] = dict(given[each.name])
        elif isinstance(several, list) and len(several) == 1:
            given[each.name] = several[0]
    return given


def _prompt(options: argparse.Namespace) -> dict[str, Any]:
    """The prompt that stands alone."""
    if not options.words:
        return {}
    if hasattr(options, "prompt"):
        raise ArgumentError(
            f"{brief(options.words[0])} stands beside --prompt; put a prompt of several words in quotes"
        )
    if any(" " in word for word in options.words[1:]):
        raise ArgumentError(f"{len(options.words)} prompts stand alone; give each with --prompt, in quotes")
    if len(options.words) > 1:
        text = " ".join(options.words)
        raise ArgumentError(f"the prompt is {len(options.words)} words without quotes; write {brief(text)} in quotes")
    return {"prompt": options.words}


def _size(options: argparse.Namespace) -> dict[str, Any]:
    if options.size is None:
        return {}
    if beside := [name for name in ("width", "height") if hasattr(options, name)]:
        raise ArgumentError(f"--size is given beside --{beside[0]}; give one of them")
    return dict(zip(("width", "height"), options.size, strict=True))


def _seed(options: argparse.Namespace) -> dict[str, Any]:
    """The seeds; -1 is a random one."""
    given: dict[str, Any] = {}
    for name in SEEDS:
        seeds = getattr(options, name, [])
        if seeds == [-1]:
            given[name] = None
        elif seeds:
            given[name] = [secrets.randbelow(2**32) if seed == -1 else seed for seed in seeds]
    return given


def given_model(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `ModelRequest` that were given and are recorded."""
    return {name: getattr(options, name) for name in RECORDED if hasattr(options, name)}


def default_model() -> dict[str, Any]:
    """The model of the environment, if it names one."""
    name = os.environ.get("SDXL_MODEL")
    return {"model": os.path.expanduser(name)} if name else {}


def open_pipeline(options: argparse.Namespace, given: dict[str, Any], precision: Precision | None = None) -> Pipeline:
    """The model that the flags ask for; `given` are the recorded ones, perhaps from an image, and so is `precision`."""
    from ..pipeline.pipeline import Pipeline
    from .compiling import compile_pipeline

    request = model_request(options, given)
    pipe = Pipeline.from_request(request, precision=precision)
    warn_of_idle_flags(options, request.model)
    if options.compile:
        compile_pipeline(pipe)
    return pipe


def model_request(options: argparse.Namespace, given: dict[str, Any]) -> ModelRequest:
    """What the flags ask for, with the recorded arguments `given`."""
    local: dict[str, Any] = {}
    if (most := getattr(options, "max_memory", None)) is not None:
        if not math.isfinite(most):
            raise ArgumentError(f"--max-memory is {most}; it must be a number of GB")
        local["max_memory"] = int(1e9 * most)
    names = ("device", "lora_dir", "embedding_dir", "control_dir", "preview_vae")
    local |= {name: getattr(options, name) for name in names if hasattr(options, name)}
    return ModelRequest(**{"offload": "auto", **given, **local})
