"""What a tiny VAE is, as data. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigError
from .bounds import MOST_BLOCKS, MOST_LEVELS, MOST_WIDTH, bound


@dataclass(frozen=True)
class TinyVAEConfig:
    """A tiny autoencoder in the layout of TAESD (diffusers' `AutoencoderTiny`). One level fewer than `decoder_blocks`
    has numbers halves the image; each number is that of a level's residual blocks, and all are `width` wide. Without
    `encoder_blocks` it is a decoder alone.

    It works on the latents of the UNet, so the scale of these is 1 as a rule. `latent_rgb`, `latents_mean` and
    `latents_std` are as in `VAEConfig`.
    """

    image_channels: ClassVar[int] = 3
    overflows: ClassVar[bool] = False  # its weights are published in float16, and computed in it

    latent_channels: int = 4
    width: int = 64
    encoder_blocks: tuple[int, ...] | None = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0
    latent_rgb: tuple[tuple[float, float, float], ...] | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        encoder = self.encoder_blocks or ()
        bound("levels of the tiny VAE", [len(self.decoder_blocks)], MOST_LEVELS)
        bound("blocks of a level of the tiny VAE", (*encoder, *self.decoder_blocks), MOST_BLOCKS)
        bound("channels of the tiny VAE", (self.width, self.latent_channels), MOST_WIDTH)
        bound("the tiny VAE's scaling_factor", [self.scaling_factor], 1e6, least=1e-6)
        if self.encoder_blocks is not None and len(self.encoder_blocks) != len(self.decoder_blocks):
            raise ConfigError(
                f"the tiny VAE's encoder has {len(self.encoder_blocks)} levels and its decoder "
                f"{len(self.decoder_blocks)}; they must be as many, download it again"
            )

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.decoder_blocks) - 1)

    @property
    def has_encoder(self) -> bool:
        """Whether it encodes images too."""
        return self.encoder_blocks is not None

    @property
    def preview(self) -> tuple[tuple[float, float, float], ...] | None:
        """The colours of the latents, those of the VAE that it stands for; None where they are not known."""
        return self.latent_rgb
