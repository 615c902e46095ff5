"""The command line: its commands and the form of its errors."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

from ..errors import ArgumentError, SDXLError, SDXLWarning
from ..pipeline.aliases import guess
from ..pipeline.model_request import ModelRequest
from ..pipeline.request import Request
from ..version import __version__
from .bench import add_bench
from .checkpoints import add_convert, add_inspect
from .generate import add_generate


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error, 2 for wrong arguments, 130 for an interruption."""
    options = _parser().parse_args(arguments)
    warnings.formatwarning = _format_warning
    warnings.simplefilter("default", SDXLWarning)  # each message once
    _print_presets()
    try:
        status: int = options.run(options) or 0
        sys.stdout.flush()
        return status
    except ArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SDXLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _print_presets() -> None:
    """Print which preset is taken, and why: once for all images of a job."""
    log, printed = logging.getLogger("sdxl.preset"), set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        return not (line in printed or printed.add(line))

    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(is_new)
    log.setLevel(logging.INFO)
    log.handlers, log.propagate = [handler], False


class _Parser(argparse.ArgumentParser):
    """A parser that prints one sentence for an error, not all flags."""

    def error(self, message: str) -> NoReturn:
        """Print the error and end the process with status 2."""
        flag = re.search(r"unrecognized arguments: --([\w-]+)", message)
        known = [each.name for each in (*fields(Request), *fields(ModelRequest))]
        ours = guess(flag[1].replace("-", "_"), [*known, "compile", "output", "quiet"]) if flag else None
        hint = f"perhaps --{ours.replace('_', '-')} is meant, " if ours else ""
        self.exit(2, f"error: {message}; {hint}{self.prog} --help shows all flags\n")


def _format_warning(message: Warning | str, category: type[Warning], *location: Any, **more: Any) -> str:
    return f"warning: {message}\n"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sdxl", description="Stable Diffusion XL in PyTorch.")
    parser.add_argument("--version", action="version", version=f"sdxl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_generate(commands)
    add_inspect(commands)
    add_convert(commands)
    add_bench(commands)
    return parser
