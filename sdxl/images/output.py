"""Files of images: where they may be written, and how."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import OutputError, is_disk_full
from ..weights.library import composed
from ..weights.part import open_part, put_in_place

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""The format of each suffix."""


def image_format(path: Path) -> str:
    """PNG, JPEG or WEBP, by the suffix of a file. Raises `OutputError`."""
    if (format := FORMATS.get(path.suffix.lower())) is not None:
        return format
    _refuse_folder(path)
    _refuse_device(path)
    *most, last = FORMATS
    raise OutputError(
        f"the suffix of {path} is {path.suffix!r}; expected {', '.join(most)} or {last}. "
        f"Try {path.with_suffix('.png') if path.name else 'picture.png'}"
    )


def _refuse_folder(path: Path) -> None:
    if os.path.isdir(os.path.expanduser(path)):
        raise OutputError(f"{path} is a folder; give a file name such as {path / 'picture.png'}")


def _refuse_device(path: Path) -> None:
    known = os.path.expanduser(path)
    if os.path.exists(known) and not os.path.isfile(known):
        raise OutputError(f"{path} is a device or a pipe; expected a file. Try another path")


def write_file(data: bytes, path: Path, parts: Path | None = None) -> None:
    """Write a file under a temporary name, beside it or in the folder `parts` of the same file system, then rename it:
    even if the machine stops, no partial file exists. A link at `path` is replaced. Raises `OutputError`.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = open_part(path, parts)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; {remedy(error)}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # gone, where the file is complete
                os.unlink(temporary)


def resolve_output(path: Path) -> Path:
    """The file that is replaced when an image is written to `path`: the target of a link, also of one to a file that
    does not exist. Raises `OutputError` for what must not be replaced.
    """
    try:
        target = Path(os.path.realpath(os.path.expanduser(path)))
    except ValueError as error:  # a null byte
        raise OutputError(f"{path} cannot be written: {error}; choose another path") from error
    _refuse_folder(path)
    if os.path.islink(target):
        raise OutputError(f"{path} cannot be written: {os.strerror(errno.ELOOP)}; choose another path")
    _refuse_device(path)
    return target


def remedy(error: OSError) -> str:
    """The advice for a file that cannot be written."""
    if is_disk_full(error):
        return "free some space and run the same command again"
    is_open = sys.platform == "win32" and isinstance(error, PermissionError)
    return f"{'close the program that has it open, or ' if is_open else ''}choose another path"


_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE)


def check_name(name: str) -> None:
    """Raise `OutputError` for a name that Windows, where this runs there, does not give to a file: a device would
    swallow the image, and behind a colon it would be a hidden part of another file.
    """
    if sys.platform == "win32" and (_FORBIDDEN.search(name) or _DEVICES.fullmatch(name)):
        raise OutputError(
            f'{name!r} is no name of a file on Windows: it has one of < > : " | ? * or is that of a device; choose '
            "another name"
        )


def same_name(name: str) -> str:
    """Equal for names that file systems of Windows and macOS may take for the same, whatever this one does."""
    return composed(composed(name).casefold())


def is_same_file(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file, perhaps by names that only this file system takes for the same. (Two links to
    the content of a file are two files: to replace one leaves the other.)
    """
    first, second = os.path.realpath(path), os.path.realpath(other)
    return first == second or (
        same_name(first) == same_name(second) and os.path.exists(first) and os.path.samefile(first, second)
    )


def _check_replaceable(path: Path) -> None:
    """Raise `OSError` where Windows does not let a file be replaced: it may only be read, or a program has it open."""
    if sys.platform == "win32" and os.path.isfile(path):
        if not os.access(path, os.W_OK):
            raise OSError(errno.EROFS, "it may only be read")
        with suppress(FileExistsError):  # it is itself
            os.rename(path, path)


def check_writable(path: Path) -> None:
    """Raise `OutputError` before minutes of work if no image can be written to `path`."""
    target = resolve_output(path)
    image_format(path)
    check_name(target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            target.lstat()  # an error for a name that is too long
        with tempfile.TemporaryFile(dir=target.parent):
            pass
        _check_replaceable(target)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; {remedy(error)}") from error


def numbered(path: Path, count: int) -> list[Path]:
    """The files of `count` images; several get numbers."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{n + 1}") for n in range(count)]
