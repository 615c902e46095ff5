"""The keyword arguments of a call as type checkers and editors see them. Nothing imports it when a program runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from ..adapters.control import Control
from ..adapters.lora import LoRA
from ..adapters.reference import Reference
from ..images.image import Picture
from ..sampling.guiders import NamedGuider
from ..sampling.settings import Value
from .hires import Hires
from .profiles import Compat
from .request import Borders, Size


class RequestArguments(TypedDict, total=False):
    """The fields of `Request` beside the prompt, with their types."""

    negative_prompt: str | Sequence[str] | None
    prompt_2: str | Sequence[str] | None
    negative_prompt_2: str | Sequence[str] | None
    prompt_syntax: str
    emphasis: str | None
    long_prompt: str
    width: int | None
    height: int | None
    loras: Sequence[LoRA | str | Path | tuple[str | Path, float] | Mapping[str, Any]] | None
    control: Sequence[Control | Mapping[str, Any]] | Control | None
    reference: Sequence[Reference | Mapping[str, Any]] | Reference | None
    preset: str | None
    compat: Compat
    steps: int | None
    guidance_scale: float | Sequence[float] | None
    guidance_rescale: float | None
    guider: NamedGuider | str | Mapping[str, Any] | None
    guidance_interval: tuple[float, float] | None
    sampler: str | None
    schedule: str | None
    eta: float | None
    sampler_options: Mapping[str, Value] | None
    sigmas: Sequence[float] | None
    timesteps: Sequence[float] | None
    seed: int | Sequence[int] | None
    variation_seed: int | Sequence[int] | None
    variation_strength: float | None
    num_images: int
    clip_skip: int | None
    original_size: Size | None
    crop_top_left: Size | None
    target_size: Size | None
    negative_original_size: Size | None
    negative_crop_top_left: Size | None
    negative_target_size: Size | None
    latents: Tensor | str | Path | None
    image: Picture | Sequence[Picture] | Tensor | None
    mask: Picture | Sequence[Picture] | Tensor | None
    strength: float | None
    mask_padding: int | None
    feather: int | None
    outpaint: Borders | None
    hires: Hires | Mapping[str, Any] | None
    refine_at: float | None
    aesthetic_score: float
    negative_aesthetic_score: float


class NoArguments(TypedDict):
    """No further ones: diffusers' names, which are taken with a warning, are errors for a type checker."""
