"""Which family of models a file belongs to: by its keys, its shapes, its scheduler's config, the header's title, and
its name, in that order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..models.published import SSD_1B_UNET, VEGA_UNET
from ..models.schedule_config import ScheduleConfig
from ..models.unet_config import UNetConfig
from ..sampling.presets import Family, by_text

_TITLES = ("modelspec.title", "ss_output_name")
_CACHED = re.compile(r"models--.+?--(.+)")  # a model's folder in the hub's cache
_GENERAL = re.compile(r"(diffusion_pytorch_model|pytorch_lora_weights|adapter_model|model|unet|[0-9a-f]{40})(\..+)?")
_SHAPES = {"ssd_1b": SSD_1B_UNET, "vega": VEGA_UNET}
_SAMPLERS = {"lcm": "lcm_lora", "tcd": "tcd_lora"}  # of distilled models alone


def recognise(unet: UNetConfig, schedule: ScheduleConfig, path: Path, metadata: Mapping[str, str]) -> Family | None:
    """The family of a model, or of its UNet, that was read from `path`; None for SDXL as it was trained."""
    return by_config(unet, schedule) or by_header(metadata) or by_name(path)


def by_config(unet: UNetConfig, schedule: ScheduleConfig) -> Family | None:
    """The family that a UNet's config and its noise schedule show by themselves."""
    return _by_keys(unet, schedule) or _by_shapes(unet) or _by_scheduler(unet, schedule)


def _by_keys(unet: UNetConfig, schedule: ScheduleConfig) -> Family | None:
    if unet.guidance_dim is not None:
        return Family("lcm", "its UNet takes the guidance scale, time_embedding.cond_proj")
    if schedule.prediction == "edm":
        return Family("playground", "its files state EDM's noise levels")
    if schedule.prediction == "v_prediction" and schedule.edm is None:
        if schedule.zero_terminal_snr:
            return Family("zero_snr", "its files state v-prediction and zero terminal SNR")
        return Family("v_prediction", "its files state v-prediction")
    return None


def _by_shapes(unet: UNetConfig) -> Family | None:
    depths = unet.down, unet.mid, unet.up
    found = (name for name, known in _SHAPES.items() if (known.down, known.mid, known.up) == depths)
    return next((Family(name, "the depths of its UNet") for name in found), None)


def _by_scheduler(unet: UNetConfig, schedule: ScheduleConfig) -> Family | None:
    if schedule.prediction == "sample":
        return Family("lightning_1", "its scheduler_config states that it predicts the sample")
    if not schedule.schedule_is_stated:
        return None
    if name := _SAMPLERS.get(schedule.sampler):
        return Family(name, f"its scheduler_config states the sampler {schedule.sampler}")
    is_small = max(unet.sample_size) == 64  # latents
    if (schedule.sampler, schedule.schedule) == ("euler_ancestral", "trailing") and is_small:
        return Family("turbo", "its configs state euler_ancestral, trailing and 512 pixels")
    return None


def by_header(metadata: Mapping[str, str], of_lora: bool = False) -> Family | None:
    """The family that the title in a file's header names."""
    for key in _TITLES:
        title = metadata.get(key, "")[:200]
        if found := by_text(title, f"its header, {key} {title!r}", of_lora):
            return found
    return None


def cached_model(path: Path) -> str:
    """The name of the model that a path in the hub's cache is of; empty for other paths."""
    return next((match[1] for part in path.parts if (match := _CACHED.fullmatch(part))), "")


def by_name(path: Path, of_lora: bool = False) -> Family | None:
    """The family that the name of a file or folder states, or that of its model in the hub's cache. A file with a
    component's usual name has that of its folder.
    """
    parts = [path.stem if path.suffix == ".safetensors" else path.name, *(each.name for each in path.parents)]
    own = next((name for name in parts if not _GENERAL.fullmatch(name)), "")
    for name in (own, cached_model(path)):
        if name and (found := by_text(name, f"the name {name}", of_lora)):
            return found
    return None
