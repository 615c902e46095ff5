"""The losses of SDXL's training, and their random timesteps and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArgumentError
from ..models.clip import TextEncoder
from ..models.layers import sinusoidal
from ..models.unet import UNet
from ..models.vae import VAE

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From scaled noisy latents, timesteps, context and vector to the prediction: a UNet, alone or with what steers it."""


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
    positions = (
        torch.arange(count, dtype=torch.float32) + torch.rand(count, generator=generator, dtype=torch.float32)
    ) / count
    return (low + positions * (high - low)).long().clamp(max=high - 1)


def offset_noise(noise: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Noise (B, C, H, W) plus a random constant for each channel, which teaches the model brightness (SDXL paper,
    section 2.5: 0.05).
    """
    return (
        noise
        + strength * torch.randn(noise.shape[:2], generator=generator, dtype=torch.float32).to(noise)[:, :, None, None]
    )


def denoising_loss(
    unet: Predict,
    z: Tensor,
    noise: Tensor,
    t: Tensor,
    sigma: Tensor,
    context: Tensor,
    vector: Tensor,
    gamma: float | None = 5.0,
    prediction: str = "epsilon",
) -> Tensor:
    """The squared error of what a model predicts, weighted with min-SNR-gamma (Hang et al. 2023, arXiv 2303.09556), or
    not, if `gamma` is None.

    z and noise (B, C, H, W); t (B,) timesteps and sigma (B,) their noise levels; context (B, L, D) and vector (B, V),
    or one row for all. `prediction` is that of the model's schedule, `pipe.info.schedule.prediction`: epsilon,
    v_prediction or sample. The noised latents, the error and its mean are float32, also for latents in half precision.
    Raises `ArgumentError` for another prediction.
    """
    exact = torch.promote_types(z.dtype, torch.float32)
    sigma = sigma.to(z.device, exact)[:, None, None, None]
    x = (z + sigma * noise) / (sigma.square() + 1).sqrt()
    target, weight = _target(prediction, z, noise, sigma, gamma)
    output = unet(x.to(z.dtype), t, context.expand(len(z), *context.shape[1:]), vector).to(exact)
    return (weight * F.mse_loss(output, target.to(exact), reduction="none")).mean()


def _target(
    prediction: str, z: Tensor, noise: Tensor, sigma: Tensor, gamma: float | None
) -> tuple[Tensor, Tensor | float]:
    """What a model has to predict, and the weight of its error: min(SNR, gamma) in terms of the clean latents."""
    snr = 1 / sigma.square()
    if prediction == "epsilon":
        target, scale = noise, snr
    elif prediction == "v_prediction":  # Salimans & Ho 2022, arXiv 2202.00512, appendix D
        target, scale = (noise - sigma * z) / (sigma.square() + 1).sqrt(), snr + 1
    elif prediction == "sample":
        target, scale = z, torch.ones_like(snr)
    else:
        raise ArgumentError(f"prediction is {prediction!r}; expected epsilon, v_prediction or sample")
    return target, 1.0 if gamma is None else snr.clamp(max=gamma) / scale


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
    gamma: float | None = 5.0,
    prediction: str = "epsilon",
) -> Tensor:
    """The `denoising_loss` of images with captions, also for the text encoders; the rest as in `encode_captions`."""
    context, vector = encode_captions(encoders, ids, sizes, kept, unet.config.size_dim)
    return denoising_loss(unet, z, noise, t, sigma, context, vector, gamma, prediction)


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
