"""The masks of a plan at the size of its latents, and the images with the hole in them, by the conventions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images.canvas import Canvas
from ..images.pixels import to_tensor
from .plan import Plan
from .request import spread


def latent_masks(plan: Plan, factor: int, device: torch.device) -> Tensor:
    """The masks (B, 1, h, w) of all images: 0 is kept, 1 repainted. The conventions say what lies between."""
    return torch.stack([_reduced(plan, i, factor) for i in range(len(plan.seeds))]).to(device)


def shown_masks(plan: Plan, masks: Tensor, factor: int) -> Tensor:
    """The masks (B, 1, h, w) that an inpainting model sees, from those of `latent_masks`."""
    if plan.request.conventions.mask_size != "bicubic":
        return masks.round() if plan.request.conventions.mask_size == "bilinear" else (masks >= 0.5).float()
    corners = [_whole(plan, i)[:, ::factor, ::factor].round() for i in range(len(plan.seeds))]
    return torch.stack(corners).to(masks)


def with_hole(plan: Plan, canvas: Canvas) -> Tensor:
    """The window of a canvas with grey where its mask repaints, (3, H, W)."""
    if plan.request.conventions.grey == "steps":
        return canvas.masked_image
    return canvas.pixels.masked_fill(_pixels(canvas) >= 0.5, 0.5)


def _whole(plan: Plan, number: int) -> Tensor:
    """The mask (1, H, W) of an image in pixels."""
    if plan.canvases:
        canvas = plan.canvases[number]
        return canvas.work_mask if plan.request.conventions.grey == "steps" else _pixels(canvas)
    return to_tensor(spread(plan.sources.masks or (), len(plan.seeds))[number])


def _pixels(canvas: Canvas) -> Tensor:
    """The mask of a window, its greys as they are."""
    assert canvas.mask is not None
    return to_tensor(canvas.view(canvas.mask))


def _reduced(plan: Plan, number: int, factor: int) -> Tensor:
    rules, mask = plan.request.conventions, _whole(plan, number)
    if rules.grow_mask:
        mask = _grown(mask.round(), rules.grow_mask)
    if rules.mask_size == "corner":
        mask = (mask if rules.grey != "binary" else (mask >= 0.5).float())[:, ::factor, ::factor]
    else:
        height, width = mask.shape[1] // factor, mask.shape[2] // factor
        if rules.mask_size == "bilinear":
            mask = F.interpolate(mask[None], (height, width), mode="bilinear")[0]
        else:
            image = Image.fromarray((mask[0] * 255).round().byte().numpy()).convert("RGB")
            mask = to_tensor(image.resize((width, height), Image.Resampling.BICUBIC))[:1]
    return mask.round() if rules.grey == "binary" else mask


def _grown(mask: Tensor, size: int) -> Tensor:
    """A black and white mask (1, H, W) grown by a box of that size."""
    before = size // 2
    padded = F.pad(mask, (before, size - 1 - before) * 2)
    return F.max_pool2d(padded[None], size, stride=1)[0]
