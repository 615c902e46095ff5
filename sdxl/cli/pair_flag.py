"""`--control` and `--reference`: a network, an image, and how they act."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from dataclasses import fields
from typing import Any

from ..errors import ArgumentError
from .parts import check_part, split_parts


def read_pair(kind: Any, text: str) -> Any:
    """A value from NETWORK=IMAGE[,name=value]...: the first two fields of a dataclass, and others. A second `image`
    stands beside the first.
    """
    numbers = {each.name for each in fields(kind) if isinstance(each.default, float)}
    names = [each.name for each in fields(kind)]
    first, *parts = split_parts(text, names[1:])
    network, equals, image = first.partition("=")
    if not equals or not network or not image:
        raise ArgumentTypeError(f"{text!r} is not {names[0].upper()}=IMAGE, such as a.safetensors=image.png,scale=0.6")
    check_part(image, names[1:], text, is_file=True)
    given: dict[str, list[str]] = {names[1]: [image]}
    for name, _, value in (part.partition("=") for part in parts):
        given.setdefault(name, []).append(value)
        if len(given[name]) > 1 and name != names[1]:
            raise ArgumentTypeError(f"{text!r} gives {name} twice")
    images = [os.path.expanduser(each) for each in given.pop(names[1])]
    values = {name: _plain(each[0], name in numbers) for name, each in given.items()}
    try:
        return kind(network, tuple(images) if len(images) > 1 else images[0], **values)
    except ArgumentError as error:
        raise ArgumentTypeError(str(error)) from error


def _plain(text: str, is_number: bool) -> float | int | str:
    """A number where one is expected, or a whole one such as that of a type; else a text, such as a path."""
    try:
        return float(text) if is_number else int(text) if text.isdecimal() else os.path.expanduser(text)
    except ValueError:
        return text
