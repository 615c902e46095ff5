"""Get a Chromium for the tests of the page, as `make browser` does: the system's, else playwright's own.

    python scripts/get_browser.py

Debian has it in a package, Homebrew too; elsewhere playwright downloads one, with what it needs where that is allowed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/serve"))

from browser import find_browser


def commands() -> Iterator[list[str]]:
    """The commands to try, one after the other."""
    root = [] if os.getuid() == 0 else ["sudo", "--non-interactive"]
    release = Path("/etc/os-release")
    if release.exists() and "ID=debian" in release.read_text().splitlines():
        yield [*root, "apt-get", "update"]
        yield [*root, "apt-get", "install", "--yes", "chromium"]
    if platform.system() == "Darwin" and shutil.which("brew"):
        yield ["brew", "install", "--cask", "chromium"]
    yield [sys.executable, "-m", "playwright", "install", *(["--with-deps"] if not root else []), "chromium"]


def main() -> int:
    """The exit status."""
    status = 0
    for command in commands():
        if find_browser() is not None:
            break
        print(" ".join(command), flush=True)
        status = subprocess.run(command).returncode if shutil.which(command[0]) else 127
    program = find_browser()
    if program is not None:
        print(subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip() or program)
    return 0 if program is not None else status


if __name__ == "__main__":
    sys.exit(main())
