"""A VAE's config.json, read and written, and that of a tiny VAE, read."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError, brief
from ...models.config import VAEConfig
from ...models.tiny_vae_config import TinyVAEConfig
from .values import Json, block_types, make, number, require, whole, whole_per_level

MOST_CHANNELS = 1024  # of latents
_VAE_FIXED: dict[str, tuple[object, object]] = {
    "act_fn": ("silu", "silu"),
    "mid_block_add_attention": (True, True),
    "shift_factor": (None, None),
    "use_post_quant_conv": (True, True),
    "use_quant_conv": (True, True),
}
_TINY_VAE_FIXED: dict[str, tuple[object, object]] = {
    "act_fn": ("relu", "relu"),
    "in_channels": (3, 3),
    "out_channels": (3, 3),
    "shift_factor": (0.0, 0.0),
    "upsample_fn": ("nearest", "nearest"),
    "upsampling_scaling_factor": (2, 2),
}
VAE_CLASS, TINY_CLASS = "AutoencoderKL", "AutoencoderTiny"


def read_vae(data: Json, where: str = "vae/config.json") -> VAEConfig:
    """The config of an autoencoder from diffusers' `AutoencoderKL` JSON."""
    if data.get("_class_name") == TINY_CLASS:
        raise ConfigError(
            f"{where} is that of a tiny VAE; expected {VAE_CLASS}. Try a model with a VAE, and this one as vae="
        )
    require(data, _VAE_FIXED, where)
    down = block_types(data, "down_block_types", "DownEncoderBlock2D", "DownEncoderBlock2D", where)
    up = block_types(data, "up_block_types", "UpDecoderBlock2D", "UpDecoderBlock2D", where)
    channels = whole_per_level(data, "block_out_channels", (64,), len(down), where)
    if len(up) != len(down):
        raise ConfigError(f"{where}: up_block_types has {len(up)} levels; expected {len(down)}, as in down_block_types")
    image_channels, out_channels = whole(data, "in_channels", 3, where), whole(data, "out_channels", 3, where)
    if image_channels != out_channels:
        raise ConfigError(
            f"{where}: in_channels is {image_channels} and out_channels is {out_channels}; only 3 and 3 are supported"
        )
    return make(
        VAEConfig,
        where,
        image_channels=image_channels,
        latent_channels=whole(data, "latent_channels", 4, where),
        channels=tuple(channels),
        blocks=whole(data, "layers_per_block", 1, where),
        norm_groups=whole(data, "norm_num_groups", 32, where),
        scaling_factor=number(data, "scaling_factor", 0.18215, where),
        latent_rgb=_latent_rgb(data, where),
        latents_mean=_channel_numbers(data, "latents_mean", where),
        latents_std=_channel_numbers(data, "latents_std", where),
    )


def read_tiny_vae(data: Json, where: str = "config.json") -> TinyVAEConfig:
    """The config of a tiny VAE from diffusers' `AutoencoderTiny` JSON. Its `latent_magnitude` and `latent_shift` are
    for latents that are stored as bytes.
    """
    require(data, _TINY_VAE_FIXED, where)
    blocks, widths = {}, set[int]()
    for half, default in (("encoder", (1, 3, 3, 3)), ("decoder", (3, 3, 3, 1))):
        levels = data.get(f"num_{half}_blocks", default)
        count = len(levels) if isinstance(levels, (list, tuple)) else 1
        blocks[half] = tuple(whole_per_level(data, f"num_{half}_blocks", default, count, where))
        widths |= {*whole_per_level(data, f"{half}_block_out_channels", (64,) * count, count, where)}
    if len(widths) != 1:
        raise ConfigError(f"{where}: the levels have the widths {brief(sorted(widths))}; only one for all is supported")
    return make(
        TinyVAEConfig,
        where,
        latent_channels=whole(data, "latent_channels", 4, where),
        width=widths.pop(),
        encoder_blocks=blocks["encoder"],
        decoder_blocks=blocks["decoder"],
        scaling_factor=number(data, "scaling_factor", 1.0, where),
    )


def _latent_rgb(data: Json, where: str) -> tuple[tuple[float, float, float], ...] | None:
    """The colours of the latents, for previews: a field of this package, which diffusers ignores."""
    rows = data.get("latent_rgb")
    if rows is None:
        return None
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, (list, tuple)) and len(row) == 3 for row in rows):
        raise ConfigError(f"{where}: latent_rgb is {brief(rows)}; it must be a list of rows of 3 numbers")
    r, g, b = ([number({"latent_rgb": row[i]}, "latent_rgb", 0, where) for row in rows] for i in range(3))
    return tuple(zip(r, g, b, strict=True))


def _channel_numbers(data: Json, name: str, where: str) -> tuple[float, ...] | None:
    """One number for each channel of the latents."""
    numbers = data.get(name)
    if numbers is None:
        return None
    if not isinstance(numbers, (list, tuple)) or len(numbers) > MOST_CHANNELS:
        raise ConfigError(f"{where}: {name} is {brief(numbers)}; it must be a list of numbers")
    return tuple(number({name: each}, name, 0, where) for each in numbers)


def write_vae(config: VAEConfig) -> dict[str, Any]:
    """The JSON that `read_vae` and diffusers read."""
    levels = len(config.channels)
    colours = {} if config.latent_rgb is None else {"latent_rgb": [list(row) for row in config.latent_rgb]}
    each = {"latents_mean": config.latents_mean, "latents_std": config.latents_std}
    per_channel = {name: list(numbers) for name, numbers in each.items() if numbers is not None}
    return (
        colours
        | per_channel
        | {
            "_class_name": VAE_CLASS,
            "act_fn": "silu",
            "block_out_channels": list(config.channels),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "force_upcast": True,
            "in_channels": config.image_channels,
            "latent_channels": config.latent_channels,
            "layers_per_block": config.blocks,
            "norm_num_groups": config.norm_groups,
            "out_channels": config.image_channels,
            "scaling_factor": config.scaling_factor,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
    )
