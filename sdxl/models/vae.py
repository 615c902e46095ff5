"""The autoencoder (SDXL paper, section 2.4): images (B, 3, H, W) in -1..1 to latents (B, 4, H/8, W/8) and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import UnsupportedError
from .config import AnyVAEConfig, VAEConfig
from .layers import Attention, Conv2d, ResBlock, Upsample, unshared

EPS = 1e-6  # of every group norm of the VAE


class MidAttention(Attention):
    """Self-attention with one head over all pixels, behind a group norm and added."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, channels, heads=1, bias=True)
        self.norm = nn.GroupNorm(groups, channels, EPS)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        h = super().forward(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        return x + rearrange(h, "b (h w) c -> b c h w", h=x.shape[2])


class Mid(nn.Module):
    """The middle of encoder and decoder."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResBlock(channels, channels, groups, EPS) for _ in range(2))
        self.attn = MidAttention(channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.res[1](self.attn(self.res[0](x)))


class Downsample(nn.Module):
    """Half the height and width; padding is on the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """The residual blocks of one resolution, and the step to the next one, to be called in turn.

    A level has no `forward` that calls them: its caller would hold a map that is not needed any more.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: int, groups: int) -> None:
        super().__init__()
        inputs = [in_channels] + [out_channels] * (blocks - 1)
        self.res = nn.ModuleList(ResBlock(width, out_channels, groups, EPS) for width in inputs)
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def __iter__(self) -> Iterator[nn.Module]:
        yield from self.res
        yield from (step for step in (self.downsample, self.upsample) if step is not None)


class Encoder(nn.Module):
    """Images to the moments of their latents, (B, 2 * latent_channels, H/8, W/8)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels, groups = config.channels, config.norm_groups
        inputs = (channels[0], *channels[:-1])
        self.conv_in = Conv2d(config.image_channels, channels[0], 3, padding=1)
        levels = [Level(i, o, config.blocks, groups) for i, o in zip(inputs, channels, strict=True)]
        for level, width in zip(levels[:-1], channels[:-1], strict=True):
            level.downsample = Downsample(width)
        self.down = nn.ModuleList(levels)
        self.mid = Mid(channels[-1], groups)
        self.norm_out = nn.GroupNorm(groups, channels[-1], EPS)
        self.conv_out = Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for layer in chain(*self.down):
            x = layer(x)
        return self.head(self.mid(x))

    def head(self, x: Tensor) -> Tensor:
        """From the last feature map to the moments."""
        return self.conv_out(F.silu(unshared(self.norm_out(x), self.norm_out), inplace=True))


class Decoder(nn.Module):
    """Latents to images; it has one residual block per level more than the encoder."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels, groups = config.channels[::-1], config.norm_groups
        inputs = (channels[0], *channels[:-1])
        self.conv_in = Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid = Mid(channels[0], groups)
        levels = [Level(i, o, config.blocks + 1, groups) for i, o in zip(inputs, channels, strict=True)]
        for level, width in zip(levels[:-1], channels[:-1], strict=True):
            level.upsample = Upsample(width)
        self.up = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(groups, channels[-1], EPS)
        self.conv_out = Conv2d(channels[-1], config.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for layer in chain(*self.up):
            x = layer(x)
        return self.head(x)

    def head(self, x: Tensor) -> Tensor:
        """From the last feature map to the image."""
        return self.conv_out(F.silu(unshared(self.norm_out(x), self.norm_out), inplace=True))


_OF_DIFFUSERS = ("enable_tiling", "disable_tiling", "enable_slicing", "disable_slicing")


class VAE(nn.Module):
    """The whole autoencoder, between images and *scaled* latents, those that the UNet works on."""

    def __getattr__(self, name: str) -> Any:
        if name in _OF_DIFFUSERS:
            raise UnsupportedError(
                f"the VAE has no {name}; a pipeline decodes images one at a time, and in strips by itself where memory "
                "is short"
            )
        return super().__getattr__(name)

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) in -1..1 to scaled latents (B, 4, H/8, W/8): a sample of the posterior with standard
        normal `noise` of that shape, its mean without.
        """
        return self.sample(self.encoder(x), noise)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior of images (B, 3, H, W), both (B, 4, H/8, W/8), not scaled."""
        return self.posterior(self.encoder(x))

    def posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance from the encoder's output."""
        mean, logvar = self.quant_conv(h).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def sample(self, h: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents from the encoder's output, as `encode` gives them."""
        mean, logvar = self.posterior(h)
        if noise is not None:
            mean = mean + torch.exp(logvar / 2) * noise
        return self.scale(mean)

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents (B, 4, h, w) to images (B, 3, 8h, 8w), about -1..1, not clamped."""
        return self.decoder(self.post_quant_conv(self.unscale(z)))

    def scale(self, z: Tensor) -> Tensor:
        """Latents of the VAE (B, 4, h, w) as those of the UNet."""
        return scaled(self.config, z)

    def unscale(self, z: Tensor) -> Tensor:
        """The inverse of `scale`."""
        return unscaled(self.config, z)


def scaled(config: AnyVAEConfig, z: Tensor) -> Tensor:
    """Latents of a VAE (B, 4, h, w) as those of the UNet."""
    if config.latents_mean is not None:
        z = z - _per_channel(config.latents_mean, z)
    if config.latents_std is not None:
        z = z / _per_channel(config.latents_std, z)
    return z * config.scaling_factor


def unscaled(config: AnyVAEConfig, z: Tensor) -> Tensor:
    """The inverse of `scaled`."""
    z = z / config.scaling_factor
    if config.latents_std is not None:
        z = z * _per_channel(config.latents_std, z)
    return z if config.latents_mean is None else z + _per_channel(config.latents_mean, z)


def _per_channel(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None, None]
