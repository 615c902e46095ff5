"""Families of models other than SDXL, as the keys and widths of any file show them: a model's, a LoRA's, a
ControlNet's. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SD1, SD2 = "Stable Diffusion 1.x", "Stable Diffusion 2.x"
CONTEXTS = {768: SD1, 1024: SD2}
"""The families by the width of the context that their cross-attentions take."""

_MARKS = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        # cross_attn is also in our own names, behind a block of a transformer, as in attn.0.blocks.1.cross_attn
        (r"^(?!.*attn[._]\d).*blocks[._]\d+[._]cross_attn|transformer_blocks[._]\d+[._]img_mlp", "Wan or Qwen-Image"),
        (r"double_blocks?[._]|single_(transformer_)?blocks[._]|controlnet_x_embedder", "Flux"),
        (
            r"joint_blocks|^controlnet_blocks\.|^transformer\.transformer_blocks\.|^lora_unet_transformer_blocks_",
            "Stable Diffusion 3",
        ),
        (r"^lora_prior_", "Stable Cascade"),
        (r"^encoder_hid_proj\.", "Kolors"),
    )
)
_EARLY = re.compile(  # attention where SDXL has none
    r"down_blocks[._]0[._]attentions|down_blocks[._]3[._](?!downs).*attentions|up_blocks[._]3[._]attentions"
    r"|input_blocks[._][12][._]1[._]|output_blocks[._](9|10|11)[._]1[._]"
)


def family_of(keys: Iterable[str]) -> tuple[str, str] | None:
    """The family that keys show, and the key that shows it; None where none does."""
    keys = list(keys)
    for pattern, family in _MARKS:
        if key := next(filter(pattern.search, keys), None):
            return family, key
    return None


def early_attention(keys: Iterable[str]) -> str | None:
    """A key of an attention at the sides where Stable Diffusion 1.x and 2.x have some, and SDXL has none."""
    return next(filter(_EARLY.search, keys), None)
