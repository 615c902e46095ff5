"""Makes flags from the fields of `Request` and `ModelRequest`, and reads their values."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..pipeline.model_request import RECORDED, ModelRequest
from ..pipeline.option import Option
from ..pipeline.request import Request

if TYPE_CHECKING:
    from ..pipeline.pipeline import Pipeline


def add_request_flags(group: Any) -> None:
    """A flag for each field of `Request`."""
    for each in fields(Request):
        add_flag(group, each)


def add_flag(group: Any, each: Field[Any], help: str | None = None) -> None:
    """The flag of one field. It is absent from the parsed options if it is not given."""
    flag: Option = each.metadata["option"]
    if flag.flag is None:
        return
    default = f" (default: {each.default})" if _shows(each.default) else ""
    details: dict[str, Any] = {"help": (help or flag.help) + default, "default": argparse.SUPPRESS}
    if flag.type is bool:
        details["action"] = "store_true"
    else:
        details |= {"action": "append" if flag.repeated else "store", "type": _reader(flag), "metavar": flag.metavar}
    if flag.choices is not None:
        details |= {"choices": flag.choices, "metavar": None}
    group.add_argument(f"--{flag.flag or each.name}".replace("_", "-"), dest=each.name, **details)


def _shows(default: Any) -> bool:
    return isinstance(default, (int, float)) and not isinstance(default, bool)


def _reader(flag: Option) -> Callable[[str], Any]:
    if flag.type is dict:
        return _read_setting
    if flag.example:
        return partial(_read_numbers, example=flag.example, type=flag.type)
    if flag.type is Path:
        return read_file
    return partial(read_value, flag.type) if is_dataclass(flag.type) else flag.type


def read_value(type: Any, text: str) -> Any:
    """A value of several parts from FILE[,name=value]...: the first field is the file, the others are numbers."""
    names = [each.name for each in fields(type)][1:]
    file, *parts = re.split(rf",(?=(?:{'|'.join(names)})=)", text)
    given: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name in given:
            raise argparse.ArgumentTypeError(f"{text!r} gives {name} twice")
        given[name] = _read_part(value)
    try:
        return type(file, **given)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _read_part(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read_file(text: str) -> Path:
    """A path. Expands the ~ of --flag=~/file, which the shell does not expand."""
    return Path(os.path.expanduser(text))


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
    return name, _read_part(value)


def given_request(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Request` that were given; a repeated flag that was given once is a single value."""
    given = {each.name: getattr(options, each.name) for each in fields(Request) if hasattr(options, each.name)}
    for each in fields(Request):
        if each.metadata["option"].type is dict and each.name in given:
            given[each.name] = dict(given[each.name])
        elif each.metadata["option"].repeated and len(given.get(each.name, ())) == 1:
            given[each.name] = given[each.name][0]
    return given


def given_model(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `ModelRequest` that were given and are recorded."""
    return {name: getattr(options, name) for name in RECORDED if hasattr(options, name)}


def open_pipeline(options: argparse.Namespace, given: dict[str, Any]) -> Pipeline:
    """The model that the flags ask for; `given` are the recorded ones, perhaps from an image."""
    from ..pipeline.pipeline import Pipeline

    local: dict[str, Any] = {}
    if (most := getattr(options, "max_memory", None)) is not None:
        if not math.isfinite(most):
            raise ArgumentError(f"--max-memory is {most}; it must be a number of GB")
        local["max_memory"] = int(1e9 * most)
    if hasattr(options, "device"):
        local["device"] = options.device
    pipe = Pipeline.from_request(ModelRequest(**{"offload": "auto", **given, **local}))
    if options.compile:
        pipe.compile()
    return pipe
