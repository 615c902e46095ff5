"""Which models an adapter file is for, and what else a file is that was given as one. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..weights.families import CONTEXTS, SD1, early_attention, family_of
from ..weights.identify import Shapes

_MARKS = (  # of what is no adapter of weights
    (r"lora_controlnet|input_hint_block\.|control_model\..*", "a Control-LoRA or ControlNet"),
    (r"(control_add_embedding|controlnet_cond_embedding|controlnet_down_blocks)\..*", "a ControlNet"),
    (r"lllite_unet_.*", "a ControlNet-LLLite"),
    (r"(image_proj|ip_adapter)\..*|.*to_[kv]_ip\..*", "an IP-Adapter"),
    (r"clip_[lg]|text_encoders_[01]|emb_params|string_to_param\..*", "a textual inversion embedding"),
    (r"(model\.diffusion_model|conditioner|first_stage_model)\..*", "a whole model"),
)
_PATTERNS = [(re.compile(pattern), name) for pattern, name in _MARKS]
_CONTEXTS = CONTEXTS | {1280: "the SDXL refiner", 2048: "SDXL base"}
WIDTHS = {width: f"a LoRA of {name}" for width, name in _CONTEXTS.items()}
_CONTEXT = re.compile(
    r".*attn2[._]to_[kv]([._].*)?\.(lora_down\.weight|lora_A\..*weight|lora\.down\.weight|hada_w1_b)|.*attn2.*to_[kv]_lora\.down\.weight"
)


def context_widths(shapes: Shapes) -> set[int]:
    """The widths of the context that the cross-attentions of an adapter take."""
    return {shape[1] for key, shape in shapes.items() if len(shape) >= 2 and _CONTEXT.fullmatch(key)}


def foreign(shapes: Shapes) -> tuple[str, str] | None:
    """What a file is that is no LoRA of SDXL, and the key that shows it; None where no key does."""
    for pattern, name in _PATTERNS:
        if key := next(filter(pattern.fullmatch, shapes), None):
            return name, f"it has {key}"
    if found := family_of(shapes):
        return f"a LoRA of {found[0]}", f"it has {found[1]}"
    early = early_attention(shapes)
    return None if early is None else (f"a LoRA of {SD1} or 2.x", f"it has {early}")


def context_family(shapes: Shapes, host: Shapes) -> tuple[str, str] | None:
    """The family of a LoRA whose cross-attentions take another context than the host's; None if they do not."""
    own = {shape[1] for name, shape in host.items() if name.endswith("cross_attn.k.weight")}
    widths = context_widths(shapes) - own
    if not widths:
        return None
    width = min(widths)
    name = WIDTHS.get(width, "a LoRA of another model")
    return name, f"its cross-attentions take a context of width {width}, the model's one of {min(own, default=0)}"


def stated(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """The family that the header of the file states, which merging tools often get wrong."""
    for name in ("modelspec.architecture", "ss_base_model_version"):
        if value := metadata.get(name):
            short = value[:100]
            kind = "SDXL" if "xl" in value.lower() else short.removesuffix("/lora")
            return f"a LoRA of {kind}", f"its header says {name} = {short}"
    return None
