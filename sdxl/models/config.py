"""What the networks are, as data: frozen configs, and the published models as values of them.

Nothing here knows a file format: `weights.diffusers_config` reads and writes diffusers' JSON, `weights.identify` infers
a config from shapes. Imports no torch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import ConfigError

# Bounds far above every published model (its number behind each), so low that to describe such a network takes no time
MOST_LEVELS = 8  # 4
MOST_BLOCKS = 16  # 3, in a level
_MOST_LAYERS = 256  # 32, in a text encoder
_MOST_DEPTH = 512  # 70, transformer layers in all of a UNet
_MOST_WIDTH = 2**16  # 5,120
_MOST_TOKENS = 2**20  # 49,408
_MOST_SIDE = 1024  # 128 latents
_MOST_STEPS = 100_000  # 1,000
MIN_TOKENS = 3  # start, one token, end


def _bound(what: str, numbers: Iterable[float], most: float, least: float = 1) -> None:
    for number in numbers:
        if not least <= number <= most:  # NaN is not either
            raise ConfigError(f"{what}: {number} is not in {least} to {most}; no SDXL model has this, download it again")


@dataclass(frozen=True)
class Block:
    """One residual block of the UNet and the spatial transformer behind it.

    `depth` counts the transformer's blocks: None means no transformer, 0 one without blocks (norm, proj_in, proj_out).
    """

    in_channels: int
    out_channels: int
    depth: int | None
    heads: int


@dataclass(frozen=True)
class UNetConfig:
    """The UNet (SDXL paper, section 2.1 and table 1). The defaults are the base model's.

    `down[level][block]` and `up[level][block]` are transformer depths, None where there is no transformer; `up` starts
    at the lowest resolution. `mid` is the depth of the middle block, None means that there is no middle block.
    `heads` counts attention heads per level, `sample_size` is the native (height, width) in latents.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280)
    down: tuple[tuple[int | None, ...], ...] = ((None, None), (2, 2), (10, 10))
    mid: int | None = 10
    up: tuple[tuple[int | None, ...], ...] = ((10, 10, 10), (2, 2, 2), (None, None, None))
    heads: tuple[int, ...] = (5, 10, 20)
    context_dim: int = 2048
    vector_dim: int = 2816
    size_dim: int = 256
    norm_groups: int = 32
    norm_eps: float = 1e-5
    sample_size: tuple[int, int] = (128, 128)

    def __post_init__(self) -> None:
        levels = len(self.channels)
        if not levels or {len(self.down), len(self.up), len(self.heads)} != {levels}:
            raise ConfigError(
                f"the UNet's lists differ in length: {levels} channels, {len(self.down)} down levels, "
                f"{len(self.up)} up levels, {len(self.heads)} head counts; download its config again"
            )
        if [len(level) + 1 for level in self.down] != [len(level) for level in reversed(self.up)]:
            raise ConfigError(
                "each up level of the UNet needs one block more than its down level; download its config again"
            )
        depths = [depth or 0 for level in (*self.down, *self.up, (self.mid,)) for depth in level]
        widths = (self.in_channels, self.out_channels, self.context_dim, self.vector_dim, self.size_dim)
        _bound("transformer layers of the UNet", [sum(depths), min(depths)], _MOST_DEPTH, least=0)
        _bound("channels and widths of the UNet", (*self.channels, *widths), _MOST_WIDTH)
        _bound("the UNet's norm_eps", [self.norm_eps], 1, least=0)
        _bound("the UNet's sample_size", self.sample_size, _MOST_SIDE)
        if self.channels[0] % 2:
            raise ConfigError(f"the UNet's first level has {self.channels[0]} channels; it must be an even number")
        for blocks in self.down_blocks() + self.up_blocks():
            for block in blocks:
                if block.out_channels % self.norm_groups or (block.depth and block.out_channels % block.heads):
                    raise ConfigError(
                        f"a UNet level of {block.out_channels} channels does not divide into {self.norm_groups} "
                        f"norm groups and {block.heads} attention heads; download its config again"
                    )

    @property
    def emb_dim(self) -> int:
        """Width of the embedding of time and vector conditioning."""
        return 4 * self.channels[0]

    def down_blocks(self) -> list[list[Block]]:
        """The blocks of the contracting path, level by level."""
        width, levels = self.channels[0], []
        for channels, depths, heads in zip(self.channels, self.down, self.heads, strict=True):
            inputs = [width] + [channels] * (len(depths) - 1)
            levels.append([Block(i, channels, d, heads) for i, d in zip(inputs, depths, strict=True)])
            width = channels
        return levels

    def up_blocks(self) -> list[list[Block]]:
        """The blocks of the expanding path from the lowest resolution; inputs count the skip connection."""
        skips = [self.channels[0]]
        for level, blocks in enumerate(self.down_blocks()):
            skips += [block.out_channels for block in blocks]
            skips += [self.channels[level]] if level < len(self.channels) - 1 else []
        width, levels = self.channels[-1], []
        for channels, depths, heads in zip(reversed(self.channels), self.up, reversed(self.heads), strict=True):
            blocks = []
            for depth in depths:
                blocks.append(Block(width + skips.pop(), channels, depth, heads))
                width = channels
            levels.append(blocks)
        return levels


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
        if self.activation not in ("quick_gelu", "gelu"):
            raise ConfigError(f"the text encoder's hidden_act is {self.activation!r}; supported: quick_gelu, gelu")
        _bound("layers of the text encoder", [self.layers], _MOST_LAYERS)
        _bound("widths of the text encoder", (self.dim, self.ff_dim, self.projection_dim or 1), _MOST_WIDTH)
        _bound("vocab_size of the text encoder", [self.vocab_size], _MOST_TOKENS)
        _bound("positions of the text encoder", [self.positions], _MOST_WIDTH, least=MIN_TOKENS)
        _bound("the text encoder's layer_norm_eps", [self.norm_eps], 1, least=0)
        if self.eos_id is not None:
            _bound("the text encoder's eos_token_id", [self.eos_id], self.vocab_size - 1, least=0)
        if self.dim % self.heads:
            raise ConfigError(
                f"the text encoder's {self.dim} channels do not divide into {self.heads} heads; download its config again"
            )


