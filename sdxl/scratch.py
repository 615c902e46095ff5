"""Memory that a thread uses again and again: to get it anew from the system costs a CPU as much as some layers do."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch(threading.local):
    """Tensors by name, each as large as the largest that was asked for."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU with anything in it, until the next one of that name is taken."""
        count = math.prod(shape)
        held = self._held.get((name, dtype))
        if held is None or held.numel() < count:
            with torch.inference_mode(False):  # such a tensor could not be written outside of that mode
                held = self._held[name, dtype] = torch.empty(count, dtype=dtype)
        return held[:count].view(*shape)

    def clear(self) -> None:
        """Give it all back."""
        self._held.clear()


scratch = Scratch()
