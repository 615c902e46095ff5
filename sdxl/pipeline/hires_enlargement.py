"""Between the passes of hires fix: the first result is enlarged, as latents or as pixels."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from ..images.image import resize
from ..images.pixels import to_pil, to_tensor
from ..images.upscalers import UPSCALERS
from .hires import read_hires
from .latents import Latents
from .plan import Plan
from .variation import BatchNoise


def with_enlarged(plan: Plan, first: Plan, z: Tensor, latents: Latents, noise: BatchNoise) -> Plan:
    """The plan of a second pass that starts from the result z (B, 4, h, w) of the first. For the pixels' upscaler each
    image's generator draws the posterior of the enlarged image.
    """
    hires, factor = read_hires(first.request.hires), latents.model.info.config.vae.factor
    whole, size = hires.enlarged(first.size, factor)
    upscaler = UPSCALERS[hires.upscaler]
    top, left = ((side - own) // factor // 2 for side, own in zip(whole, size, strict=True))
    if upscaler.mode is None:
        box = left * factor, top * factor, left * factor + size[1], top * factor + size[0]
        images = [to_tensor(resize(image, whole).crop(box)) for image in to_pil(latents.decode(z))]
        is_mean = plan.request.conventions.posterior == "mean"
        z = latents.encode(images, None if is_mean else noise.draw())
    else:
        height, width = (side // factor for side in whole)
        where = "cpu" if z.device.type == "mps" else z.device  # Apple's GPU has not all modes in all versions
        z = F.interpolate(z.to(where), (height, width), mode=upscaler.mode, antialias=upscaler.antialias).to(z.device)
        z = z[..., top : top + size[0] // factor, left : left + size[1] // factor]
    return replace(plan, sources=replace(plan.sources, image_latents=z))
