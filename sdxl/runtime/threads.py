"""Work that threads share. Torch computes alone in each of them.

Torch's own threads share every single operation, and wait for each other at its end. On a machine that is busy that is
a long time for a small piece.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
MOST = 8  # more threads would wait for the same memory


def share(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """The results of `work` for each of the items, in their order. As many threads as torch computes with take the
    items one by one. After an error nothing new is begun.
    """
    count = min(torch.get_num_threads(), MOST, len(items)) if _limit() else 1
    if count <= 1:
        yield from map(work, items)
        return
    inference = torch.is_inference_mode_enabled()

    def with_mode(item: T) -> R:
        with torch.inference_mode(inference):
            return work(item)

    pool = ThreadPoolExecutor(count, initializer=_compute_alone)
    try:
        yield from pool.map(with_mode, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _limit() -> Any:
    """OpenMP's function that sets the number of threads for the thread that calls it. (`torch.set_num_threads` sets it
    for others too.) None where there is none.
    """
    try:
        return getattr(ctypes.CDLL(None), "omp_set_num_threads", None)
    except (OSError, TypeError):  # Windows
        return None


def _compute_alone() -> None:
    torch.get_num_threads()  # at the first question torch itself sets the number for a thread
    _limit()(1)
