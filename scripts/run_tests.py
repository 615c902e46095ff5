"""Run the tests in one process for each core, which share out the files among themselves: `tests/conftest.py`.

    python scripts/run_tests.py -m "not slow"   # arguments are pytest's

The first process prints as it goes on, the others when all have ended. Exits with the worst of their statuses.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MOST = 4  # processes, each of which imports torch and diffusers


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--shared={folder}", *arguments]
        others = [Path(folder, f"output {n}") for n in range(1, min(len(os.sched_getaffinity(0)), MOST))]
        processes = [subprocess.Popen(command)]
        for path in others:
            with path.open("w") as file:
                processes.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT))
        statuses = [process.wait() for process in processes]
        for path in others:
            print(path.read_text(), end="", flush=True)
    return max(abs(status) for status in statuses)  # negative for a process that a signal has ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
