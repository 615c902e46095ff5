"""Weights made another floating-point type, on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from .scratch import scratch

_PIECE = 1 << 18  # numbers that stay in the processor's cache


def cast(source: Tensor, target: Tensor, held: torch.dtype | None = None) -> Tensor:
    """Fill `target` with `source`, of the same shape, rounded to `held` in between.

    Piece by piece, and from one type of 16 bits to another by way of float32: torch does that number by number, which
    takes more than twice as long.
    """
    kinds = _way([source.dtype, held or source.dtype, target.dtype])
    if len(kinds) <= 2 or not (source.is_contiguous() and target.is_contiguous()):
        return target.copy_(source.to(held or source.dtype))
    into = torch.split(target.view(-1), _PIECE)
    for x, piece in zip(torch.split(source.view(-1), _PIECE), into, strict=True):
        for number, kind in enumerate(kinds[1:-1]):
            x = scratch.take(f"piece {number}", x.shape, kind).copy_(x)
        piece.copy_(x)
    return target


def _way(kinds: list[torch.dtype]) -> list[torch.dtype]:
    """The types without those that follow themselves, and with float32 between two of 16 bits."""
    way = kinds[:1]
    for kind in kinds[1:]:
        if kind != way[-1]:
            way += [torch.float32] if kind.itemsize == way[-1].itemsize == 2 else []
            way.append(kind)
    return way
