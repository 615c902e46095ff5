"""How an image is enlarged between the passes of hires fix: its latents, its pixels, or its pixels by a network.
Imports no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
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


_NETWORKS = {
    "R-ESRGAN 4x+": "RealESRGAN_x4plus",
    "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B",
    "R-ESRGAN 2x+": "RealESRGAN_x2plus",
}
"""AUTOMATIC1111's names of published networks, and the names of their files."""


def read_upscaler(name: Any) -> str:
    """Our name of an upscaler, without regard to case, spaces and marks: AUTOMATIC1111's names are ours so. Any other
    text is the name or the path of a network's file. Raises `ArgumentError`.
    """
    if not isinstance(name, (str, Path)) or not str(name).strip():
        raise ArgumentError(f"upscaler is {brief(name)}; expected {', '.join(UPSCALERS)}, or the file of a network")
    own = re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")
    return own if own in UPSCALERS else _NETWORKS.get(str(name), str(name))


def is_network(upscaler: str) -> bool:
    """Whether an upscaler is a network in a file."""
    return upscaler not in UPSCALERS


def works_on_pixels(upscaler: str) -> bool:
    """Whether the image is decoded before it is enlarged, and encoded again."""
    return is_network(upscaler) or UPSCALERS[upscaler].mode is None


def a1111_name(upscaler: str) -> str:
    """AUTOMATIC1111's name of an upscaler: of a network, that of its file without the ending."""
    if not is_network(upscaler):
        return UPSCALERS[upscaler].a1111
    stem = re.split(r"[\\/]", upscaler)[-1].removesuffix(".safetensors")
    return {file: name for name, file in _NETWORKS.items()}.get(stem, stem)
