"""The values of a client's request, read by their types: what skins of other protocols share.

Null and what is missing are the default. Numbers may be texts, as forms have them. What is of another type is an
`ArgumentError` with the client's own name of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from ..errors import ArgumentError, brief, is_number

_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_DIGITS = 25  # of a number in a text
T = TypeVar("T")


@dataclass(frozen=True)
class Given:
    """The fields of a request, of which unknown ones are never looked at."""

    fields: Mapping[str, Any]

    def has(self, name: str) -> bool:
        """Whether it is given, and not null."""
        return self.fields.get(name) is not None

    @overload
    def number(self, name: str) -> float | None: ...
    @overload
    def number(self, name: str, default: float) -> float: ...
    def number(self, name: str, default: float | None = None) -> float | None:
        """A finite number."""
        value = self.fields.get(name)
        if value is None or value == "":
            return default
        if isinstance(value, str) and len(value) <= _DIGITS:
            value = _number(value)
        if not is_number(value):
            raise ArgumentError(f"{name} is {brief(self.fields[name])}; expected a number")
        return value

    @overload
    def whole(self, name: str) -> int | None: ...
    @overload
    def whole(self, name: str, default: int) -> int: ...
    def whole(self, name: str, default: int | None = None) -> int | None:
        """A whole number, which may be written as 20.0."""
        value = self.number(name)
        if value is None:
            return default
        if value != int(value):
            raise ArgumentError(f"{name} is {brief(self.fields[name])}; expected a whole number")
        return int(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; also 1 or 0, and their words."""
        value = self.fields.get(name)
        if value is None:
            return default
        known = _WORDS.get(str(value).lower())
        if known is None:
            raise ArgumentError(f"{name} is {brief(value)}; expected true or false")
        return known

    def text(self, name: str, default: str = "") -> str:
        """A text."""
        return self._of_type(name, str, "a text", default)

    def items(self, name: str) -> list[Any]:
        """A list."""
        return self._of_type(name, list, "a list", [])

    def mapping(self, name: str) -> dict[str, Any]:
        """An object of JSON."""
        return self._of_type(name, dict, "an object", {})

    def _of_type(self, name: str, kind: type[T], what: str, default: T) -> T:
        value = self.fields.get(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise ArgumentError(f"{name} is {brief(value)}; expected {what}")
        return value


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
