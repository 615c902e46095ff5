"""The errors of this package. Each message says what is wrong with which file or argument, and what to do."""

import errno


class SDXLError(Exception):
    """The base of every error that this package raises on purpose."""


class ArgumentError(SDXLError, ValueError):
    """An argument of the caller is out of range, of the wrong kind, or contradicts another one."""


class CheckpointError(SDXLError):
    """A file or folder cannot be read as the model that was asked for."""


class ConfigError(CheckpointError):
    """A config.json, scheduler_config.json or model_index.json states something that is not supported."""


class HubError(SDXLError):
    """A model on the Hugging Face hub cannot be reached, found or used."""


class OutputError(SDXLError):
    """A result cannot be written where it was asked for."""


class NonFiniteError(SDXLError, ArithmeticError):
    """A stage produced NaN or infinity."""


class OutOfMemoryError(SDXLError, MemoryError):
    """There is too little memory for what was asked."""


class DrawError(SDXLError, RuntimeError):
    """A picture of a job could not be drawn, for a reason that is not known here."""


class SDXLWarning(UserWarning):
    """Something was changed or ignored that the caller should know about; the result is still well defined."""


def is_disk_full(error: OSError) -> bool:
    """Whether a file cannot be written for lack of space, or because it may not grow further."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
