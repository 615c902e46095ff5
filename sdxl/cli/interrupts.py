"""Ctrl-C, acted on as soon as nothing is left half done.

An import must not be interrupted: torch's and numpy's swallow the interrupt, or go on without a module that they need.
Nor must the writing of an image. There the interrupt waits, and is acted on after it.

The first process of a container gets SIGTERM, and the system does not end it for that: it must do so itself.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_PAUSE = 0.05  # seconds until an interrupt that waits is tried again
_IMPORT = "<frozen importlib._bootstrap>"  # the file of every running import
_WHOLE = {("sdxl.images.output", "write_file")}  # module and name of functions that are not interrupted


def install() -> None:
    """From now on SIGINT raises `KeyboardInterrupt` where it may; an ignored SIGINT (`nohup`, `&`) stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _and_again(sys.unraisablehook)
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


def uninstall() -> None:
    """For the end of the process, where Python would print a traceback: an interrupt ends it at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if any(_must_end(each) for each in _stack(frame)):
        _later(number)
    else:
        raise KeyboardInterrupt


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _must_end(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename == _IMPORT or (frame.f_globals.get("__name__"), code.co_name) in _WHOLE


def _later(number: int = signal.SIGINT) -> None:
    timer = threading.Timer(_PAUSE, _send, (number,))
    timer.daemon = True  # the process may end before
    timer.start()


def _send(number: int) -> None:
    """Send the signal to the main thread, which may be waiting in the system."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main()


def _and_again(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`hook` for exceptions that Python cannot raise, as in a `__del__`; an interrupt among them is tried again."""

    def interrupted(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _later()
        else:
            hook(unraisable)

    return interrupted
