"""Answers in JSON, whatever they hold: what clients sent may come back in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

NO_STORE = {"Cache-Control": "no-store"}


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that is not stored. It is ASCII, since texts of clients may be no valid Unicode."""
    data = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return Response(data, status, {**NO_STORE, **(headers or {})}, "application/json")


def _finite(value: Any) -> Any:
    """A value with null in place of infinities and NaN, which JSON has not."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
