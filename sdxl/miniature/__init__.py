"""The miniature: a small SDXL that travels with the package, and the drawn world that it was trained on."""

from __future__ import annotations

from pathlib import Path

NAMES = {"miniature": "base", "miniature-refiner": "refiner"}
_PLACES = (Path(__file__).parent / "weights", Path(__file__).parents[2] / "weights" / "miniature")  # wheel, checkout


def folder(name: str) -> Path | None:
    """Where the model of one of `NAMES` lies: inside an installed package, or in `weights/` of a checkout."""
    return next((place / NAMES[name] for place in _PLACES if (place / NAMES[name]).is_dir()), None)
