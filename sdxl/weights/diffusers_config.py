"""The JSON files of a diffusers folder (config.json, scheduler_config.json, model_index.json), read and written.

A missing field takes the default of the official class. An unsupported field that changes what a network means raises
`ConfigError`; one that recommends a sampler or a schedule becomes a note of the `ScheduleConfig`. All other fields (of
training, of newer versions) are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import ConfigError, brief, naming
from ..models.bounds import MOST_BLOCKS, MOST_LEVELS
from ..models.config import ModelConfig, TextConfig, VAEConfig
from ..models.schedule_config import EDM, ScheduleConfig
from ..models.tiny_vae_config import TinyVAEConfig
from ..models.unet_config import UNetConfig
from ..models.vision_config import VisionConfig
from ..sampling.sampler import Scheduler
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES

Json = Mapping[str, Any]
T = TypeVar("T")
_LARGE = 1e30  # larger than any number of a config
MOST_CHANNELS = 1024  # of latents

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
# of a scheduler: what the network predicts, at which noise levels
_NOISE_FIXED: dict[str, tuple[object, object]] = {
    "timestep_type": ("discrete", "discrete"),
    "trained_betas": (None, None),
    "use_flow_sigmas": (False, False),
}
# of a scheduler: the timesteps and noise levels of the steps; what else a sampler fixes is its own way of taking them
_SCHEDULE_FIXED: dict[str, tuple[object, object]] = {
    "final_sigmas_type": ("zero", "zero"),
    "interpolation_type": ("linear", "linear"),
    "lambda_min_clipped": (-math.inf, -math.inf),
    "sigma_max": (None, None),
    "sigma_min": (None, None),
    "use_beta_sigmas": (False, False),
    "use_lu_lambdas": (False, False),
}
_EDM = {"EDMEulerScheduler": "euler", "EDMDPMSolverMultistepScheduler": "dpmpp_2m"}
_EDM_FIXED: dict[str, tuple[object, object]] = {
    "algorithm_type": ("dpmsolver++", "dpmsolver++"),
    "final_sigmas_type": ("zero", "zero"),
    "rho": (7.0, 7.0),
    "solver_order": (2, 2),
    "solver_type": ("midpoint", "midpoint"),
    "thresholding": (False, False),
}
_OTHER_NOISE = ("FlowMatch", "CosineDPMSolver")  # how the names of schedulers of other models begin
_SCHEDULER_DEFAULTS: dict[str, object] = {"beta_start": 0.0001, "beta_end": 0.02, "timestep_spacing": "linspace"}


def _unsupported(data: Json, fixed: Mapping[str, tuple[object, object]]) -> Iterator[str]:
    """The names of the fields whose value is not the one supported."""
    for name, (default, supported) in fixed.items():
        value = data.get(name, default)
        if value == "-inf" and isinstance(supported, float):
            value = -math.inf  # as lambda_min_clipped is written
        if value != supported and (value or supported):
            yield name


def _require(data: Json, fixed: Mapping[str, tuple[object, object]], where: str) -> None:
    for name in _unsupported(data, fixed):
        default, supported = fixed[name]
        raise ConfigError(f"{where}: {name} is {brief(data.get(name, default))}; only {supported!r} is supported")


def _is_whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _whole(data: Json, name: str, default: int, where: str) -> int:
    value = data.get(name, default)
    if not _is_whole(value):
        raise ConfigError(f"{where}: {name} is {brief(value)}; it must be a positive whole number")
    return value


def _number(data: Json, name: str, default: float, where: str) -> float:
    value = data.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LARGE < value < _LARGE:
        raise ConfigError(f"{where}: {name} is {brief(value)}; it must be a number")
    return float(value)


def _word(data: Json, name: str, default: str, where: str) -> str:
    value = data.get(name, default)
    if not isinstance(value, str) or len(value) > 100:
        raise ConfigError(f"{where}: {name} is {brief(value)}; it must be a string of at most 100 characters")
    return value


def _per_level(data: Json, name: str, default: object, levels: int, where: str) -> list[Any]:
    """A field that is one value for all levels or a list with one value per level."""
    value = data.get(name, default)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * levels
    if len(values) != levels:
        raise ConfigError(f"{where}: {name} is {brief(value)}; it must be one value or a list of {levels}")
    return values


def _whole_per_level(data: Json, name: str, default: object, levels: int, where: str) -> list[int]:
    values = _per_level(data, name, default, levels, where)
    if not all(map(_is_whole, values)):
        raise ConfigError(f"{where}: {name} is {brief(values)}; they must be positive whole numbers")
    return values


def _blocks(data: Json, default: int, levels: int, where: str) -> list[int]:
    """How many blocks each level has."""
    blocks = _whole_per_level(data, "layers_per_block", default, levels, where)
    if max(blocks) > MOST_BLOCKS:  # before a list of this length exists
        raise ConfigError(f"{where}: layers_per_block is {brief(blocks)}; at most {MOST_BLOCKS} are supported")
    return blocks


def _depths(value: object, blocks: int, name: str, where: str) -> tuple[int, ...]:
    """Transformer depths of the blocks of one level: one number for all, or one each."""
    depths: tuple[Any, ...] = tuple(value) if isinstance(value, (list, tuple)) else (value,) * blocks
    if len(depths) != blocks or not all(_is_whole(depth, 0) for depth in depths):
        raise ConfigError(
            f"{where}: {name} has {brief(value)} for a level of {blocks} blocks; expected one number for each"
        )
    return depths


def _types(data: Json, name: str, plain: str, attention: str, where: str) -> list[bool]:
    """For each level of `down_block_types` or `up_block_types`, whether it has attention."""
    types = data.get(name)
    if not isinstance(types, (list, tuple)) or not types or any(each not in (plain, attention) for each in types):
        raise ConfigError(f"{where}: {name} is {brief(types)}; supported: lists of {plain} and {attention}")
    if len(types) > MOST_LEVELS:
        raise ConfigError(f"{where}: {name} has {len(types)} levels; at most {MOST_LEVELS} are supported")
    return [each == attention for each in types]


def _sample_size(data: Json, where: str) -> tuple[int, int]:
    """Native (height, width) in latents."""
    value = data.get("sample_size") or 128
    sides = value if isinstance(value, (list, tuple)) else (value, value)
    if len(sides) != 2 or not all(map(_is_whole, sides)):
        raise ConfigError(f"{where}: sample_size is {brief(value)}; it must be one or two positive whole numbers")
    return sides[0], sides[1]


def _make(config: type[T], where: str, **fields: Any) -> T:
    """A config whose errors name the file."""
    with naming(where):
        return config(**fields)


def read_unet(data: Json, where: str = "unet/config.json") -> UNetConfig:
    """The config of a UNet from diffusers' `UNet2DConditionModel` JSON; `where` names the file in errors."""
    _require(data, _UNET_FIXED, where)
    down_attention = _types(data, "down_block_types", "DownBlock2D", "CrossAttnDownBlock2D", where)
    up_attention = _types(data, "up_block_types", "UpBlock2D", "CrossAttnUpBlock2D", where)
    levels = len(down_attention)
    channels = _whole_per_level(data, "block_out_channels", (320, 640, 1280, 1280), levels, where)
    if len(up_attention) != levels:
        raise ConfigError(
            f"{where}: up_block_types has {len(up_attention)} levels; expected {levels}, as in down_block_types"
        )
    blocks = _blocks(data, 2, levels, where)
    name = "transformer_layers_per_block"
    depths = _per_level(data, name, 1, levels, where)
    reverse = "reverse_" + name
    up_depths = depths[::-1] if data.get(reverse) is None else _per_level(data, reverse, None, levels, where)
    context = set(_whole_per_level(data, "cross_attention_dim", 1280, levels, where))
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
    return _make(
        UNetConfig,
        where,
        in_channels=_whole(data, "in_channels", 4, where),
        out_channels=_whole(data, "out_channels", 4, where),
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
        heads=tuple(_whole_per_level(data, "attention_head_dim", 8, levels, where)),
        context_dim=context.pop(),
        vector_dim=_whole(data, "projection_class_embeddings_input_dim", 0, where),
        size_dim=_whole(data, "addition_time_embed_dim", 0, where),
        norm_groups=_whole(data, "norm_num_groups", 32, where),
        norm_eps=_number(data, "norm_eps", 1e-5, where),
        sample_size=_sample_size(data, where),
        guidance_dim=None if guidance_dim is None else _whole(data, "time_cond_proj_dim", 0, where),
    )


