"""The errors of this package. Each message says what is wrong with which file or argument, and what to do."""

from __future__ import annotations

import errno
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from reprlib import Repr
from typing import Any, TypeGuard

_INSIDE = "sdxl", "torch", "contextlib"  # torch.no_grad and context managers stand between our functions
_BEHIND_NAME = " :,/\\"  # a file's name that ends elsewhere is the beginning of another word: t of "the VAE"


class SDXLError(Exception):
    """The base of every error that this package raises on purpose."""


class ArgumentError(SDXLError, ValueError):
    """An argument of the caller is out of range, of the wrong type, or contradicts another one."""


class UnsupportedError(SDXLError, AttributeError):
    """Something that pipelines of diffusers have or do and this one does not: a method, an attribute, a copy."""


class CheckpointError(SDXLError):
    """A file or folder cannot be read as the model that was asked for."""


class ConfigError(CheckpointError):
    """A config.json, scheduler_config.json or model_index.json states something that is not supported."""


class HubError(SDXLError):
    """A model on the Hugging Face hub cannot be reached, found or used."""


class OutputError(SDXLError):
    """A result cannot be written where it was asked for."""


class NonFiniteError(SDXLError, ArithmeticError):
    """A network produced NaN or infinity."""


class OutOfMemoryError(SDXLError, MemoryError):
    """There is too little memory for what was asked."""


class DrawError(SDXLError, RuntimeError):
    """An image of a job could not be generated, for a reason that this package does not know."""


class ForkError(SDXLError, RuntimeError):
    """A forked process cannot compute: what torch needs did not survive the fork."""


class SDXLWarning(UserWarning):
    """Something was changed or ignored that the caller should know about; the result is still well defined."""


def warn(text: str) -> None:
    """Warn at the line of the caller's program that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, SDXLWarning, stacklevel=level)


def _repr_array(value: Any, _: int) -> str:
    """An array or a tensor: its numbers if they are few, else their shape."""
    text, kind = " ".join(repr(value).split()), "a tensor" if type(value).__name__ == "Tensor" else "an array"
    return text if len(text) <= 100 else f"{kind} of shape {list(value.shape)}, {value.dtype}"


_short = Repr()
_short.maxstring = _short.maxother = 100
_short.maxlist = _short.maxtuple = 8
_short.maxlevel = 3
for _name in ("repr_ndarray", "repr_Tensor"):  # by the name of the type; nothing is imported for it
    setattr(_short, _name, _repr_array)


def brief(value: object) -> str:
    """A value for an error message, on one line, cut where it is long or deep."""
    text = _short.repr(value)
    return " ".join(text.split()) if "\n" in text else text


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number that a float can hold, of Python or NumPy; True and False are none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond 10^308
        return False


def checked_number(name: str, value: object, least: float, most: float) -> float:
    """A number from `least` to `most`, the argument `name`, as a float. Raises `ArgumentError`."""
    number = float(value) if is_number(value) else math.nan
    if not least <= number <= most:
        raise ArgumentError(f"{name} is {brief(value)}; expected a number from {least:g} to {most:g}")
    return number


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Put the name of a file in front of a `CheckpointError` that does not know it."""
    try:
        yield
    except CheckpointError as error:
        text, name = str(error), str(where)
        if text.startswith(name) and text[len(name) :][:1] in _BEHIND_NAME:
            raise
        raise type(error)(f"{name}: {text}") from error


def unread_advice(error: Exception, advice: str) -> str:
    """The `advice` for a file that cannot be read; another one where the process has too many files open."""
    is_many = getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE)
    return "raise the limit of open files (ulimit -n)" if is_many else advice


def is_disk_full(error: OSError) -> bool:
    """Whether a file cannot be written for lack of space, or because it may not grow further."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
