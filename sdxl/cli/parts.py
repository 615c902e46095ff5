"""The parts of a flag's value: FILE,NAME=VALUE,..., and what is wrong with one."""

from __future__ import annotations

import os
import re
from argparse import ArgumentTypeError
from collections.abc import Sequence

_UNKNOWN = re.compile(r",\s*(\w+)=")


def split_parts(text: str, names: Sequence[str]) -> list[str]:
    """A text at each comma before one of the names and its =. Blanks behind a comma belong to no part."""
    return re.split(rf",\s*(?=(?:{'|'.join(names)})=)", text)


def check_part(part: str, names: Sequence[str], text: str, is_file: bool = False) -> None:
    """Raise `ArgumentTypeError` where a part goes on with a name that is none; a file may be called so."""
    unknown = _UNKNOWN.search(part)
    if unknown is not None and not (is_file and os.path.exists(os.path.expanduser(part))):
        raise ArgumentTypeError(f"{text!r} gives {unknown[1]}; expected {', '.join(names)}")
