"""What the values of a request that name files have in common: how they are checked, and read from JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast

from ..errors import ArgumentError, brief, checked_number

T = TypeVar("T")


def checked_numbers(value: object, title: str, ranges: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """The numbers of a value that acts from `start` to `end`, by field; `title` names the value. Raises
    `ArgumentError`.
    """
    numbers = {
        name: checked_number(f"the {name} of {title}", getattr(value, name), *limits) for name, limits in ranges.items()
    }
    start, end = numbers["start"], numbers["end"]
    if start >= end:
        raise ArgumentError(f"{title} acts from {start:g} to {end:g} of the steps; give a start below the end")
    return numbers


def check_texts(value: object, title: str, names: Iterable[str]) -> None:
    """Raise `ArgumentError` for a field that is neither None nor a text; `title` names the value."""
    for name in names:
        text = getattr(value, name)
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise ArgumentError(f"the {name} of {title} is {brief(text)}; expected a text")


def read_values(values: Any, kind: type[T], title: str) -> tuple[T, ...]:
    """Values of a dataclass: a list of them or of objects of JSON, or one. Raises `ArgumentError`."""
    if isinstance(values, (kind, Mapping)):
        values = [values]
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ArgumentError(f"{title} is {brief(values)}; expected a list such as [{_call(kind)}]")
    return tuple(each if isinstance(each, kind) else from_object(each, kind, title) for each in values)


def from_object(value: Any, kind: type[T], title: str) -> T:
    """A value of a dataclass from an object of JSON. Raises `ArgumentError`."""
    form = "{" + ", ".join(f"'{name}': ..." for name in _needed(kind)) + "}"
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{brief(value)} is no {title}; expected {_call(kind)} or an object such as {form}")
    names = [each.name for each in fields(cast(Any, kind))]
    if unknown := [key for key in value if key not in names]:
        raise ArgumentError(f"a {title} has no {brief(unknown[0])}; its values are {', '.join(names)}")
    if lost := [name for name in _needed(kind) if name not in value]:
        raise ArgumentError(f"the {title} {brief(dict(value))} names no {lost[0]}; give {form}")
    return kind(**value)


def _needed(kind: Any) -> list[str]:
    """The fields without defaults."""
    return [each.name for each in fields(kind) if each.default is MISSING]


def _call(kind: Any) -> str:
    return f"sdxl.{kind.__name__}({', '.join(_needed(kind))})"
