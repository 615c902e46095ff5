"""How an image is enlarged between the passes of hires fix: its latents, or its pixels. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError, brief


@dataclass(frozen=True)
class Upscaler:
    """`a1111` is AUTOMATIC1111's name. `mode` is torch's name of the interpolation of latents, with or without a filter
    against aliasing; without a mode pixels are enlarged, with Lanczos.
    """

    a1111: str
    mode: str | None = None
    antialias: bool = False


UPSCALERS: dict[str, Upscaler] = {
    "latent": Upscaler("Latent", "bilinear"),
    "latent_antialiased": Upscaler("Latent (antialiased)", "bilinear", antialias=True),
    "latent_bicubic": Upscaler("Latent (bicubic)", "bicubic"),
    "latent_bicubic_antialiased": Upscaler("Latent (bicubic antialiased)", "bicubic", antialias=True),
    "latent_nearest": Upscaler("Latent (nearest)", "nearest"),
    "latent_nearest_exact": Upscaler("Latent (nearest-exact)", "nearest-exact"),
    "lanczos": Upscaler("Lanczos"),
}
"""The upscalers by name."""


def read_upscaler(name: Any) -> str:
    """Our name of an upscaler, without regard to case, spaces and marks: AUTOMATIC1111's names are ours so. Raises
    `ArgumentError`.
    """
    own = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") if isinstance(name, str) else ""
    if own not in UPSCALERS:
        raise ArgumentError(f"upscaler is {brief(name)}; it must be one of {', '.join(UPSCALERS)}")
    return own
