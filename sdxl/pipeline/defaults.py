"""Defaults of a request that have changed: what an earlier version wrote keeps those of that version.

Each set of defaults has a number. A change of a default is a new entry at the end of `_CHANGED` and of `_LAST`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# the values of each number that the next one has changed, and the last version that had the number
_CHANGED: tuple[Mapping[str, Any], ...] = ({"long_prompt": "truncate", "preset": "none"},)
_LAST: tuple[tuple[int, ...], ...] = ((0, 1, 0),)

NUMBER = len(_CHANGED)  # of the present defaults


def earlier_defaults(number: int) -> dict[str, Any]:
    """The arguments of `Request` whose defaults had other values under a number, with these values."""
    values: dict[str, Any] = {}
    for changed in _CHANGED[number:]:
        values = {**changed, **values}
    return values


def number_of(version: str) -> int:
    """The number of the defaults of a version, such as `sdxl 0.1.0`; that of the present ones if it has no number."""
    found = re.search(r"\d+(?:\.\d+)*", version)
    own = tuple(map(int, found[0].split(".")[:9])) if found and len(found[0]) < 99 else None
    return NUMBER if own is None else sum(own > last for last in _LAST)


def recorded_request(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an image from its record, with the defaults of the version that wrote it for those that it did
    not know.
    """
    return earlier_defaults(number_of(str(parameters.get("version")))) | parameters["request"]
