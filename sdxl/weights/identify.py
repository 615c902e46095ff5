"""Identifies a file from the keys and shapes in its header, never from its own name. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..errors import warn
from .families import CONTEXTS, SD1, SD2, family_of
from .keymap import UNET_PREFIX, VAE_PREFIX

Shapes = Mapping[str, tuple[int, ...]]


def strip(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The entries under a prefix, without it."""
    return {key[len(prefix) :]: shapes[key] for key in shapes if key.startswith(prefix)}


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in shapes)


def prediction(shapes: Shapes, metadata: Mapping[str, str], where: str) -> tuple[str, bool] | None:
    """A UNet's prediction type, and whether its schedule has zero terminal SNR; None if the file, which `where` names
    in a warning, states no type.

    Sources are ComfyUI's marker keys, and the metadata of ComfyUI, kohya's sd-scripts and the ModelSpec.
    """
    words = {metadata.get(f"modelspec.{name}", "") for name in ("prediction_type", "predict_key")}
    ends_at_zero = "ztsnr" in shapes or metadata.get("ss_zero_terminal_snr") == "True"
    if "v_pred" in shapes or words & {"v", "v_prediction"} or metadata.get("ss_v_parameterization") == "True":
        return "v_prediction", ends_at_zero
    if ends_at_zero:  # where there is only noise, a prediction of the noise says nothing
        warn(
            f"{where} states zero terminal SNR (ztsnr) without v-prediction (v_pred), which is ignored; if it is a "
            "model of v-prediction, add an empty tensor v_pred to the file"
        )
    return ("epsilon", False) if "epsilon" in words else None


def edm(shapes: Shapes) -> str | None:
    """The prediction type of a UNet on EDM's noise levels, by ComfyUI's keys: `edm` (Playground v2.5) or `v_prediction`
    (CosXL); None for the noise levels of SDXL.
    """
    if {"edm_mean", "edm_std"} <= shapes.keys():
        return "edm"
    return "v_prediction" if "edm_vpred.sigma_max" in shapes else None


EDM_KEYS = frozenset(("edm_mean", "edm_std", "edm_vpred.sigma_min", "edm_vpred.sigma_max"))


def has_unet_and_text(shapes: Shapes) -> bool:
    """Whether a file has SDXL's UNet and text encoders in the single-file layout, with or without more."""
    return all(_has(shapes, prefix) for prefix in (UNET_PREFIX + "label_emb.", "conditioner."))


def foreign(shapes: Shapes) -> str | None:
    """The name of another model or an adapter that a file holds; None if it may be (part of) an SDXL model."""
    return None if has_unet_and_text(shapes) else _other_model(shapes)


_CONTROL = ("control_model.", "controlnet_", "zero_convs.", "input_hint_block.", "lora_controlnet", "lllite_")


def _other_model(shapes: Shapes) -> str | None:
    keys = list(shapes)
    if any("to_k_ip." in key for key in keys):
        return "an IP-Adapter"
    if any(".lora_" in key or "lora_down" in key or key.startswith(("lora_unet_", "lora_te")) for key in keys):
        return "a LoRA"
    if any(".hada_w1_" in key or ".lokr_w" in key for key in keys):
        return "a LyCORIS adapter"
    if any(_has(shapes, start) for start in _CONTROL):
        return "a ControlNet"
    if "adapter.conv_in.weight" in shapes or "body.0.block1.weight" in shapes:
        return "a T2I-Adapter"
    if found := family_of(keys):
        return found[0]
    if _has(shapes, "cond_stage_model.transformer."):
        return SD1
    if _has(shapes, "cond_stage_model.model."):
        return SD2
    context = [k for k in keys if k.endswith("attn2.to_k.weight")]
    if context and not any("label_emb" in key or "add_embedding" in key for key in keys):
        return CONTEXTS.get(math.prod(shapes[context[0]][1:]), "a UNet without SDXL's vector")
    return None


def lacking(shapes: Shapes) -> list[str]:
    """The names of the other components that a file with a single-file UNet lacks."""
    return [
        name for name, prefix in (("text encoder", "conditioner."), ("VAE", VAE_PREFIX)) if not _has(shapes, prefix)
    ]


def contents(shapes: Shapes) -> tuple[str, str]:
    """The contents of a file (`whole`, `unet`, `vae` or `unknown`) and the layout of its keys: `single` (as in a single
    file) or `folder` (as in a component's folder).
    """
    if "model.diffusion_model.input_blocks.0.0.weight" in shapes:
        return ("unet" if lacking(shapes) else "whole"), "single"
    if "input_blocks.0.0.weight" in shapes:
        return "unet", "single"
    if "first_stage_model.decoder.conv_in.weight" in shapes or "decoder.mid.block_1.conv1.weight" in shapes:
        return "vae", "single"
    if "add_embedding.linear_1.weight" in shapes and "down_blocks.0.resnets.0.conv1.weight" in shapes:
        return "unet", "folder"
    if "decoder.mid_block.resnets.0.conv1.weight" in shapes:
        return "vae", "folder"
    return "unknown", ""


def single_prefix(shapes: Shapes, component: str) -> str:
    """The prefix of the keys in a single-file component: as in a complete file, or none."""
    prefix = UNET_PREFIX if component == "unet" else VAE_PREFIX
    return prefix if _has(shapes, prefix) else ""
