"""Where the denoising loop begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..images.canvas import Canvas
from ..sampling.inpaint import BlendRegion, InpaintRegion, Region
from .latents import Latents
from .masks import latent_masks, shown_masks, with_hole
from .noise import known_noise
from .plan import Plan
from .variation import BatchNoise


@dataclass(frozen=True)
class Start:
    """Where the denoising loop begins: the first x, the part of the image that is kept, and the channels that an
    inpainting model sees beside x.
    """

    x: Tensor
    region: Region | None = None
    channels: Tensor | None = None

    def result(self, x: Tensor, plan: Plan) -> Tensor:
        """The last x as clean latents."""
        latents = x * plan.schedule.end_scale
        return latents if self.region is None else self.region.result(latents, plan.sigmas[-1])


def make_start(plan: Plan, latents: Latents, noise: BatchNoise) -> Start:
    """The first x. Each image's generator draws, as in diffusers: the posterior of the source image, the start noise,
    the posterior of the masked image, and after that the noise of the steps.
    """
    request, rules = plan.request, plan.request.conventions
    is_inpainting = latents.model.info.config.kind == "inpainting"
    needs_image = request.image is not None and not (is_inpainting and plan.from_noise)
    z = _source(plan, latents, noise) if needs_image else None
    if not plan.steps:
        assert z is not None
        return Start(z)
    given = plan.sources.start_noise
    first = noise.first() if given is None else given.to(noise.device, torch.float32)
    scale = plan.schedule.start_scale if rules.start_scale == "highest" else plan.sigmas[0]
    x = first * plan.schedule.start_scale if z is None else _noised(plan, z, first, scale)
    if not request.repaints:
        return Start(x)
    factor = latents.model.info.config.vae.factor
    mask, channels = latent_masks(plan, factor, noise.device), None
    if is_inpainting:
        masked = _encode(plan, latents, noise, lambda canvas: with_hole(plan, canvas))
        channels = torch.cat([shown_masks(plan, mask, factor), masked], dim=1)
        if len(latents.model.experts) == 1 and not rules.known_9:
            return Start(x, channels=channels)
    elif plan.canvases and rules.posterior != "mean":
        noise.draw(plan.source_count)  # drawn for a 4-channel model too, which does not use it
    z = _source(plan, latents, noise) if z is None else z  # not for the 9 channels, but for the refiner's 4
    if rules.known != "both":
        own = known_noise(plan, noise.own, first)
        return Start(x, BlendRegion(z, own, mask, rules.known == "always", _threshold(plan)), channels)
    region = InpaintRegion(z, first, mask, plan.sigmas, plan.from_noise)
    return Start(x if is_inpainting else region.start(plan.schedule.start_scale), region, channels)


def _noised(plan: Plan, z: Tensor, first: Tensor, scale: float) -> Tensor:
    """An image's latents with noise of a `scale`; AUTOMATIC1111's ddim takes the next higher level's, and calls it the
    one that its steps begin at.
    """
    if plan.request.conventions.samplers != "a1111" or plan.request.sampler != "ddim" or not plan.first:
        return z + first * scale
    above = plan.schedule.sigmas[plan.first - 1]
    return (z + first * above) * math.sqrt((1 + scale**2) / (1 + above**2))


def _source(plan: Plan, latents: Latents, noise: BatchNoise) -> Tensor:
    """The latents of each image's source."""
    given = plan.sources.image_latents
    if given is not None:
        return given.to(noise.device, torch.float32).repeat_interleave(len(plan.seeds) // len(given), dim=0)
    is_inpainting = latents.model.info.config.kind == "inpainting"
    if plan.request.repaints and plan.request.conventions.hole == "grey" and not is_inpainting:
        return _encode(plan, latents, noise, lambda canvas: with_hole(plan, canvas))
    return _encode(plan, latents, noise, lambda canvas: canvas.pixels)


def _encode(plan: Plan, latents: Latents, noise: BatchNoise, view: Callable[[Canvas], Tensor]) -> Tensor:
    """The latents of a view of each canvas: samples of their posteriors, or the means."""
    views = {id(canvas): view(canvas) for canvas in plan.canvases}
    is_mean = plan.request.conventions.posterior == "mean"
    drawn = None if is_mean else noise.draw(plan.source_count)
    return latents.encode([views[id(canvas)] for canvas in plan.canvases], drawn)


def _threshold(plan: Plan) -> Callable[[float], float] | None:
    """From which grey on a mask is repainted at a sigma; None: greys are blended."""
    if plan.request.conventions.grey != "timesteps":
        return None
    table = plan.schedule.table
    begin = table.network_timestep(plan.sigmas[0])
    end = table.network_timestep(max(plan.sigmas[-1], float(table.sigmas[0])))
    return lambda sigma: (table.network_timestep(sigma) - end) / max(begin - end, 1e-9)
