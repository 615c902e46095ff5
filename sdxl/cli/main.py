"""The command line: its commands and the form of its errors."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import metadata
from typing import Any

from ..errors import ArgumentError, SDXLError, SDXLWarning, brief
from ..version import __version__
from .bench import bench_parser
from .checkpoints import convert_parser, inspect_parser
from .console import UNPRINTED, note, printable, show
from .generate import generate_parser
from .hints import unknown_command
from .interrupts import status
from .parser import Parser
from .preprocess import preprocess_parser
from .serve import serve_parser
from .tokens import tokens_parser

COMMANDS: dict[str, Callable[[], Parser]] = {
    "generate": generate_parser,
    "inspect": inspect_parser,
    "convert": convert_parser,
    "bench": bench_parser,
    "tokens": tokens_parser,
    "preprocess": preprocess_parser,
    "serve": serve_parser,
}
HELP = """\
usage: sdxl COMMAND ...

Stable Diffusion XL in PyTorch.

commands:
  generate    generate images; also without its name: sdxl "a red cat"
  inspect     identify a model file, or show the parameters of an image
  convert     write a single file as a folder, or a folder as a single file
  bench       measure the speed of this machine
  tokens      show the tokens of a prompt and their weights
  preprocess  make a control image: edges of a photo, a blurred one, ...
  serve       serve models over HTTP

examples:
  sdxl generate "a red circle on a blue background" --model miniature
  sdxl generate "a lighthouse in a storm" --size 1216x832 --steps 25 --seed 7
  sdxl generate "a watercolour" --image photo.jpg --strength 0.5
  sdxl generate --from picture.png --seed -1
  sdxl generate --from picture.png --verify
  sdxl inspect picture.png

environment:
  SDXL_MODEL        the default of --model
  SDXL_MODELS_DIR   a folder in which models are found by their names
  SDXL_NO_GRAPHS    set to 1, steps on a GPU are not recorded as CUDA graphs
  SDXL_NO_TCMALLOC  set to 1, the command does not restart with tcmalloc where that is installed

exit status:
  0    all is done
  1    an error: the model, a file, memory, the network, or a line of a job
  2    wrong arguments; nothing was done
  3    all is done, but not all could be printed
  4    --verify: the same within a few of 255
  5    --verify: another image
  129  the terminal was closed
  130  interrupted by Ctrl-C
  143  ended by SIGTERM as process 1 of a container

sdxl COMMAND --help shows the flags of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status, as `HELP` lists them."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        return 0 if show(*HELP.split("\n")) else UNPRINTED
    if given[0] == "--version":
        return 0 if show(_versions()) else UNPRINTED
    warnings.formatwarning = _warning_format()
    warnings.simplefilter("default", SDXLWarning)
    _print_presets()
    try:
        name, rest = _command(given)
        options = COMMANDS[name]().read(rest)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except ArgumentError as error:
        note(f"error: {error}")
        return 2
    except SDXLError as error:
        note(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        note("interrupted")
        return status()


def _versions() -> str:
    """The version, and what belongs to a report of a fault, without an import of torch."""
    python, system = platform.python_version(), platform.platform(terse=True)
    return f"sdxl {__version__} (torch {metadata.version('torch')}, Python {python}, {system})"


class _Notes(logging.Handler):
    """Prints which preset is taken, and why: each line once."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record to stderr."""
        if (line := record.getMessage()) not in self._printed:
            self._printed.add(line)
            note(line)


def _print_presets() -> None:
    log = logging.getLogger("sdxl.preset")
    log.setLevel(logging.INFO)
    log.handlers, log.propagate = [_Notes()], False


def _command(given: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command and its arguments. Flags and texts of several words are `generate`'s: no command takes them."""
    first = given[0]
    if first in COMMANDS:
        return first, given[1:]
    if first.startswith("-") or " " in first.strip():
        return "generate", given
    close = get_close_matches(first, COMMANDS, n=1)
    if known := unknown_command(first):
        advice = known
    elif close:
        advice = f"perhaps {close[0]} is meant"
    elif os.path.exists(first):  # unlike Path.exists, False for every invalid name
        advice = f"sdxl inspect {brief(first)} says what it is"
    else:
        advice = f"sdxl generate {brief(first)} generates it, sdxl --help shows the commands"
    raise ArgumentError(f"{brief(first)} is no command; {advice}")


def _warning_format() -> Callable[..., str]:
    """What a warning looks like. Each is printed once: Python forgets which it has shown where a filter changes."""
    shown: set[str] = set()

    def line(message: Warning | str, category: type[Warning], *location: Any, **more: Any) -> str:
        text = f"warning: {printable(str(message))}\n"
        is_new = text not in shown
        shown.add(text)
        return text if is_new else ""

    return line
