"""How much code a prompt passes through: the files of the package whose functions one call of the miniature calls.

    python scripts/trace_call.py           # each file with its lines, and their sum
    python scripts/trace_call.py --write   # put the sums into docs/architecture.md

The model is loaded before the trace begins. The second number of a file counts the lines of the functions that ran.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from draw_rooms import PAGE, with_block

import sdxl

PACKAGE = Path(sdxl.__file__).parent
PROMPT = "a red circle on a blue background"


@dataclass(frozen=True)
class Crossed:
    """A file below the package, its lines, and those of its functions that ran."""

    name: str
    lines: int
    ran: int


def trace(call: Callable[[], object]) -> list[Crossed]:
    """The files of the package whose functions `call` calls, in the order of the first call."""
    found: dict[str, set[CodeType]] = {}
    root = f"{PACKAGE}{os.sep}"

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root):
            found.setdefault(code.co_filename, set()).add(code)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return [_crossed(Path(name), codes) for name, codes in found.items()]


def _crossed(path: Path, codes: set[CodeType]) -> Crossed:
    ran: set[int] = set()
    for code in codes:
        last = max(line for _, _, line in code.co_lines() if line is not None)
        ran |= set(range(code.co_firstlineno, last + 1))
    lines = len(path.read_text(encoding="utf-8").splitlines())
    return Crossed(path.relative_to(PACKAGE).as_posix(), lines, len(ran))


def trace_prompt() -> list[Crossed]:
    """The files that a prompt passes through, with the miniature on a CPU in float32, all of it in memory."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu", offload="none")
    return trace(lambda: pipe(PROMPT, steps=2, progress=False))


def main() -> None:
    files = trace_prompt()
    lines, ran = sum(file.lines for file in files), sum(file.ran for file in files)
    for file in files:
        print(f"{file.lines:5} {file.ran:5}  {file.name}")
    print(f"{lines:5} {ran:5}  in {len(files)} files")
    if "--write" in sys.argv[1:]:
        block = f"**{lines:,} lines in {len(files)} files**, of which {ran:,} belong to functions that run."
        PAGE.write_text(with_block(PAGE.read_text(encoding="utf-8"), "trace", block), encoding="utf-8")


if __name__ == "__main__":
    main()
