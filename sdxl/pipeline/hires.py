"""Hires fix as a value of a request: how the first image is enlarged, and how its second pass differs. Imports no
torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, brief, checked_number
from ..images.upscalers import is_network, read_upscaler
from ..sampling.names import read_sampler, read_schedule
from ..weights.path import expanded

_SCALE, _MOST_SCALE = 2.0, 16
_MOST_STEPS, _MOST_SIDE = 10**6, 10**6


@dataclass(frozen=True)
class Hires:
    """A first image is generated at the requested size, enlarged, and generated again from there, image to image.

    It grows `scale` times (2 unless a size is given), or to `size` (height, width) in pixels, or as text "WxH"; what
    another shape cuts off is cut off evenly on both sides. `upscaler` is one of `latent`, `latent_antialiased`,
    `latent_bicubic`, `latent_bicubic_antialiased`, `latent_nearest`, `latent_nearest_exact` and `lanczos` (of pixels,
    through the VAE), or AUTOMATIC1111's name of it. It may also be a network of ESRGAN's architecture for the pixels: a
    path, a name in `control_dir` or SDXL_MODELS_DIR, or owner/name/file on the hub. With an `upscaler_hash`, the sha256
    of that, another network is refused. The second pass takes int(steps * strength) of `steps` steps (None or 0: as
    many as the first pass has). Its prompts, sampler and schedule are those of the request unless they are given here.
    """

    scale: float | None = None
    size: tuple[int, int] | str | None = None
    upscaler: str = "latent"
    steps: int | None = None
    strength: float = 0.7
    prompt: str | None = None
    negative_prompt: str | None = None
    sampler: str | None = None
    schedule: str | None = None
    upscaler_hash: str | None = None

    def __post_init__(self) -> None:
        size = self._size()
        if size is not None and self.scale is not None:
            raise ArgumentError("hires has a scale and a size; give one of them")
        scale = checked_number("scale of hires", _SCALE if self.scale is None else self.scale, 1, _MOST_SCALE)
        strength = checked_number("strength of hires", self.strength, 0, 1)
        if not strength:
            raise ArgumentError("strength of hires is 0, which leaves the second pass no step. Try 0.5")
        steps = None if self.steps is None else checked_number("steps of hires", self.steps, 0, _MOST_STEPS)
        if steps is not None and steps != int(steps):
            raise ArgumentError(f"steps of hires is {brief(self.steps)}; expected a whole number")
        for name in ("prompt", "negative_prompt", "sampler", "schedule", "upscaler_hash"):
            if not isinstance(value := getattr(self, name), (str, type(None))):
                raise ArgumentError(f"{name} of hires is {brief(value)}; expected a text")
        upscaler = read_upscaler(self.upscaler)
        sampler, own = (None, None) if self.sampler is None else read_sampler(self.sampler)
        schedule = own if self.schedule is None else read_schedule(self.schedule, sampler)
        plain = {
            "scale": scale if size is None else None,
            "size": size,
            "upscaler": upscaler,
            "upscaler_hash": self.upscaler_hash if is_network(upscaler) else None,
            "steps": int(steps) if steps else None,
            "strength": strength,
            "sampler": sampler,
            "schedule": schedule,
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def _size(self) -> tuple[int, int] | None:
        value: Any = self.size
        if isinstance(value, str) and (found := re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", value.strip())):
            value = int(found[2]), int(found[1])
        if value is None:
            return None
        is_pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
        if not is_pair or not all(type(side) is int and 0 < side <= _MOST_SIDE for side in value):
            raise ArgumentError(
                f"size of hires is {brief(self.size)}; expected (height, width) in pixels, or a text such as 1536x1024"
            )
        return value[0], value[1]

    def enlarged(self, size: tuple[int, int], factor: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """What an image of (height, width) is enlarged to, and what is left of that after its borders are cut off; both
        are multiples of `factor`. As in AUTOMATIC1111, sides are rounded down.
        """
        height, width = size
        if self.size is None:
            assert self.scale is not None
            whole = int(height * self.scale), int(width * self.scale)
            left = whole
        else:
            assert not isinstance(self.size, str)
            left = self.size
            is_wider = width * left[0] < left[1] * height
            whole = (left[1] * height // width, left[1]) if is_wider else (left[0], left[0] * width // height)
        return _down(whole, factor), _down(left, factor)

    def at(self, root: Path) -> Hires:
        """The same with the path of its upscaler's network relative to a folder, where such a file is."""
        path = root / expanded(self.upscaler)
        is_beside = is_network(self.upscaler) and os.path.isfile(path)
        return replace(self, upscaler=str(path.absolute())) if is_beside else self

    def record(self) -> dict[str, Any]:
        """As JSON has it; equal for equal values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }


def _down(size: tuple[int, int], factor: int) -> tuple[int, int]:
    height, width = (max(side // factor, 1) * factor for side in size)
    return height, width


def read_hires(value: Any) -> Hires:
    """From an object of JSON, or itself. Raises `ArgumentError`."""
    if isinstance(value, Hires):
        return value
    if not isinstance(value, Mapping):
        raise ArgumentError(
            f"hires is {brief(value)}; expected sdxl.Hires(scale=2) or an object such as {{'scale': 2}}"
        )
    known = [each.name for each in fields(Hires)]
    if unknown := [name for name in value if name not in known]:
        raise ArgumentError(f"hires has no {brief(unknown[0])}; its values are {', '.join(known)}")
    return Hires(**value)
