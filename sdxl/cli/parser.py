"""The parser of one command: an error is one sentence, and flags of other programs get a hint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .console import UNPRINTED, note, show
from .hints import unknown_flags

_LONGEST = 1000  # characters of a message, which repeats what was typed


class Parser(argparse.ArgumentParser):
    """Flags are written in full, and stand before, between or behind what is no flag."""

    def __init__(self, prog: str, description: str, epilog: str = "", usage: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog or None,
            usage=usage,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options; an error ends the process with status 2."""
        options, extras = self.parse_known_intermixed_args(arguments)
        if extras:
            known = [flag[2:].replace("-", "_") for flag in self._option_string_actions if flag.startswith("--")]
            self.error(unknown_flags(extras, known))
        return options

    def error(self, message: str) -> NoReturn:
        """Print the error and end the process with status 2."""
        if "expected one argument" in message:
            message += ", and one that begins with - is written as --flag=VALUE"
        short = message if len(message) < _LONGEST else f"{message[:_LONGEST]}..."
        note(f"error: {short}; {self.prog} --help shows all flags")
        self.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Of argparse: help, version."""
        lines = message.rstrip("\n").split("\n")
        if file is not None and file is sys.stderr:
            note(*lines)
        elif not show(*lines):
            self.exit(UNPRINTED)


def command(name: str, description: str, epilog: str = "", usage: str = "") -> Parser:
    """The parser of `sdxl NAME`."""
    return Parser(f"sdxl {name}", description, epilog, f"sdxl {name} {usage}" if usage else None)
