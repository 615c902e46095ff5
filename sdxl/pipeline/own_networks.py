"""Networks that a caller gives in place of those of files, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, brief
from ..models.config import ModelConfig
from ..models.tiny_vae import AnyVAE, TinyVAE
from ..models.unet import UNet
from ..models.vae import VAE
from ..runtime.placement import Placement
from ..text.encode import TextStage
from ..weights.info import ModelInfo
from ..weights.keymap import component_rows
from ..weights.recognise import by_config


def check_networks(info: Any, unet: Any, vae: Any, text: Any) -> None:
    """Raise `ArgumentError` unless these are a model's info, its UNet, its VAE and a list of its text encoders."""
    for name, value, wanted in (
        ("info", info, (ModelInfo,)),
        ("unet", unet, (UNet,)),
        ("vae", vae, (VAE, TinyVAE)),
    ):
        if not isinstance(value, wanted):
            hint = f". Try pipe.{name} of a loaded pipeline"
            if hasattr(value, "_orig_mod"):
                hint = ", which torch.compile has wrapped. Try its blocks, compiled in place by block.compile()"
            elif isinstance(getattr(value, "module", None), wanted):  # averages of weights, data parallelism
                hint = f", which it wraps. Try {name}.module"
            raise ArgumentError(f"{name} is a {type(value).__name__}; expected a {wanted[0].__name__}{hint}")
    count, kinds = len(info.encoders), [type(each) for each in text] if isinstance(text, Sequence) else []
    if len(kinds) != count or any(not issubclass(kind, TextStage) for kind in kinds):
        given = f"[{', '.join(kind.__name__ for kind in kinds)}]" if kinds else f"a {type(text).__name__}"
        raise ArgumentError(f"text is {given}; expected a list of TextStage, {count} for this model. Try pipe.text")


def with_configs(info: ModelInfo, unet: UNet, vae: AnyVAE, text: Sequence[TextStage]) -> ModelInfo:
    """The info with the configs of these networks, which may differ from those of its model, and with the family that
    they and its schedule show. Raises `ConfigError` where the networks do not fit each other.
    """
    encoders: dict[str, Any] = {name: stage.encoder.config for name, stage in zip(info.encoders, text, strict=True)}
    config = replace(info.config, unet=unet.config, vae=vae.config, **encoders)
    shown = by_config(unet.config, info.schedule) if config.kind != "refiner" else None
    family = shown or info.family
    return info if (config, family) == (info.config, info.family) else replace(info, config=config, family=family)


def check_weights(name: str, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise `ArgumentError` unless these are the weights that a component of a model has, all of them and no others."""
    expected = {row.ours for row in component_rows(config).get(name, ())}
    more, missing = sorted({*state} - expected), sorted(expected - {*state})
    if not expected or not (more or missing):
        return
    parts = [f"{word} {brief(names[0])} ({len(names)})" for word, names in (("has", more), ("lacks", missing)) if names]
    hint = "torch.save for the weights alone"
    if any(each.endswith(".base.weight") for each in more):
        hint = "save_lora, and sdxl.training.detach_lora to have the model's own layers back"
    raise ArgumentError(f"the {name} {' and '.join(parts)}, and a model's file has its own weights alone. Try {hint}")


def check_placement(unet: UNet, at: Placement) -> None:
    """Raise `ArgumentError` for a UNet in memory that was moved without its pipeline."""
    weight = unet.norm_out.weight
    if (weight.device.type, weight.dtype) != (at.device.type, at.arithmetic):
        own, expected = (_words(*each) for each in ((weight.device, weight.dtype), (at.device, at.arithmetic)))
        raise ArgumentError(
            f"the UNet is {own}, and its pipeline computes {expected}. Try to move the pipeline: pipe.to(device, dtype)"
        )


def _words(device: torch.device, dtype: torch.dtype) -> str:
    return f"on {device.type} in {str(dtype).removeprefix('torch.')}"
