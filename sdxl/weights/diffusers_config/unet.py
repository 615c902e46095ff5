"""A UNet's config.json, read and written."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError, brief
from ...models.bounds import MOST_BLOCKS
from ...models.unet_config import UNetConfig
from .values import Json, block_types, is_whole, make, number, per_level, require, whole, whole_per_level

# field: (the official class's default, the only value supported). None, False and a missing field switch a feature off.
_UNET_FIXED: dict[str, tuple[object, object]] = {
    "act_fn": ("silu", "silu"),
    "addition_embed_type": (None, "text_time"),
    "attention_type": ("default", "default"),
    "center_input_sample": (False, False),
    "class_embed_type": (None, None),
    "class_embeddings_concat": (False, False),
    "conv_in_kernel": (3, 3),
    "conv_out_kernel": (3, 3),
    "cross_attention_norm": (None, None),
    "downsample_padding": (1, 1),
    "dual_cross_attention": (False, False),
    "encoder_hid_dim": (None, None),
    "encoder_hid_dim_type": (None, None),
    "flip_sin_to_cos": (True, True),
    "freq_shift": (0, 0),
    "mid_block_only_cross_attention": (None, None),
    "mid_block_scale_factor": (1, 1),
    "num_attention_heads": (None, None),
    "num_class_embeds": (None, None),
    "only_cross_attention": (False, False),
    "resnet_out_scale_factor": (1.0, 1.0),
    "resnet_skip_time_act": (False, False),
    "resnet_time_scale_shift": ("default", "default"),
    "time_embedding_act_fn": (None, None),
    "time_embedding_dim": (None, None),
    "time_embedding_type": ("positional", "positional"),
    "timestep_post_act": (None, None),
    "use_linear_projection": (False, True),
}


def _blocks(data: Json, default: int, levels: int, where: str) -> list[int]:
    """How many blocks each level has."""
    blocks = whole_per_level(data, "layers_per_block", default, levels, where)
    if max(blocks) > MOST_BLOCKS:  # before a list of this length exists
        raise ConfigError(f"{where}: layers_per_block is {brief(blocks)}; at most {MOST_BLOCKS} are supported")
    return blocks


def _depths(value: object, blocks: int, name: str, where: str) -> tuple[int, ...]:
    """Transformer depths of the blocks of one level: one number for all, or one each."""
    depths: tuple[Any, ...] = tuple(value) if isinstance(value, (list, tuple)) else (value,) * blocks
    if len(depths) != blocks or not all(is_whole(depth, 0) for depth in depths):
        raise ConfigError(
            f"{where}: {name} has {brief(value)} for a level of {blocks} blocks; expected one number for each"
        )
    return depths


def _sample_size(data: Json, where: str) -> tuple[int, int]:
    """Native (height, width) in latents."""
    value = data.get("sample_size") or 128
    sides = value if isinstance(value, (list, tuple)) else (value, value)
    if len(sides) != 2 or not all(map(is_whole, sides)):
        raise ConfigError(f"{where}: sample_size is {brief(value)}; it must be one or two positive whole numbers")
    return sides[0], sides[1]


def read_unet(data: Json, where: str = "unet/config.json") -> UNetConfig:
    """The config of a UNet from diffusers' `UNet2DConditionModel` JSON; `where` names the file in errors."""
    require(data, _UNET_FIXED, where)
    down_attention = block_types(data, "down_block_types", "DownBlock2D", "CrossAttnDownBlock2D", where)
    up_attention = block_types(data, "up_block_types", "UpBlock2D", "CrossAttnUpBlock2D", where)
    levels = len(down_attention)
    channels = whole_per_level(data, "block_out_channels", (320, 640, 1280, 1280), levels, where)
    if len(up_attention) != levels:
        raise ConfigError(
            f"{where}: up_block_types has {len(up_attention)} levels; expected {levels}, as in down_block_types"
        )
    blocks = _blocks(data, 2, levels, where)
    name = "transformer_layers_per_block"
    depths = per_level(data, name, 1, levels, where)
    reverse = "reverse_" + name
    up_depths = depths[::-1] if data.get(reverse) is None else per_level(data, reverse, None, levels, where)
    context = set(whole_per_level(data, "cross_attention_dim", 1280, levels, where))
    if len(context) != 1:
        raise ConfigError(f"{where}: cross_attention_dim differs by level; only one value for all levels is supported")
    middle = depths[-1][:1] if isinstance(depths[-1], (list, tuple)) else depths[-1]
    middle_type = data.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if middle_type not in (None, "UNetMidBlock2DCrossAttn", "UNetMidBlock2D"):
        raise ConfigError(
            f"{where}: mid_block_type is {brief(middle_type)}; supported: UNetMidBlock2DCrossAttn, UNetMidBlock2D, null"
        )
    if middle_type == "UNetMidBlock2DCrossAttn":
        mid: int | None = _depths(middle, 1, name, where)[0]
    else:
        mid = None if middle_type is None else -1
    guidance_dim = data.get("time_cond_proj_dim")
    return make(
        UNetConfig,
        where,
        in_channels=whole(data, "in_channels", 4, where),
        out_channels=whole(data, "out_channels", 4, where),
        channels=tuple(channels),
        down=tuple(
            _depths(depth, count, name, where) if attention else (None,) * count
            for attention, depth, count in zip(down_attention, depths, blocks, strict=True)
        ),
        mid=mid,
        up=tuple(
            _depths(depth, count + 1, name, where) if attention else (None,) * (count + 1)
            for attention, depth, count in zip(up_attention, up_depths, blocks[::-1], strict=True)
        ),
        heads=tuple(whole_per_level(data, "attention_head_dim", 8, levels, where)),
        context_dim=context.pop(),
        vector_dim=whole(data, "projection_class_embeddings_input_dim", 0, where),
        size_dim=whole(data, "addition_time_embed_dim", 0, where),
        norm_groups=whole(data, "norm_num_groups", 32, where),
        norm_eps=number(data, "norm_eps", 1e-5, where),
        sample_size=_sample_size(data, where),
        guidance_dim=None if guidance_dim is None else whole(data, "time_cond_proj_dim", 0, where),
    )


