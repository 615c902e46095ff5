"""Locks, and what a fork leaves of them.

A child of `os.fork` has one thread. A lock that another one held stays locked for ever, in Python as in torch's
libraries, and the threads that torch computed with are gone. What can work in a child works. What would wait for ever
is a `ForkError`.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from weakref import WeakSet

import torch

from ..errors import ForkError

_ADVICE = 'start processes with multiprocessing.get_context("spawn")'


class Lock:
    """A reentrant lock. In the child of a fork it is free, unless the thread that forked holds it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace a lock that a lost thread holds."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


class Turns(Lock):
    """A lock around work with torch: threads take turns. To enter it raises `ForkError` where torch would wait for
    ever. A caller's autocast does not act inside, nor does a default device: what is loaded and computed has the dtypes
    that are recorded of it, and is where the pipeline has it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._outside: list[ExitStack] = []  # gives the caller's modes back, once for each entry

    def __enter__(self) -> None:
        check_fork()
        super().__enter__()
        _at_work.append(threading.get_ident())
        _own.has_pool |= torch.get_num_threads() > 1
        self._outside.append(without_modes())

    def __exit__(self, *_: object) -> None:
        self._outside.pop().close()
        _at_work.remove(threading.get_ident())
        super().__exit__()


def without_modes() -> ExitStack:
    """A caller's autocast off, and tensors on the CPU unless a device is named, until it is closed."""
    stack = ExitStack()
    if torch.get_default_device().type != "cpu":
        stack.enter_context(torch.device("cpu"))
    for kind in _AUTOCASTS:
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


class _Own(threading.local):
    """What each thread has of its own: `has_pool` says whether it has had several threads of torch compute for it."""

    has_pool = False


_AUTOCASTS = "cpu", "cuda", "mps"
_own = _Own()
_locks: WeakSet[Lock] = WeakSet()
_at_work: list[int] = []  # the threads that are inside of `Turns`, once for each
_lost: set[str] = set()  # what this process has lost by being forked


def check_fork() -> None:
    """Raise `ForkError` in the child of a fork in which work with torch would wait for ever."""
    if "work" in _lost:
        raise ForkError(f"this process was forked while another thread worked with a model; {_ADVICE}")
    if "pool" in _lost and torch.get_num_threads() > 1:
        raise ForkError(
            f"this process was forked after torch had computed in {torch.get_num_threads()} threads, which are lost; "
            f"{_ADVICE}, or call torch.set_num_threads(1) in this one"
        )


def _after_fork() -> None:
    own = threading.get_ident()
    if any(thread != own for thread in _at_work):
        _lost.add("work")
    if _own.has_pool:
        _lost.add("pool")
    _at_work[:] = [thread for thread in _at_work if thread == own]
    for lock in list(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
