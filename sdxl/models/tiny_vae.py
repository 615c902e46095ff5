"""A tiny autoencoder in the layout of TAESD (github.com/madebyollin/taesd), which stands for a VAE of many times its
size: latents (B, 4, H/8, W/8), as the UNet sees them, to images (B, 3, H, W) in -1..1, about, and back.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AnyVAEConfig, VAEConfig
from .layers import Conv2d, unshared
from .tiny_vae_config import TinyVAEConfig
from .vae import VAE, scaled, unscaled


class TinyBlock(nn.Module):
    """Three convolutions around a sum, with ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        # in place: new maps cost a CPU as much as some layers
        h = F.relu(unshared(self.conv1(x), self.conv1), inplace=True)
        h = F.relu(unshared(self.conv2(h), self.conv2), inplace=True)
        return F.relu(unshared(self.conv3(h), self.conv3).add_(x), inplace=True)


class EncoderLevel(nn.Module):
    """The convolution to a resolution, and its blocks."""

    def __init__(self, width: int, blocks: int, conv: Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.blocks = nn.Sequential(*(TinyBlock(width) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.conv(x))


class DecoderLevel(nn.Module):
    """The blocks of a resolution, and the convolution to the next one, of twice the height and width, or to the
    image.
    """

    def __init__(self, width: int, blocks: int, conv: Conv2d, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.blocks = nn.Sequential(*(TinyBlock(width) for _ in range(blocks)))
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.conv(x if self.scale == 1 else F.interpolate(x, scale_factor=self.scale, mode="nearest"))


class TinyEncoder(nn.Module):
    """Images in -1..1 to latents."""

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        width, (first, *blocks) = config.width, config.encoder_blocks or ()
        convs = [Conv2d(width, width, 3, stride=2, padding=1, bias=False) for _ in blocks]
        levels = [EncoderLevel(width, n, conv) for n, conv in zip(blocks, convs, strict=True)]
        conv_in = Conv2d(config.image_channels, width, 3, padding=1)
        self.levels = nn.Sequential(EncoderLevel(width, first, conv_in), *levels)
        self.conv_out = Conv2d(width, config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.levels(x / 2 + 0.5))


class TinyDecoder(nn.Module):
    """Latents to images in -1..1."""

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        width, (*blocks, last) = config.width, config.decoder_blocks
        self.conv_in = Conv2d(config.latent_channels, width, 3, padding=1)
        convs = [Conv2d(width, width, 3, padding=1, bias=False) for _ in blocks]
        levels = [DecoderLevel(width, n, conv, scale=2.0) for n, conv in zip(blocks, convs, strict=True)]
        conv_out = Conv2d(width, config.image_channels, 3, padding=1)
        self.levels = nn.Sequential(*levels, DecoderLevel(width, last, conv_out, scale=1.0))

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(torch.tanh(z / 3) * 3)  # latents beyond 3 are bent to it
        return self.levels(F.relu(unshared(x, self.conv_in), inplace=True)) * 2 - 1


class TinyVAE(nn.Module):
    """The whole, between images and *scaled* latents, those that the UNet works on."""

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TinyEncoder(config) if config.has_encoder else None
        self.decoder = TinyDecoder(config)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) in -1..1 to scaled latents (B, 4, H/8, W/8). They have no variance, so `noise` changes
        nothing.
        """
        assert self.encoder is not None
        return scaled(self.config, self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents (B, 4, h, w) to images (B, 3, 8h, 8w), about -1..1, not clamped."""
        return self.decoder(unscaled(self.config, z))


AnyVAE = VAE | TinyVAE


def make_vae(config: AnyVAEConfig) -> AnyVAE:
    """The network of a config."""
    return VAE(config) if isinstance(config, VAEConfig) else TinyVAE(config)
