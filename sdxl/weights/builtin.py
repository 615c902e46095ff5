"""The models that ship with the package: the miniature and its refiner."""

from __future__ import annotations

import os
from pathlib import Path

NAMES = {"miniature": "base", "miniature-refiner": "refiner"}
_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "miniature/weights", _PACKAGE.parent / "weights/miniature")  # of a wheel, of a checkout


def folder(name: str) -> Path | None:
    """The folder of one of `NAMES`: inside an installed package, or in `weights/` of a checkout."""
    return next((each / NAMES[name] for each in _FOLDERS if os.path.isdir(each / NAMES[name])), None)
