"""Scratch buffers of a thread: allocating fresh memory costs a CPU as much as some layers."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..models.float8 import E4M3, widened

PIECE = 1 << 18
"""Numbers that stay in the processor's cache."""


class Scratch(threading.local):
    """Tensors by name, each as large as the largest that was asked for."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}
        self._lent: set[str] = set()

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor on the CPU, valid until the next one of that name is taken."""
        count = math.prod(shape)
        held = self._held.get((name, dtype))
        if held is None or held.numel() < count:
            with torch.inference_mode(False):  # such a tensor could not be written outside of that mode
                held = self._held[name, dtype] = torch.empty(count, dtype=dtype)
        return held[:count].view(*shape)

    @contextmanager
    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> Iterator[Tensor]:
        """An uninitialised tensor on the CPU, valid within a `with`. Two that are lent at once never share memory."""
        name = next(each for n in range(len(self._lent) + 1) if (each := f"lent {n}") not in self._lent)
        self._lent.add(name)
        try:
            yield self.take(name, shape, dtype)
        finally:
            self._lent.discard(name)

    def clear(self) -> None:
        """Give all memory back."""
        self._held.clear()


scratch = Scratch()


def cast(source: Tensor, target: Tensor, held: torch.dtype | None = None) -> Tensor:
    """Fill `target`, on a CPU, with `source` of the same shape, rounded to `held` in between.

    Piece by piece, and from one type of 16 bits to another by way of float32, as from float8_e4m3fn to any: torch does
    that number by number, which takes more than twice as long.
    """
    dtypes = _way([source.dtype, held or source.dtype, target.dtype])
    is_quick = len(dtypes) <= 2 and source.dtype is not E4M3
    if is_quick or not (source.is_contiguous() and target.is_contiguous()):
        return target.copy_(source.to(held or source.dtype))
    into = torch.split(target.view(-1), PIECE)
    for x, piece in zip(torch.split(source.view(-1), PIECE), into, strict=True):
        for number, dtype in enumerate(dtypes[1:-1]):
            x = _fill(scratch.take(f"piece {number}", x.shape, dtype), x)
        _fill(piece, x)
    return target


def _fill(target: Tensor, x: Tensor) -> Tensor:
    if x.dtype is not E4M3 or target.dtype is not torch.float32:
        return target.copy_(x)
    return widened(x, target, scratch.take("bits", x.shape, torch.int16))


def _way(dtypes: list[torch.dtype]) -> list[torch.dtype]:
    """The types without repetitions, and with float32 between two of 16 bits, and behind float8_e4m3fn."""
    way = dtypes[:1]
    for dtype in dtypes[1:]:
        if dtype != way[-1]:
            is_slow = dtype.itemsize == way[-1].itemsize == 2 or way[-1] is E4M3
            way += [torch.float32] if is_slow and dtype is not torch.float32 else []
            way.append(dtype)
    return way