def read_text(data: Json, projection: bool, where: str = "text_encoder/config.json") -> TextConfig:
    """The config of a text encoder, with or without a `projection`, from transformers' `CLIPTextConfig` JSON."""
    eos = data.get("eos_token_id", 49407)
    if isinstance(eos, bool) or not isinstance(eos, int):
        raise ConfigError(f"{where}: eos_token_id is {brief(eos)}; it must be a whole number")
    return _make(
        TextConfig,
        where,
        vocab_size=_whole(data, "vocab_size", 49408, where),
        positions=_whole(data, "max_position_embeddings", 77, where),
        **_transformer(data, (512, 2048, 8), where),
        projection_dim=_whole(data, "projection_dim", 512, where) if projection else None,
        eos_id=None if eos == 2 else eos,
    )


def _transformer(data: Json, defaults: tuple[int, int, int], where: str) -> dict[str, Any]:
    """What the configs of CLIP's encoders have in common; `defaults` are those of the widths and the heads."""
    dim, ff_dim, heads = defaults
    return {
        "dim": _whole(data, "hidden_size", dim, where),
        "ff_dim": _whole(data, "intermediate_size", ff_dim, where),
        "layers": _whole(data, "num_hidden_layers", 12, where),
        "heads": _whole(data, "num_attention_heads", heads, where),
        "activation": _word(data, "hidden_act", "quick_gelu", where),
        "norm_eps": _number(data, "layer_norm_eps", 1e-5, where),
    }


