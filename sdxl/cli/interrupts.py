"""Ctrl-C and a closed terminal, acted on as soon as nothing is left half done.

An import must not be interrupted: torch's and numpy's swallow the interrupt, or go on without a module that they need.
Nor must the writing of an image. There the interrupt waits, and is acted on after it.

SIGTERM ends a process, but not the first one of a container: for that the system does nothing of itself. There it is an
interrupt too.
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
_HANGUP: int | None = getattr(signal, "SIGHUP", None)  # of a terminal that is closed; Windows has none

_last: int = signal.SIGINT  # the signal that was acted on


def install() -> None:
    """From now on SIGINT and SIGHUP raise `KeyboardInterrupt` where they may; one that is ignored (`nohup`, `&`) stays
    ignored.
    """
    for number, default in ((signal.SIGINT, signal.default_int_handler), (_HANGUP, signal.SIG_DFL)):
        if number is not None and signal.getsignal(number) is default:
            signal.signal(number, _interrupt)
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _and_again(sys.unraisablehook)


def uninstall() -> None:
    """For the end of the process, where Python would print a traceback: the signals end it at once."""
    for number in (signal.SIGINT, signal.SIGTERM, _HANGUP):
        if number is not None and signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def on_hangup(call: Callable[[], object]) -> None:
    """Call a function where the terminal is closed, once: shells send SIGHUP again at their end. An ignored SIGHUP
    stays ignored.
    """

    def hang_up(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        call()

    if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
        signal.signal(_HANGUP, hang_up)


def status() -> int:
    """The exit status of a command that was interrupted: 128 and the number of the signal, as shells have it."""
    return 128 + _last


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _last
    if number == _last == _HANGUP:  # shells send it again at their end
        return
    if any(_must_end(each) for each in _stack(frame)):
        _later(number)
    else:
        _last = number
        raise KeyboardInterrupt


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _must_end(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename == _IMPORT or (frame.f_globals.get("__name__"), code.co_name) in _WHOLE


def _later(number: int) -> None:
    timer = threading.Timer(_PAUSE, _send, [number])
    timer.daemon = True  # the process may end before
    timer.start()


def _send(number: int) -> None:
    """Send a signal to the main thread, which may be waiting in the system."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main()


def _and_again(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`hook` for exceptions that Python cannot raise, as in a `__del__`; an interrupt among them is tried again."""

    def interrupted(unraisable: Any) -> None:
        global _last
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            number, _last = _last, signal.SIGINT
            _later(number)
        else:
            hook(unraisable)

    return interrupted
