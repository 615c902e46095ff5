"""Whether two values are equal where they may hold tensors, whose own == gives no truth value."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def equal_fields(one: Any, other: Any) -> bool:
    """Whether two values of one dataclass are equal in all fields that it compares."""
    return all(_equal(getattr(one, each.name), getattr(other, each.name)) for each in fields(one) if each.compare)


def _equal(one: Any, other: Any) -> bool:
    """As == has it; tensors and arrays are equal to those of equal shape, dtype, device and values."""
    if one is other:
        return True
    if hasattr(one, "tolist") and hasattr(other, "tolist"):
        alike = all(getattr(one, name, None) == getattr(other, name, None) for name in ("shape", "dtype", "device"))
        return alike and bool((one == other).all())
    return type(one) is type(other) and bool(one == other)