def read_vision(data: Json, where: str = "image_encoder/config.json") -> VisionConfig:
    """The config of an image encoder, from transformers' `CLIPVisionConfig` JSON or the one within a `CLIPConfig`."""
    own = data.get("vision_config", data)
    own = own if isinstance(own, Mapping) else {}
    return _make(
        VisionConfig,
        where,
        **_transformer(own, (768, 3072, 12), where),
        patch=_whole(own, "patch_size", 32, where),
        image_size=_whole(own, "image_size", 224, where),
        projection_dim=_whole(data if "projection_dim" in data else own, "projection_dim", 512, where),
    )


def write_vision(config: VisionConfig) -> dict[str, Any]:
    """The `CLIPVisionConfig` JSON of an image encoder."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": config.dim,
        "intermediate_size": config.ff_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "patch_size": config.patch,
        "image_size": config.image_size,
        "projection_dim": config.projection_dim,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
    }


def read_vae(data: Json, where: str = "vae/config.json") -> VAEConfig:
    """The config of an autoencoder from diffusers' `AutoencoderKL` JSON."""
    if data.get("_class_name") == TINY_CLASS:
        raise ConfigError(
            f"{where} is that of a tiny VAE; expected {VAE_CLASS}. Try a model with a VAE, and this one as vae="
        )
    _require(data, _VAE_FIXED, where)
    down = _types(data, "down_block_types", "DownEncoderBlock2D", "DownEncoderBlock2D", where)
    up = _types(data, "up_block_types", "UpDecoderBlock2D", "UpDecoderBlock2D", where)
    channels = _whole_per_level(data, "block_out_channels", (64,), len(down), where)
    if len(up) != len(down):
        raise ConfigError(f"{where}: up_block_types has {len(up)} levels; expected {len(down)}, as in down_block_types")
    image_channels, out_channels = _whole(data, "in_channels", 3, where), _whole(data, "out_channels", 3, where)
    if image_channels != out_channels:
        raise ConfigError(
            f"{where}: in_channels is {image_channels} and out_channels is {out_channels}; only 3 and 3 are supported"
        )
    return _make(
        VAEConfig,
        where,
        image_channels=image_channels,
        latent_channels=_whole(data, "latent_channels", 4, where),
        channels=tuple(channels),
        blocks=_whole(data, "layers_per_block", 1, where),
        norm_groups=_whole(data, "norm_num_groups", 32, where),
        scaling_factor=_number(data, "scaling_factor", 0.18215, where),
        latent_rgb=_latent_rgb(data, where),
        latents_mean=_channel_numbers(data, "latents_mean", where),
        latents_std=_channel_numbers(data, "latents_std", where),
    )


