"""A path as a user gives it."""

from __future__ import annotations

import os
from pathlib import Path

AnyPath = str | os.PathLike[str]


def expanded(path: AnyPath) -> Path:
    """The path with the home folder for its ~. Without such a folder it stays as it is: that of a user who does not
    exist, and a file's name that begins with ~, which Windows takes for that of a folder beside the user's own.
    """
    plain = Path(path)
    first = plain.parts[0] if plain.parts else ""
    try:
        is_home = first == "~" or (first.startswith("~") and os.path.isdir(os.path.expanduser(first)))
    except ValueError:  # a null byte in the name of the user
        is_home = False
    return Path(os.path.expanduser(plain)) if is_home else plain
