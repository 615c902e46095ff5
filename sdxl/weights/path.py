"""A path as a user gives it."""

from __future__ import annotations

import os
from pathlib import Path

AnyPath = str | os.PathLike[str]


def expanded(path: AnyPath) -> Path:
    """The path with the home folder for its ~. One of a user who does not exist stays as it is, and so does a file's
    name that begins with ~, also with a null byte, which no file's name has.
    """
    try:
        return Path(os.path.expanduser(path))
    except ValueError:  # a null byte in the name of the user
        return Path(path)