@dataclass(frozen=True)
class VAEConfig:
    """The autoencoder (SDXL paper, section 2.4). One level fewer than `channels` halves the image.

    `latent_rgb` are the colours of the latents, for previews: the RGB in -1..1 is that linear function of a latent's
    channels, a row for each channel and a last one for the constant.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    norm_groups: int = 32
    scaling_factor: float = 0.13025
    latent_rgb: tuple[tuple[float, float, float], ...] | None = None

    def __post_init__(self) -> None:
        if self.image_channels != 3:
            raise ConfigError(f"a VAE of {self.image_channels} image channels is not supported; it must be 3")
        _bound("levels of the VAE", [len(self.channels)], MOST_LEVELS)
        _bound("blocks of a level of the VAE", [self.blocks], MOST_BLOCKS)
        _bound("channels and norm groups of the VAE", (*self.channels, self.norm_groups), _MOST_WIDTH)
        _bound("latent channels of the VAE", [self.latent_channels], _MOST_WIDTH)
        _bound("the VAE's scaling_factor", [self.scaling_factor], 1e6, least=1e-6)
        if self.latent_rgb is not None:
            if [len(row) for row in self.latent_rgb] != [3] * (self.latent_channels + 1):
                raise ConfigError(
                    f"the VAE's latent_rgb must have {self.latent_channels + 1} rows of 3 numbers; leave it out"
                )
            _bound("the VAE's latent_rgb", (number for row in self.latent_rgb for number in row), 1e6, least=-1e6)
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
        own = self.latent_channels, self.channels, self.scaling_factor
        is_sdxl = own == (VAE.latent_channels, VAE.channels, VAE.scaling_factor)
        return self.latent_rgb or (_SDXL_LATENT_RGB if is_sdxl else None)


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: a refiner has no `text_encoder` (CLIP-L), only `text_encoder_2` (bigG)."""

    unet: UNetConfig
    vae: VAEConfig
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


# Of SDXL's VAE, as ComfyUI has measured them (comfy/latent_formats.py in github.com/comfyanonymous/ComfyUI)
_SDXL_LATENT_RGB = (
    (0.3651, 0.4232, 0.4341),
    (-0.2533, -0.0042, 0.1068),
    (0.1076, 0.1111, -0.0362),
    (-0.3165, -0.2492, -0.2188),
    (0.1084, -0.0175, -0.0011),
)

CLIP_L = TextConfig()
CLIP_G = TextConfig(dim=1280, ff_dim=5120, layers=32, heads=20, activation="gelu", projection_dim=1280)
VAE = VAEConfig()
BASE_UNET = UNetConfig()
REFINER_UNET = UNetConfig(
    channels=(384, 768, 1536, 1536),
    down=((None, None), (4, 4), (4, 4), (None, None)),
    mid=4,
    up=((None, None, None), (4, 4, 4), (4, 4, 4), (None, None, None)),
    heads=(6, 12, 24, 24),
    context_dim=1280,
    vector_dim=2560,
)
INPAINTING_UNET = replace(BASE_UNET, in_channels=9)

BASE = ModelConfig(BASE_UNET, VAE, CLIP_L, CLIP_G)
REFINER = ModelConfig(REFINER_UNET, VAE, None, CLIP_G)
INPAINTING = ModelConfig(INPAINTING_UNET, VAE, CLIP_L, CLIP_G)


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule a model was trained with, and the sampler and schedule that its publisher recommends."""

    sampler: str = "euler"
    schedule: str = "leading"
    prediction: str = "epsilon"
    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    steps_offset: int = 1
    zero_terminal_snr: bool = False
    final_alpha_one: bool = False

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ConfigError(f"prediction_type is {self.prediction!r}; supported: epsilon, v_prediction")
        if self.beta_schedule not in ("scaled_linear", "linear"):
            raise ConfigError(f"beta_schedule is {self.beta_schedule!r}; supported: scaled_linear, linear")
        _bound("num_train_timesteps", [self.train_steps], _MOST_STEPS)
        _bound("steps_offset", [self.steps_offset], self.train_steps - 1, least=0)
        _bound("beta_end", [self.beta_end], 1 - 1e-9, least=1e-9)
        _bound("beta_start", [self.beta_start], self.beta_end, least=1e-9)
        if self.train_steps * math.log1p(-self.beta_end) < math.log(sys.float_info.min):
            raise ConfigError(
                f"{self.train_steps} steps of betas up to {self.beta_end} leave nothing of an image; download its "
                "config again"
            )
