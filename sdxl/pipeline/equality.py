"""Whether two values are equal where they may hold tensors, whose own == gives no truth value."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any


def equal_fields(one: Any, other: Any) -> bool:
    """Whether two values of one dataclass are equal in all fields that it compares."""
    return all(_equal(getattr(one, each.name), getattr(other, each.name)) for each in fields(one) if each.compare)


def _equal(one: Any, other: Any) -> bool:
    """As == has it, also of what holds tensors; these and arrays are equal to those of equal shape, dtype, device and
    values.
    """
    if one is other:
        return True
    if hasattr(one, "tolist") or hasattr(other, "tolist"):
        alike = all(getattr(one, name, None) == getattr(other, name, None) for name in ("shape", "dtype", "device"))
        return alike and bool((one == other).all())
    if type(one) is type(other):
        if isinstance(one, (list, tuple)):
            return len(one) == len(other) and all(map(_equal, one, other))
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
        if is_dataclass(one) and type(one).__eq__ is not object.__eq__:
            return equal_fields(one, other)
    return bool(one == other)
