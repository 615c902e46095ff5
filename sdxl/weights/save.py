"""Writes models to disk, in both layouts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import OutputError, warn
from ..models.config import VAEConfig
from . import diffusers_config, hub, tokenizer_files
from .checkpoint import Checkpoint, open_checkpoint
from .container import save_tensors
from .info import METADATA_KEY, ModelInfo
from .keymap import CLIP_L_PREFIX, TEXT, TEXT_2, UNET, VAE, clip_g_prefix, component_rows, match
from .ops import to_stored
from .path import AnyPath, expanded
from .weight_files import STEMS

_OTHERS = (".bin", ".ckpt", ".gguf", ".onnx", ".pt", ".pth", ".safetensor")  # of files that are not written
_OF_SYSTEMS = {".DS_Store", "Thumbs.db", "desktop.ini"}  # what macOS and Windows put into a folder that they show

State = Mapping[str, Mapping[str, Tensor]]
"""Our names and tensors, by component."""


def convert(
    source: AnyPath,
    target: AnyPath,
    variant: str | None = None,
    changes: Callable[[Checkpoint], Mapping[str, Callable[[Tensor], Tensor]]] = lambda checkpoint: {},
) -> None:
    """Write a single file as a diffusers folder, or a folder as a single file (`target` ends in .safetensors).

    Weights are copied bit for bit and keep their dtypes, also those that `changes` computes in float32: functions by
    the name of the component and ours of the weight, such as unet.conv_in.weight.
    """
    target = expanded(target)
    if target.suffix in _OTHERS:
        raise OutputError(
            f"{target} would be a folder, and its name ends in {target.suffix}; expected one in .safetensors for a "
            "file, or one without an ending"
        )
    checkpoint = open_checkpoint(hub.on_disk(source), variant)
    for note in checkpoint.info.schedule.notes:
        warn(f"{note} ({target} states the default)")
    state = {name: dict(component.tensors()) for name, component in checkpoint.components.items()}
    for name, change in changes(checkpoint).items():
        component, _, own = name.partition(".")
        weight = state[component][own]
        state[component][own] = change(weight.float()).to(weight.dtype)
    if target.suffix == ".safetensors":
        save_single(target, checkpoint.info, state)
    else:
        save_folder(target, checkpoint.info, state)


def save_single(path: AnyPath, info: ModelInfo, state: State) -> None:
    """Write the official single-file layout, with `position_ids` and `logit_scale` as in the published files. Raises
    `OutputError`.
    """
    path = expanded(path)
    if os.path.lexists(path):
        raise OutputError(f"{path} exists; remove it or choose another name")
    _check_vae(path, info)
    tensors: dict[str, Tensor] = {}
    for name, rows in component_rows(info.config).items():
        for key, group in match(rows, "single").items():
            if all(row.ours in state[name] for row in group):
                tensors[key] = to_stored([state[name][row.ours] for row in group], group[0].op)
    dtype = next(iter(state[TEXT_2].values())).dtype
    tensors[clip_g_prefix(info.config.text_encoder is None) + "logit_scale"] = (
        torch.tensor(100.0, dtype=torch.float32).log().to(dtype)
    )
    if info.config.text_encoder:
        positions = torch.arange(info.config.text_encoder.positions, dtype=torch.long)[None].to(dtype)
        tensors[CLIP_L_PREFIX + "text_model.embeddings.position_ids"] = positions
    # ComfyUI's marker keys, for tools that do not read our metadata
    tensors |= {"v_pred": torch.empty(0, dtype=torch.float32)} if info.schedule.prediction == "v_prediction" else {}
    tensors |= {"ztsnr": torch.empty(0, dtype=torch.float32)} if info.schedule.zero_terminal_snr else {}
    tensors |= _edm_keys(info)
    save_tensors(tensors, path, {METADATA_KEY: info.to_json()})


def _check_vae(path: Path, info: ModelInfo) -> VAEConfig:
    """The model's VAE. Raises `OutputError` for a tiny one, which only stands for it."""
    if not isinstance(info.config.vae, VAEConfig):
        raise OutputError(f"{path} would have a tiny VAE; expected the model's own. Try to load the model without vae=")
    return info.config.vae


def _edm_keys(info: ModelInfo) -> dict[str, Tensor]:
    """The keys by which ComfyUI knows EDM's noise levels and the scale of Playground's latents."""
    vae, edm = info.config.vae, info.schedule.edm
    if edm is None:
        return {}
    if info.schedule.prediction == "edm":
        mean, std = vae.latents_mean or (0.0,) * vae.latent_channels, vae.latents_std or (1.0,) * vae.latent_channels
        return {"edm_mean": torch.tensor(mean, dtype=torch.float32), "edm_std": torch.tensor(std, dtype=torch.float32)}
    return {
        "edm_vpred.sigma_min": torch.tensor(edm.sigma_min, dtype=torch.float32),
        "edm_vpred.sigma_max": torch.tensor(edm.sigma_max, dtype=torch.float32),
    }


def save_folder(path: AnyPath, info: ModelInfo, state: State) -> None:
    """Write a diffusers folder that this package and diffusers read."""
    path = expanded(path)
    if os.path.lexists(path) and (not os.path.isdir(path) or {*os.listdir(path)} - _OF_SYSTEMS):
        raise OutputError(f"{path} exists and is not an empty folder; remove it or choose another name")
    config, vae = info.config, _check_vae(path, info)
    writers: dict[str, Any] = {
        UNET: lambda: diffusers_config.write_unet(config.unet),
        VAE: lambda: diffusers_config.write_vae(vae),
        TEXT_2: lambda: diffusers_config.write_text(config.text_encoder_2),
    }
    if first := config.text_encoder:
        writers[TEXT] = lambda: diffusers_config.write_text(first)
    try:
        for name, rows in component_rows(config).items():
            tensors = {row.folder: state[name][row.ours].contiguous() for row in rows if row.ours in state[name]}
            save_tensors(tensors, path / name / f"{STEMS[name]}.safetensors", {})
            _write_json(path / name / "config.json", writers[name]())
        for name, data in info.tokenizers.items():
            tokenizer_files.write_folder(data, path / name.replace("text_encoder", "tokenizer"))
        (path / "scheduler").mkdir(exist_ok=True)
        _write_json(path / "scheduler/scheduler_config.json", diffusers_config.write_scheduler(info.schedule))
        # last: an unfinished folder must not look like a model
        _write_json(path / "model_index.json", diffusers_config.write_index(config, info.schedule, info.zero_negative))
    except BaseException as error:  # an interrupt too leaves nothing behind
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(f"{path} cannot be written: {error}; choose another path or free some space") from error
        raise


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
