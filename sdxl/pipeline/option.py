"""What an argument's flag looks like on the command line, kept beside the argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Option:
    """The flag of a field: its help, the type of its value (`str`, `int`, `float`, `bool`, or `Path` for a file), and
    what the help calls the value. An `example` of several numbers says that the flag takes as many, one that ends with
    "..." any number of them. A `repeated` flag may be given several times; with the type `dict` each is NAME=VALUE.
    `recorded` arguments belong to the identity of an image and of a job. `flag` is its name on the command line, if
    that is not the field's; None: it has no flag.
    """

    help: str
    type: type
    metavar: str = "TEXT"
    example: str = ""
    choices: tuple[str, ...] | None = None
    repeated: bool = False
    recorded: bool = True
    flag: str | None = ""


def option(
    help: str,
    default: Any = None,
    type: type = str,
    metavar: str | None = None,
    example: str = "",
    choices: tuple[str, ...] | None = None,
    repeated: bool = False,
    recorded: bool = True,
    flag: str | None = "",
    hash: bool | None = None,
) -> Any:
    """A dataclass field with an `Option` in its metadata under "option". `hash` is that of `dataclasses.field`: images
    and tensors have none of their values.
    """
    names = {str: "TEXT", int: "N", float: "N"}
    value = Option(help, type, metavar or names.get(type, "FILE"), example, choices, repeated, recorded, flag)
    return field(default=default, hash=hash, metadata={"option": value})
