"""What is wrong with a request, as HTTP says it: a status, a type, a sentence, and the argument that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from typing import Any

from ..errors import SDXLError
from ..pipeline.request import Request
from .refusals import BusyError

_STATUS = {
    "ArgumentError": 400,
    "CheckpointError": 400,  # of a LoRA that does not fit the model
    "UnknownError": 404,
    "TooLargeError": 413,
    "BusyError": 429,
    "InternalError": 500,
    "NonFiniteError": 500,
    "ClosingError": 503,
    "OutOfMemoryError": 503,
}
_NAMES = {each.name for each in fields(Request)} | {"batches", "model"}


@dataclass(frozen=True)
class Problem:
    """`type` is the name of an error class, or of an HTTP status such as NotFound. `headers` belong to the answer."""

    status: int
    type: str
    message: str
    argument: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class RefusedError(SDXLError):
    """An answer that is a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def refuse(status: int, message: str, argument: str | None = None, **headers: str) -> RefusedError:
    """A refusal with the name of its status as its type. Headers have _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RefusedError(Problem(status, type_of(status), message, argument, named))


def type_of(status: int) -> str:
    """The name of a status, such as NotFound."""
    return HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")


def problem_of(error: SDXLError) -> Problem:
    """The problem of an error of the package."""
    if isinstance(error, RefusedError):
        return error.problem
    kind = next((each.__name__ for each in type(error).__mro__ if each.__name__ in _STATUS), "InternalError")
    headers = {"Retry-After": str(error.seconds)} if isinstance(error, BusyError) else {}
    return Problem(_STATUS[kind], type(error).__name__, str(error), argument_of(error), headers)


def status_of(type: str) -> int:
    """The status of a failed job, by the type of its failure."""
    return _STATUS.get(type, 500)


def argument_of(error: SDXLError) -> str | None:
    """The argument that an error is about: messages begin with its name. A part of hires has a dot: hires.scale."""
    named: Any = getattr(error, "argument", None)
    message = str(error)
    first = message.partition(" ")[0].rstrip(":").removeprefix("--").replace("-", "_")
    if named or message.startswith(f"{first} of hires"):
        return named or f"hires.{first}"
    return "hires" if message.startswith("in the second pass of hires") else first if first in _NAMES else None
