"""The size that a request asks for, checked before images are made of it."""

from __future__ import annotations

from ...errors import ArgumentError
from ..given import Given
from ..service import Service
from ..work import check_limits

_MULTIPLE = 8  # to which AUTOMATIC1111 rounds sides down


def read_size(service: Service, given: Given) -> tuple[int | None, int | None]:
    """Width and height in pixels, None where one is not given. Raises `ArgumentError`."""
    width, height = (_side(given, name) for name in ("width", "height"))
    check_limits(None, None, height, width, service.settings)
    return width, height


def _side(given: Given, name: str) -> int | None:
    side = given.whole(name)
    if side is not None and side < _MULTIPLE:
        raise ArgumentError(f"{name} is {side}; expected at least {_MULTIPLE}")
    return None if side is None else side // _MULTIPLE * _MULTIPLE
