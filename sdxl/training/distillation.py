"""Distillation: a student learns to go in one step, or in two, where a teacher with guidance goes in many."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.unet import UNet


def guess(unet: UNet, x: Tensor, t: Tensor, sigma: Tensor, context: Tensor, vector: Tensor) -> Tensor:
    """The clean latents that a UNet of epsilon prediction sees in x = z + sigma * noise (B, C, H, W); t and sigma
    (B,).
    """
    sigma = sigma.to(x)[:, None, None, None]
    return x - sigma * unet(x / (sigma.square() + 1).sqrt(), t, context, vector)


def distillation_loss(
    unet: UNet, noise: Tensor, z: Tensor, table: Tensor, middle: Tensor, fresh: Tensor, context: Tensor, vector: Tensor
) -> Tensor:
    """The distance of a student's guesses from the latents z that the teacher makes of `noise`, both (B, C, H, W). The
    student predicts epsilon.

    The first guess begins at the last of the sigmas of all timesteps, `table` (T,). The second begins at the timesteps
    `middle` (B,): where an Euler step leads with the first guess, or where `fresh` is not zero, at z with that noise
    (B, C, H, W) on it. Thus the student also serves samplers that add noise at every step.
    """
    last = torch.full_like(middle, len(table) - 1)
    start = float(table[-1])
    x = noise * start
    first = guess(unet, x, last, table[last], context, vector)
    sigma = table[middle].to(x)[:, None, None, None]
    reached = first.detach() + (x - first.detach()) * (sigma / start)
    is_fresh = fresh.flatten(1).any(dim=1)[:, None, None, None]
    second = guess(unet, torch.where(is_fresh, z + sigma * fresh, reached), middle, table[middle], context, vector)
    return pseudo_huber(first - z) + pseudo_huber(second - z)


def pseudo_huber(error: Tensor, width: float = 0.1) -> Tensor:
    """The mean of a distance that is squared for small errors and absolute for large ones: edges stay sharp."""
    return ((error.square() + width**2).sqrt() - width).mean()
