"""`--control`: a network, an image, and how they act."""

from __future__ import annotations

import os
import re
from argparse import ArgumentTypeError
from dataclasses import fields
from typing import Any

from ..adapters.control import NUMBERS, Control
from ..errors import ArgumentError


def read_control_flag(text: str) -> Control:
    """A control from NET=IMAGE[,name=value]..., as on the command line."""
    names = [each.name for each in fields(Control)][2:]
    first, *parts = re.split(rf",(?=(?:{'|'.join(names)})=)", text)
    net, equals, image = first.partition("=")
    if not equals or not net or not image:
        raise ArgumentTypeError(f"{text!r} is not NET=IMAGE, such as canny.safetensors=edges.png,scale=0.8")
    given: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name in given:
            raise ArgumentTypeError(f"{text!r} gives {name} twice")
        given[name] = _plain(value, name)
    try:
        return Control(net, os.path.expanduser(image), **given)
    except ArgumentError as error:
        raise ArgumentTypeError(str(error)) from error


def _plain(text: str, name: str) -> Any:
    if name == "type":
        return int(text) if text.isdecimal() else text
    try:
        return float(text) if name in NUMBERS else text
    except ValueError:
        return text
