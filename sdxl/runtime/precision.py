"""The dtype of a model's weights and that of its arithmetic, as a value that is recorded and asked for.

A machine chooses both by a trial of its speed. So another machine, or the same one on a busy day, may choose others,
and its images then differ by more than rounding. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError, brief

NAMES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Precision:
    """The names of two dtypes. `dtype` is what the weights are rounded to, `arithmetic` what the networks compute in:
    the same, or float32. Raises `ArgumentError`.
    """

    dtype: str
    arithmetic: str

    def __post_init__(self) -> None:
        if self.dtype not in NAMES:
            raise ArgumentError(f"dtype is {brief(self.dtype)}; it must be one of {', '.join(NAMES)}")
        if self.arithmetic not in (self.dtype, "float32"):
            raise ArgumentError(
                f"arithmetic is {brief(self.arithmetic)} for weights in {self.dtype}; it must be the same, or float32"
            )

    def __str__(self) -> str:
        return f"weights in {self.dtype}, arithmetic in {self.arithmetic}"


def recorded_precision(model: Mapping[str, Any]) -> Precision | None:
    """The precision in an image's record of its model; None where there is none, or none that is valid."""
    try:
        return Precision(model["dtype"], model["arithmetic"])
    except (KeyError, ArgumentError):
        return None
