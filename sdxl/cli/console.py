"""What is printed. All text passes through here: results to stdout, all else to stderr."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from contextlib import suppress
from typing import Any, TextIO

UNPRINTED = 3
"""The exit status when all is done, but could not all be printed."""

# what a terminal obeys or what changes the order of a line: controls, separators, marks of direction, half characters
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """One line of text with escapes in place of what a terminal would obey: names, keys and prompts are foreign."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON in ASCII, whose own escapes leave nothing for `printable` to change."""
    return json.dumps(value, default=str, indent=indent).replace("\x7f", "\\u007f")


def show(*lines: str) -> bool:
    """Print results to stdout; whether all could be printed. A reader that has closed a pipe is no error to name."""
    return _print(sys.stdout, "".join(printable(line) + "\n" for line in lines))


def show_bytes(data: bytes) -> bool:
    """Write a file to stdout; whether that could be done."""
    return _print(sys.stdout, data)


def note(*lines: str) -> None:
    """Print lines to stderr, in place of what `draw` has drawn there."""
    _to_stderr(_blank() + "".join(printable(line) + "\n" for line in lines))


def draw(line: str) -> None:
    """Draw a line that the next one replaces, on a terminal; nothing elsewhere."""
    if is_terminal():
        _to_stderr(_blank() + printable(line)[: _columns()])


def _to_stderr(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # it is closed: there is nobody to tell
        sys.stderr.write(text)
        sys.stderr.flush()


def _blank() -> str:
    return f"\r{' ' * _columns()}\r" if is_terminal() else ""


def _columns() -> int:
    return shutil.get_terminal_size().columns - 1


def is_terminal() -> bool:
    """Whether stderr is a terminal."""
    with suppress(OSError, ValueError, AttributeError):
        return sys.stderr.isatty()
    return False


def _print(stream: TextIO | None, text: str | bytes) -> bool:
    try:
        if stream is None:
            raise OSError("it is closed")
        if isinstance(text, bytes):
            stream.flush()
            stream.buffer.write(text)
            stream.flush()
            return True
        return _write(stream, text)
    except (OSError, ValueError) as error:
        _abandon(stream)
        if not _is_closed_pipe(error):
            note(f"error: stdout cannot be written: {getattr(error, 'strerror', None) or error}; all else is done")
    return False


def _write(stream: TextIO, text: str) -> bool:
    """Print text, with escapes for characters that the stream's encoding lacks; whether it had all."""
    encoded = text.encode(stream.encoding or "utf-8", "backslashreplace").decode(stream.encoding or "utf-8")
    stream.write(encoded)
    stream.flush()
    if encoded != text:
        note(f"error: stdout is in {stream.encoding}, which lacks some characters; set PYTHONUTF8=1 to print them")
    return encoded == text


def _is_closed_pipe(error: Exception) -> bool:
    """Whether the reader of a pipe has left, which is an invalid argument on Windows."""
    is_of_windows = sys.platform == "win32" and getattr(error, "errno", None) == errno.EINVAL
    return isinstance(error, BrokenPipeError) or is_of_windows


def _abandon(stream: TextIO | None) -> None:
    """Let nothing more be written to a stream that failed: Python would try again at its end."""
    if stream is None:
        return
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())
