"""Where and in which precision the networks compute."""

from __future__ import annotations

from typing import Any, cast

import torch

from .errors import ArgumentError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def default_device() -> torch.device:
    """CUDA, Apple's GPU, or the CPU: the first that is there."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes it fast, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.12 and older cannot tell
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.float32


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, None for the default; `ArgumentError` if it cannot be used."""
    try:
        chosen = default_device() if device is None else torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of that name, None for the device's default; `ArgumentError` if it is none of `DTYPES`."""
    chosen = default_dtype(device) if dtype is None else DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise ArgumentError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    return cast(torch.dtype, chosen)