def write_unet(config: UNetConfig) -> dict[str, Any]:
    """The JSON that `read_unet` and diffusers read."""
    height, width = config.sample_size
    data: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": config.size_dim,
        "attention_head_dim": list(config.heads),
        "block_out_channels": list(config.channels),
        "cross_attention_dim": config.context_dim,
        "down_block_types": [_block_type("Down", level) for level in config.down],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "layers_per_block": [len(level) for level in config.down],
        "mid_block_type": _middle_type(config.mid),
        "norm_eps": config.norm_eps,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.out_channels,
        "projection_class_embeddings_input_dim": config.vector_dim,
        "sample_size": height if height == width else [height, width],
        "up_block_types": [_block_type("Up", level) for level in config.up],
        "use_linear_projection": True,
        **({} if config.guidance_dim is None else {"time_cond_proj_dim": config.guidance_dim}),
    }
    uniform = all(len(set(level)) == 1 for level in config.down + config.up)
    mirrored = [level[0] for level in config.down] == [level[0] for level in reversed(config.up)]
    # A level without attention has no depth. diffusers requires a number there and ignores it, except that the last
    # level's number is also the depth of the middle block.
    lowest = config.down[-1][0]
    middle = config.mid if config.mid not in (None, -1) else 1 if lowest is None else lowest
    if config.mid not in (None, -1) and lowest not in (None, middle):
        raise ConfigError(
            f"a middle block of depth {config.mid} after a level of depth {lowest} "
            "cannot be written as a config.json of diffusers, which both layouts have; expected one depth for both"
        )
    if uniform and mirrored:
        depths = [_depth_or_one(level[0]) for level in config.down]
        data["transformer_layers_per_block"] = [*depths[:-1], middle]
    else:
        data["transformer_layers_per_block"] = [[_depth_or_one(d) for d in level] for level in config.down]
        data["transformer_layers_per_block"][-1][0] = middle
        data["reverse_transformer_layers_per_block"] = [[_depth_or_one(d) for d in level] for level in config.up]
    return data


def _middle_type(depth: int | None) -> str | None:
    """diffusers' class of the middle block."""
    return None if depth is None else "UNetMidBlock2D" if depth == -1 else "UNetMidBlock2DCrossAttn"


def _block_type(side: str, level: tuple[int | None, ...]) -> str:
    """diffusers' class of a level, which has transformers after all of its blocks or after none."""
    with_attention = [depth is not None for depth in level]
    if len(set(with_attention)) > 1:
        raise ConfigError(
            f"a level with transformer depths {level} cannot be written as a diffusers config.json; write a single file"
        )
    return f"CrossAttn{side}Block2D" if all(with_attention) else f"{side}Block2D"


def _depth_or_one(depth: int | None) -> int:
    return 1 if depth is None else depth