def read_tiny_vae(data: Json, where: str = "config.json") -> TinyVAEConfig:
    """The config of a tiny VAE from diffusers' `AutoencoderTiny` JSON. Its `latent_magnitude` and `latent_shift` are
    for latents that are stored as bytes.
    """
    _require(data, _TINY_VAE_FIXED, where)
    blocks, widths = {}, set[int]()
    for half, default in (("encoder", (1, 3, 3, 3)), ("decoder", (3, 3, 3, 1))):
        levels = data.get(f"num_{half}_blocks", default)
        count = len(levels) if isinstance(levels, (list, tuple)) else 1
        blocks[half] = tuple(_whole_per_level(data, f"num_{half}_blocks", default, count, where))
        widths |= {*_whole_per_level(data, f"{half}_block_out_channels", (64,) * count, count, where)}
    if len(widths) != 1:
        raise ConfigError(f"{where}: the levels have the widths {brief(sorted(widths))}; only one for all is supported")
    return _make(
        TinyVAEConfig,
        where,
        latent_channels=_whole(data, "latent_channels", 4, where),
        width=widths.pop(),
        encoder_blocks=blocks["encoder"],
        decoder_blocks=blocks["decoder"],
        scaling_factor=_number(data, "scaling_factor", 1.0, where),
    )


def _latent_rgb(data: Json, where: str) -> tuple[tuple[float, float, float], ...] | None:
    """The colours of the latents, for previews: a field of this package, which diffusers ignores."""
    rows = data.get("latent_rgb")
    if rows is None:
        return None
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, (list, tuple)) and len(row) == 3 for row in rows):
        raise ConfigError(f"{where}: latent_rgb is {brief(rows)}; it must be a list of rows of 3 numbers")
    r, g, b = ([_number({"latent_rgb": row[i]}, "latent_rgb", 0, where) for row in rows] for i in range(3))
    return tuple(zip(r, g, b, strict=True))


def _channel_numbers(data: Json, name: str, where: str) -> tuple[float, ...] | None:
    """One number for each channel of the latents."""
    numbers = data.get(name)
    if numbers is None:
        return None
    if not isinstance(numbers, (list, tuple)) or len(numbers) > MOST_CHANNELS:
        raise ConfigError(f"{where}: {name} is {brief(numbers)}; it must be a list of numbers")
    return tuple(_number({name: number}, name, 0, where) for number in numbers)


