"""Bounds of configs, which may come from a stranger."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConfigError

# Bounds far above every published model (its number behind each), so low that to describe such a network takes no time
MOST_LEVELS = 8  # 4
MOST_BLOCKS = 16  # 3, in a level
MOST_LAYERS = 256  # 32, in a text encoder
MOST_DEPTH = 512  # 70, transformer layers in all of a UNet
MOST_WIDTH = 2**16  # 5,120
MOST_TOKENS = 2**20  # 49,408
MOST_SIDE = 1024  # 128 latents
MOST_STEPS = 100_000  # 1,000
MIN_TOKENS = 3  # start, one token, end


def bound(what: str, numbers: Iterable[float], most: float, least: float = 1) -> None:
    for number in numbers:
        if not least <= number <= most:  # NaN is not either
            raise ConfigError(f"{what}: {number} is not in {least} to {most}, as in no SDXL model; download it again")
