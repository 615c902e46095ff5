"""The losses of SDXL's training, and their random timesteps and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.clip import TextEncoder
from ..models.layers import sinusoidal
from ..models.unet import UNet
from ..models.vae import VAE

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From scaled noisy latents, timesteps, context and vector to the noise: a UNet, alone or with what steers it."""


def autoencoder_loss(vae: VAE, x: Tensor, noise: Tensor, l1_weight: float, kl_weight: float) -> Tensor:
    """Squared and absolute error of the reconstruction and the KL divergence from the standard normal.

    x (B, 3, H, W) in -1..1, noise (B, 4, H/8, W/8). All three terms are means. (SDXL's own VAE adds a perceptual and an
    adversarial loss, which drawn images do not need.)
    """
    mean, logvar = vae.moments(x)
    z = mean + torch.exp(logvar / 2) * noise
    error = vae.decode(vae.scale(z)) - x
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return error.square().mean() + l1_weight * error.abs().mean() + kl_weight * divergence


def stratified_timesteps(count: int, low: int, high: int, generator: torch.Generator) -> Tensor:
    """`count` whole timesteps of [low, high), one from each of `count` equal parts: uniform, with less variance."""
    positions = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (low + positions * (high - low)).long().clamp(max=high - 1)


def offset_noise(noise: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Noise (B, C, H, W) plus a random constant for each channel, which teaches the model brightness (SDXL paper,
    section 2.5: 0.05).
    """
    return noise + strength * torch.randn(noise.shape[:2], generator=generator).to(noise)[:, :, None, None]


def denoising_loss(
    unet: Predict,
    z: Tensor,
    noise: Tensor,
    t: Tensor,
    sigma: Tensor,
    context: Tensor,
    vector: Tensor,
    gamma: float = 5.0,
) -> Tensor:
    """The loss of epsilon prediction, weighted with min-SNR-gamma (Hang et al. 2023, arXiv 2303.09556).

    z and noise (B, C, H, W); t (B,) timesteps and sigma (B,) their noise levels; context (B, L, D); vector (B, V).
    """
    sigma = sigma.to(z)[:, None, None, None]
    x = (z + sigma * noise) / (sigma.square() + 1).sqrt()
    error = F.mse_loss(unet(x, t, context, vector), noise, reduction="none")
    snr = 1 / sigma.square()
    return (snr.clamp(max=gamma) / snr * error).mean()


def captioned_loss(
    unet: UNet,
    encoders: Sequence[TextEncoder],
    z: Tensor,
    noise: Tensor,
    t: Tensor,
    sigma: Tensor,
    ids: Sequence[Tensor],
    sizes: Tensor,
    kept: Tensor,
) -> Tensor:
    """The `denoising_loss` of images with captions, also for the text encoders; the rest as in `encode_captions`."""
    context, vector = encode_captions(encoders, ids, sizes, kept, unet.config.size_dim)
    return denoising_loss(unet, z, noise, t, sigma, context, vector)


def encode_captions(
    encoders: Sequence[TextEncoder], ids: Sequence[Tensor], sizes: Tensor, kept: Tensor, size_dim: int
) -> tuple[Tensor, Tensor]:
    """Context (B, L, D) and vector (B, V) of captions.

    `ids` are those of each encoder (B, 77), `sizes` the numbers of the micro-conditioning (B, 6), each embedded in
    `size_dim`. `kept` (B,) is 0 where a caption is dropped, for guidance: its encoding is zeros.
    """
    encoded = [encoder(each) for encoder, each in zip(encoders, ids, strict=True)]
    context = torch.cat([states for states, _ in encoded], dim=-1) * kept[:, None, None]
    pooled = encoded[-1][1]
    assert pooled is not None
    return context, torch.cat([pooled * kept[:, None], size_embedding(sizes, size_dim)], dim=1)


def size_embedding(sizes: Tensor, dim: int) -> Tensor:
    """The micro-conditioning of B images, (B, N) numbers to (B, N * dim)."""
    return sinusoidal(sizes.flatten(), dim).reshape(len(sizes), -1)
