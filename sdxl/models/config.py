"""What text encoders, VAE and a whole model are, as data; the UNet's config has a file of its own.

Nothing here knows a file format: `weights.diffusers_config` reads and writes diffusers' JSON, `weights.identify` infers
a config from shapes. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigError
from .bounds import MIN_TOKENS, MOST_BLOCKS, MOST_LEVELS, MOST_TOKENS, MOST_WIDTH, bound
from .clip_config import check_transformer
from .tiny_vae_config import TinyVAEConfig
from .unet_config import UNetConfig

# Of SDXL's VAE, as ComfyUI has measured them (comfy/latent_formats.py in github.com/comfyanonymous/ComfyUI)
_SDXL_LATENT_RGB = (
    (0.3651, 0.4232, 0.4341),
    (-0.2533, -0.0042, 0.1068),
    (0.1076, 0.1111, -0.0362),
    (-0.3165, -0.2492, -0.2188),
    (0.1084, -0.0175, -0.0011),
)


@dataclass(frozen=True)
class TextConfig:
    """A CLIP text transformer. The defaults are CLIP-L's. `projection_dim` None means that it has no projection.

    `eos_id` None: the pooled state stands at the argmax of the ids (the published configs, which say 2, mean this).
    """

    vocab_size: int = 49408
    positions: int = 77
    dim: int = 768
    ff_dim: int = 3072
    layers: int = 12
    heads: int = 12
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    projection_dim: int | None = None
    eos_id: int | None = None

    def __post_init__(self) -> None:
        check_transformer("text encoder", self)
        bound("vocab_size of the text encoder", [self.vocab_size], MOST_TOKENS)
        bound("positions of the text encoder", [self.positions], MOST_WIDTH, least=MIN_TOKENS)
        if self.eos_id is not None:
            bound("the text encoder's eos_token_id", [self.eos_id], self.vocab_size - 1, least=0)


@dataclass(frozen=True)
class VAEConfig:
    """The autoencoder (SDXL paper, section 2.4). One level fewer than `channels` halves the image.

    `latent_rgb` are the colours of the latents, for previews: the RGB in -1..1 is that linear function of a latent's
    channels, a row for each channel and a last one for the constant. The UNet's latents are (z - mean) / std *
    scaling_factor, where `latents_mean` and `latents_std` are one number for each channel; without them 0 and 1.
    """

    has_encoder: ClassVar[bool] = True
    overflows: ClassVar[bool] = True  # in float16, as the stock one does

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    norm_groups: int = 32
    scaling_factor: float = 0.13025
    latent_rgb: tuple[tuple[float, float, float], ...] | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.image_channels != 3:
            raise ConfigError(f"a VAE of {self.image_channels} image channels is not supported; it must be 3")
        bound("levels of the VAE", [len(self.channels)], MOST_LEVELS)
        bound("blocks of a level of the VAE", [self.blocks], MOST_BLOCKS)
        bound("channels and norm groups of the VAE", (*self.channels, self.norm_groups), MOST_WIDTH)
        bound("latent channels of the VAE", [self.latent_channels], MOST_WIDTH)
        bound("the VAE's scaling_factor", [self.scaling_factor], 1e6, least=1e-6)
        for name, numbers, least in (("mean", self.latents_mean, -1e6), ("std", self.latents_std, 1e-6)):
            if numbers is not None and len(numbers) != self.latent_channels:
                raise ConfigError(
                    f"the VAE's latents_{name} has {len(numbers)} numbers; expected {self.latent_channels}, one for "
                    "each channel. Try to download its config again"
                )
            bound(f"the VAE's latents_{name}", numbers or (), 1e6, least=least)
        if self.latent_rgb is not None:
            if [len(row) for row in self.latent_rgb] != [3] * (self.latent_channels + 1):
                raise ConfigError(
                    f"the VAE's latent_rgb must have {self.latent_channels + 1} rows of 3 numbers; leave it out"
                )
            bound("the VAE's latent_rgb", (number for row in self.latent_rgb for number in row), 1e6, least=-1e6)
        if any(channels % self.norm_groups for channels in self.channels):
            raise ConfigError(
                f"the VAE's channels {self.channels} do not divide into {self.norm_groups} norm groups; download its "
                "config again"
            )

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.channels) - 1)

    @property
    def preview(self) -> tuple[tuple[float, float, float], ...] | None:
        """`latent_rgb`, for SDXL's own VAE the published one; None where it is not known."""
        own = self.latent_channels, self.channels, self.scaling_factor, self.latents_mean, self.latents_std
        sdxl = VAEConfig()
        is_sdxl = own == (sdxl.latent_channels, sdxl.channels, sdxl.scaling_factor, None, None)
        return self.latent_rgb or (_SDXL_LATENT_RGB if is_sdxl else None)


AnyVAEConfig = VAEConfig | TinyVAEConfig


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: a refiner has no `text_encoder` (CLIP-L), only `text_encoder_2` (bigG)."""

    unet: UNetConfig
    vae: AnyVAEConfig
    text_encoder: TextConfig | None
    text_encoder_2: TextConfig

    def __post_init__(self) -> None:
        encoders = [self.text_encoder, self.text_encoder_2]
        context = sum(encoder.dim for encoder in encoders if encoder)
        if context != self.unet.context_dim:
            raise ConfigError(
                f"the text encoders give a context of width {context}, the UNet expects {self.unet.context_dim}; "
                "UNet and text encoders are not of the same model"
            )
        if self.text_encoder_2.projection_dim is None:
            raise ConfigError(
                "the last text encoder has no text projection, so there is no pooled embedding; give SDXL's own"
            )
        if self.size_count not in (5, 6):
            raise ConfigError(
                f"the UNet expects a vector of width {self.unet.vector_dim}; the pooled text "
                f"({self.text_encoder_2.projection_dim}) and six or five sizes of {self.unet.size_dim} do not give it, "
                "so they are not of the same model"
            )
        if self.unet.size_dim % 2:
            raise ConfigError(f"the sizes are embedded in {self.unet.size_dim} numbers; they must be an even number")
        latent = self.vae.latent_channels
        inputs = (latent,) if self.size_count == 5 else (latent, 2 * latent + 1)
        if self.unet.in_channels == 2 * latent:
            raise ConfigError(
                f"the UNet takes {2 * latent} channels, as models that edit by instruction do (CosXL Edit, "
                "InstructPix2Pix), which are not supported; give a base, inpainting or refiner model"
            )
        if self.unet.in_channels not in inputs or self.unet.out_channels != latent:
            raise ConfigError(
                f"the UNet makes {self.unet.out_channels} channels of {self.unet.in_channels}, and the VAE's latents "
                f"have {latent}; UNet and VAE are not of the same model"
            )

    @property
    def size_count(self) -> float:
        """How many micro-conditioning numbers the UNet takes: 6 (base), 5 (refiner)."""
        return (self.unet.vector_dim - (self.text_encoder_2.projection_dim or 0)) / self.unet.size_dim

    @property
    def kind(self) -> str:
        """`base`, `refiner` or `inpainting`."""
        if self.size_count == 5:
            return "refiner"
        return "inpainting" if self.unet.in_channels == 2 * self.vae.latent_channels + 1 else "base"

    @property
    def native_size(self) -> tuple[int, int]:
        """The (height, width) in pixels that the model was trained for."""
        height, width = self.unet.sample_size
        return height * self.vae.factor, width * self.vae.factor
