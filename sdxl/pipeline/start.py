"""Where the denoising loop begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..images.pixels import to_tensor
from ..sampling.inpaint import InpaintRegion
from .latents import Latents
from .plan import Plan
from .request import spread
from .variation import BatchNoise, first_noise


@dataclass(frozen=True)
class Start:
    """Where the denoising loop begins: the first x, the part of the image that is kept, and the channels that an
    inpainting model sees beside x.
    """

    x: Tensor
    region: InpaintRegion | None = None
    channels: Tensor | None = None

    def result(self, x: Tensor, plan: Plan) -> Tensor:
        """The last x as clean latents."""
        latents = x * plan.schedule.end_scale
        return latents if self.region is None else self.region.output(latents, plan.sigmas[-1])


def make_start(plan: Plan, latents: Latents, noise: BatchNoise) -> Start:
    """The first x. Each image's generator draws, as in diffusers: the posterior of the source image, the start noise,
    the posterior of the masked image, and after that the noise of the steps.
    """
    request, is_inpainting = plan.request, latents.model.info.config.kind == "inpainting"
    needs_image = request.image is not None and not (is_inpainting and plan.from_noise)
    z = _source(plan, latents, noise) if needs_image else None
    if not plan.steps:
        assert z is not None
        return Start(z)
    given = plan.sources.start_noise
    first = first_noise(noise) if given is None else given.to(noise.device, torch.float32)
    x = first * plan.schedule.start_scale if z is None else z + first * plan.sigmas[0]
    if not request.repaints:
        return Start(x)
    mask, channels = _mask(plan, latents, noise.device), None
    if is_inpainting:
        masked = latents.encode([canvas.masked_image for canvas in plan.canvases], noise.draw(plan.source_count))
        channels = torch.cat([(mask >= 0.5).float(), masked], dim=1)
        if len(latents.model.experts) == 1:
            return Start(x, channels=channels)
    elif plan.canvases:
        noise.draw(plan.source_count)  # drawn for a 4-channel model too, which does not use it
    z = _source(plan, latents, noise) if z is None else z  # not for the 9 channels, but for the refiner's 4
    region = InpaintRegion(z, first, mask, plan.sigmas, plan.from_noise)
    return Start(x if is_inpainting else region.start(plan.schedule.start_scale), region, channels)


def _source(plan: Plan, latents: Latents, noise: BatchNoise) -> Tensor:
    """The latents of each image's source."""
    given = plan.sources.image_latents
    if given is None:
        return latents.encode([canvas.pixels for canvas in plan.canvases], noise.draw(plan.source_count))
    return given.to(noise.device, torch.float32).repeat_interleave(len(plan.seeds) // len(given), dim=0)


def _mask(plan: Plan, latents: Latents, device: torch.device) -> Tensor:
    """The masks (B, 1, h, w) of all images, of every latent that of its pixel in the upper left corner."""
    factor = latents.model.info.config.vae.factor
    if plan.canvases:
        masks = [canvas.work_mask for canvas in plan.canvases]
    else:
        masks = [to_tensor(mask) for mask in spread(plan.sources.masks or (), len(plan.seeds))]
    return torch.stack(masks)[:, :, ::factor, ::factor].to(device)
