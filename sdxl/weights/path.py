"""A path as a user gives it."""

from __future__ import annotations

import os
from pathlib import Path

AnyPath = str | os.PathLike[str]


def expanded(path: AnyPath) -> Path:
    """The path with the home folder for its ~. One of a user who does not exist stays as it is, and so does a file's
    name that begins with ~.
    """
    return Path(os.path.expanduser(path))
