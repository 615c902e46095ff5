"""Where `Pipeline.to` moves a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import ArgumentError, brief
from ..runtime.device import DTYPES, choose_device, choose_dtype


def read_target(
    target: Sequence[Any], device: Any = None, dtype: Any = None
) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the dtype, in any order or by name; None where none is given. Raises `ArgumentError`."""
    for value in target:
        if isinstance(value, torch.dtype) or (isinstance(value, str) and value in DTYPES):
            name, old, dtype = "dtype", dtype, value
        elif isinstance(value, (str, torch.device)):
            name, old, device = "device", device, value
        else:
            raise ArgumentError(f"the target is {brief(value)}; expected a device such as 'cuda', a dtype, or both")
        if old is not None:
            raise ArgumentError(f"{name} is given twice, {brief(old)} and {brief(value)}; give one")
    if device is None and dtype is None:
        raise ArgumentError("there is no target; give a device such as 'cuda', a dtype, or both")
    where = None if device is None else choose_device(device)
    return where, None if dtype is None else choose_dtype(dtype, where or torch.device("cpu"))
