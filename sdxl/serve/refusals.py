"""The errors of the service beside those of the package: a name that it does not know, and work that it cannot take."""

from __future__ import annotations

from ..errors import SDXLError


class UnknownError(SDXLError, LookupError):
    """A job, model, LoRA or file of a name that the service does not know. `argument` is where the name stands."""

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class BusyError(SDXLError):
    """The queue is full; perhaps it is not after `seconds`."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class ClosingError(SDXLError):
    """The service is ending and takes no more work."""


class TooLargeError(SDXLError):
    """A body or an image is larger than the service reads."""

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument
