"""The guidance of a request, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from ..errors import ArgumentError, brief
from ..models.config import ModelConfig
from ..sampling.guidance import Guidance, Scales
from ..sampling.guiders import PAG, NamedGuider
from .request import Request


def step_scales(request: Request, steps: int, whole: int) -> tuple[float, ...]:
    """The guidance scale of each of the `whole` steps of the schedule, of which a list says the last `steps`."""
    scale = request.guidance_scale
    if not isinstance(scale, Sequence):
        return (scale or 0.0,) * whole
    if len(scale) != steps:
        raise ArgumentError(
            f"guidance_scale has {len(scale)} numbers for {steps} steps; expected one number, or one for each step"
        )
    return (scale[0],) * (whole - steps) + tuple(scale)


def most_guidance(request: Request) -> float:
    scale = request.guidance_scale
    return max(scale) if isinstance(scale, Sequence) else scale or 0.0


def make_guidance(
    request: Request, scales: tuple[float, ...], sigmas: tuple[float, ...], is_embedded: bool
) -> Guidance:
    """The guidance of the steps that run, whose scales and sigmas these are; of a UNet that takes the scale as an input
    there is none outside of it.
    """
    scale: float | Scales = request.guidance_scale if isinstance(request.guidance_scale, float | int) else 1.0
    if isinstance(request.guidance_scale, Sequence) and scales:
        scale = Scales(scales, sigmas[:-1])
    return Guidance(
        1.0 if is_embedded else scale,
        request.guidance_rescale or 0.0,
        request.guidance_interval or (0.0, math.inf),
        cast("NamedGuider | None", request.guider),
        off_below_1=request.conventions.guidance_off == "at_most_1",
        rescales_v=request.conventions.rescale == "v",
    )


def check_guider(request: Request, configs: Sequence[ModelConfig]) -> None:
    """PAG's layers must be parts of the UNets."""
    if not isinstance(request.guider, PAG):
        return
    for config in configs:
        names = config.unet.block_names()
        for layer in request.guider.layers:
            if not any(PAG(layers=(layer,)).takes(name) for name in names):
                parts = sorted({name.split(".attn")[0] for name in names})
                raise ArgumentError(
                    f"layers of pag has {brief(layer)}, and the UNet of the {config.kind} model has no self-attention "
                    f"there; expected parts of {', '.join(parts)}"
                )
