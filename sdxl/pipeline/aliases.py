"""Names that diffusers, AUTOMATIC1111 and ComfyUI have for our arguments, for hints in error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_OURS = {
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "clip_stop_at_last_layers": "clip_skip",
    "crops_coords_top_left": "crop_top_left",
    "denoise": "strength",
    "denoising_end": "refine_at",
    "denoising_start": "refine_at",
    "denoising_strength": "strength",
    "generator": "seed",
    "init_image": "image",
    "mask_blur": "feather",
    "mask_image": "mask",
    "negative": "negative_prompt",
    "num_images_per_prompt": "num_images",
    "num_inference_steps": "steps",
    "output_type": "output",
    "padding_mask_crop": "mask_padding",
    "refiner_switch_at": "refine_at",
    "sampler_name": "sampler",
    "scheduler": "sampler",
    "torch_dtype": "dtype",
}


def guess(name: str, known: Iterable[str]) -> str | None:
    """Our name for an unknown argument, if it can be guessed."""
    known = list(known)
    if (ours := _OURS.get(name)) in known:
        return ours
    return next(iter(get_close_matches(name, known, n=1)), None)


def advice(name: str, known: Iterable[str]) -> str:
    """What an unknown argument is called here, if that can be guessed; else which ones there are."""
    known = sorted(known)
    ours = guess(name, known)
    return f"perhaps {ours} is meant" if ours else f"there are {', '.join(known)}"
