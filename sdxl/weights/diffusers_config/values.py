"""The values of a JSON file, checked: whole numbers, numbers, words, one for each level."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ...errors import ConfigError, brief, naming
from ...models.bounds import MOST_LEVELS

Json = Mapping[str, Any]
T = TypeVar("T")
_LARGE = 1e30  # larger than any number of a config


def unsupported(data: Json, fixed: Mapping[str, tuple[object, object]]) -> Iterator[str]:
    """The names of the fields whose value is not the one supported."""
    for name, (default, supported) in fixed.items():
        value = data.get(name, default)
        if value == "-inf" and isinstance(supported, float):
            value = -math.inf  # as lambda_min_clipped is written
        if value != supported and (value or supported):
            yield name


def require(data: Json, fixed: Mapping[str, tuple[object, object]], where: str) -> None:
    """Raise `ConfigError` for a field whose value is not the one supported."""
    for name in unsupported(data, fixed):
        default, supported = fixed[name]
        raise ConfigError(f"{where}: {name} is {brief(data.get(name, default))}; only {supported!r} is supported")


def is_whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def whole(data: Json, name: str, default: int, where: str) -> int:
    value = data.get(name, default)
    if not is_whole(value):
        raise ConfigError(f"{where}: {name} is {brief(value)}; it must be a positive whole number")
    return value


def number(data: Json, name: str, default: float, where: str) -> float:
    value = data.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LARGE < value < _LARGE:
        raise ConfigError(f"{where}: {name} is {brief(value)}; it must be a number")
    return float(value)


def word(data: Json, name: str, default: str, where: str) -> str:
    value = data.get(name, default)
    if not isinstance(value, str) or len(value) > 100:
        raise ConfigError(f"{where}: {name} is {brief(value)}; it must be a string of at most 100 characters")
    return value


def per_level(data: Json, name: str, default: object, levels: int, where: str) -> list[Any]:
    """A field that is one value for all levels or a list with one value per level."""
    value = data.get(name, default)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * levels
    if len(values) != levels:
        raise ConfigError(f"{where}: {name} is {brief(value)}; it must be one value or a list of {levels}")
    return values


def whole_per_level(data: Json, name: str, default: object, levels: int, where: str) -> list[int]:
    values = per_level(data, name, default, levels, where)
    if not all(map(is_whole, values)):
        raise ConfigError(f"{where}: {name} is {brief(values)}; they must be positive whole numbers")
    return values


def make(config: type[T], where: str, **fields: Any) -> T:
    """A config whose errors name the file."""
    with naming(where):
        return config(**fields)


def block_types(data: Json, name: str, plain: str, attention: str, where: str) -> list[bool]:
    """For each level of `down_block_types` or `up_block_types`, whether it has attention."""
    types = data.get(name)
    if not isinstance(types, (list, tuple)) or not types or any(each not in (plain, attention) for each in types):
        raise ConfigError(f"{where}: {name} is {brief(types)}; supported: lists of {plain} and {attention}")
    if len(types) > MOST_LEVELS:
        raise ConfigError(f"{where}: {name} has {len(types)} levels; at most {MOST_LEVELS} are supported")
    return [each == attention for each in types]