def read_scheduler(data: Json, where: str = "scheduler/scheduler_config.json") -> ScheduleConfig:
    """The noise schedule from a diffusers scheduler's JSON. A class or a field of a sampler or schedule that is not
    supported is a note of the result; raises `ConfigError` for noise that is not SDXL's.
    """
    name = _word(data, "_class_name", "", where)
    if name.startswith(_OTHER_NOISE):
        raise ConfigError(f"{where}: {name} belongs to a model whose noise differs from SDXL's; give an SDXL model")
    if name in _EDM:
        return _read_edm(data, name, where)
    sampler, scheduler = _nearest(data, name)
    data = _SCHEDULER_DEFAULTS | dict(scheduler.defaults if scheduler else {}) | dict(data)
    _require(data, _NOISE_FIXED, where)
    schedule = (scheduler and scheduler.schedule) or _schedule(data)
    offset = data.get("steps_offset", 0)
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise ConfigError(f"{where}: steps_offset is {brief(offset)}; it must be a whole number of at least 0")
    return _make(
        ScheduleConfig,
        where,
        sampler=sampler,
        schedule=schedule or "leading",
        prediction=_word(data, "prediction_type", "epsilon", where),
        train_steps=_whole(data, "num_train_timesteps", 1000, where),
        beta_start=_number(data, "beta_start", 0.0, where),
        beta_end=_number(data, "beta_end", 0.0, where),
        beta_schedule=_word(data, "beta_schedule", "linear", where),
        steps_offset=offset,
        zero_terminal_snr=bool(data.get("rescale_betas_zero_snr", False)),
        final_alpha_one=not SAMPLERS[sampler].ends_at_zero and bool(data.get("set_alpha_to_one")),
        sampler_note=_sampler_note(data, name, scheduler, sampler, where),
        schedule_note=_schedule_note(data, schedule, where),
    )


def _nearest(data: Json, name: str) -> tuple[str, Scheduler | None]:
    """The sampler for a class of diffusers from which its config differs least; without a class that we know, euler."""
    named = [(sampler, record.diffusers) for sampler, record in SAMPLERS.items() if record.diffusers]
    fitting = [(sampler, scheduler) for sampler, scheduler in named if scheduler.name == name]
    if not fitting:
        other = next((sampler for sampler, record in SAMPLERS.items() if name in record.names), None)
        return ("euler", None) if other is None else (other, SAMPLERS[other].diffusers)
    return min(fitting, key=lambda each: len(_own(dict(each[1].defaults) | dict(data), each[1])))


def _own(data: Json, scheduler: Scheduler) -> list[str]:
    """The fields by which diffusers' scheduler is not our sampler."""
    fixed = {field: (value, value) for field, value in scheduler.fixed.items()}
    own = {field: pair for field, pair in fixed.items() if field not in _NOISE_FIXED | _SCHEDULE_FIXED}
    return list(_unsupported(data, own))


def _read_edm(data: Json, name: str, where: str) -> ScheduleConfig:
    """The noise levels of EDM, whose schedules are karras and exponential. What diffusers calls epsilon there is F."""
    data = {key: value for key, value in data.items() if value is not None}
    prediction = _word(data, "prediction_type", "epsilon", where)
    spacing = _word(data, "sigma_schedule", "karras", where)
    note = _note(data, list(_unsupported(data, _EDM_FIXED)), where, f"the default sampler is {_EDM[name]}")
    return _make(
        ScheduleConfig,
        where,
        sampler=_EDM[name],
        schedule="exponential" if spacing == "exponential" else "karras",
        prediction="edm" if prediction == "epsilon" else prediction,
        train_steps=_whole(data, "num_train_timesteps", 1000, where),
        edm=_make(
            EDM,
            where,
            sigma_min=_number(data, "sigma_min", 0.002, where),
            sigma_max=_number(data, "sigma_max", 80.0, where),
            sigma_data=_number(data, "sigma_data", 0.5, where),
        ),
        sampler_note=note,
    )


def _sampler_note(data: Json, name: str, scheduler: Scheduler | None, sampler: str, where: str) -> str:
    """The sentence about fields by which diffusers' scheduler is not our sampler; empty if there are none."""
    advice = f"the default sampler is {sampler}, choose another with sampler="
    if scheduler is None:
        return f"{where}: the scheduler {name!r} is unknown; {advice}"
    return _note(data, _own(data, scheduler), where, advice)


def _schedule_note(data: Json, schedule: str | None, where: str) -> str:
    """The sentence about fields by which the steps would lie at other noise levels; empty if there are none."""
    fields = [*(["timestep_spacing"] if schedule is None else []), *_unsupported(data, _SCHEDULE_FIXED)]
    advice = f"the default schedule is {schedule or 'leading'}, choose another with schedule="
    return _note(data, fields, where, advice)


