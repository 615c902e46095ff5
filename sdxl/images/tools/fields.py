"""The fields of a tool's parameters while they are read: each is taken, or left with a reason why not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ...errors import ArgumentError
from ..parameters import Unmapped

T = TypeVar("T")

_SIZE = re.compile(r"\s*(\d{1,7})\s*[xX]\s*(\d{1,7})\s*")
_LONGEST_NUMBER = 40  # characters


class Fields:
    """Fields by name. What `take` and its kin give is gone from `left`; what cannot be used is in `unmapped`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.left = dict(values)
        self.unmapped: dict[str, Unmapped] = {}

    def take(self, name: str) -> str | None:
        """A text; None if there is none, or an empty one."""
        value = self.left.pop(name, None)
        if value is None or value == "":
            return None
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
        self.refuse(name, value, "a text was expected")
        return None

    def number(self, name: str) -> float | None:
        """A finite number."""
        text = self.take(name)
        if text is None:
            return None
        try:
            number = float(text) if len(text) < _LONGEST_NUMBER else math.nan
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        self.refuse(name, text, "a number was expected")
        return None

    def whole(self, name: str) -> int | None:
        """A whole number of at least 0."""
        text = self.take(name)
        if text is None:
            return None
        if re.fullmatch(r"\d{1,30}(\.0*)?", text.strip()):
            return int(text.strip().partition(".")[0])
        self.refuse(name, text, "a whole number of at least 0 was expected")
        return None

    def size(self, name: str) -> tuple[int, int] | None:
        """Width and height."""
        text = self.take(name)
        if text is None:
            return None
        if match := _SIZE.fullmatch(text):
            return int(match[1]), int(match[2])
        self.refuse(name, text, "a size such as 1024x1024 was expected")
        return None

    def convert(self, name: str, value: Any, read: Callable[[Any], T]) -> T | None:
        """What `read` makes of a value; None where it raises `ArgumentError`, whose text is the reason."""
        try:
            return read(value)
        except ArgumentError as error:
            self.refuse(name, value, str(error))
            return None

    def refuse(self, name: str, value: Any, reason: str) -> None:
        """Note that a value has no counterpart here."""
        self.unmapped[name] = Unmapped(value, reason)

    def refuse_all(self, reasons: Mapping[str, str], default: str) -> None:
        """The same for all that is left: with the reason of the longest beginning of its name."""
        for name, value in self.left.items():
            known = [each for each in reasons if name.startswith(each)]
            self.refuse(name, value, reasons[max(known, key=len)] if known else default)
        self.left.clear()

    def drop(self, names: Iterable[str]) -> None:
        """Forget fields that do not concern the image."""
        for name in names:
            self.left.pop(name, None)


def tidy(number: float) -> int | float:
    """A whole number as an integer, as records have it."""
    return int(number) if number == int(number) else number


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return path.replace("\\", "/").rpartition("/")[2]


def listed(value: Any) -> list[dict[str, Any]]:
    """The objects in a list of JSON."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