def _note(data: Json, fields: Sequence[str], where: str, advice: str) -> str:
    if not fields:
        return ""
    values = " and ".join(f"{field} {brief(data.get(field))}" for field in fields)
    return f"{where}: {values} {'is' if len(fields) == 1 else 'are'} not supported; {advice}"


def _schedule(data: Json) -> str | None:
    """The schedule of a scheduler's config: from its flags, else from its timestep_spacing; None if that is unknown."""
    entries = {(key, value): name for name, each in SCHEDULES.items() for key, value in each.diffusers.items()}
    spacings = {value: name for (key, value), name in entries.items() if key == "timestep_spacing"}
    flags = [name for (key, value), name in entries.items() if value is True and data.get(key)]
    spacing = data.get("timestep_spacing")
    return flags[-1] if flags else spacings.get(spacing) if isinstance(spacing, str) else None


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
            "cannot be written as a diffusers config.json; write a single file"
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


def write_text(config: TextConfig) -> dict[str, Any]:
    """The JSON that `read_text` and transformers read."""
    name = "CLIPTextModel" if config.projection_dim is None else "CLIPTextModelWithProjection"
    return {
        "architectures": [name],
        "eos_token_id": 2 if config.eos_id is None else config.eos_id,
        "hidden_act": config.activation,
        "hidden_size": config.dim,
        "intermediate_size": config.ff_dim,
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.positions,
        "model_type": "clip_text_model",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "projection_dim": config.projection_dim or config.dim,
        "vocab_size": config.vocab_size,
    }


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


def write_scheduler(config: ScheduleConfig) -> dict[str, Any]:
    """The JSON that `read_scheduler` and diffusers read."""
    if config.edm is not None:
        return _write_edm(config, config.edm)
    scheduler = SAMPLERS[config.sampler].diffusers or SAMPLERS["euler"].diffusers
    assert scheduler is not None
    flags = {key: False for each in SCHEDULES.values() for key, value in each.diffusers.items() if value is True}
    return {
        "_class_name": scheduler.name,
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
        "beta_start": config.beta_start,
        "clip_sample": False,
        "num_train_timesteps": config.train_steps,
        "prediction_type": config.prediction,
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "set_alpha_to_one": config.final_alpha_one,
        "steps_offset": config.steps_offset,
        "timestep_spacing": "leading",
        **{name: value for name, value in scheduler.fixed.items() if scheduler.defaults.get(name, value) != value},
        **flags,
        **SCHEDULES[config.schedule].diffusers,
    }


def _write_edm(config: ScheduleConfig, edm: EDM) -> dict[str, Any]:
    names = {sampler: name for name, sampler in _EDM.items()}
    return {
        "_class_name": names.get(config.sampler, "EDMEulerScheduler"),
        "num_train_timesteps": config.train_steps,
        "prediction_type": "epsilon" if config.prediction == "edm" else config.prediction,
        "rho": 7.0,
        "sigma_data": edm.sigma_data,
        "sigma_max": edm.sigma_max,
        "sigma_min": edm.sigma_min,
        "sigma_schedule": "exponential" if config.schedule == "exponential" else "karras",
    }


def write_index(config: ModelConfig, scheduler: ScheduleConfig, zero_negative: bool) -> dict[str, Any]:
    """model_index.json: the components of the folder and their classes."""
    first = config.text_encoder is not None
    names = {"base": "StableDiffusionXLPipeline", "inpainting": "StableDiffusionXLInpaintPipeline"}
    return {
        "_class_name": names.get(config.kind, "StableDiffusionXLImg2ImgPipeline"),
        "force_zeros_for_empty_prompt": zero_negative,
        **({"requires_aesthetics_score": True} if config.kind == "refiner" else {}),
        "scheduler": ["diffusers", write_scheduler(scheduler)["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"] if first else [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"] if first else [None, None],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", VAE_CLASS],
    }
