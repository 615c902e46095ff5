"""Names that diffusers, AUTOMATIC1111 and ComfyUI have for our arguments, for hints in error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from .diffusers_names import CALL, LOAD

_OURS = {
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "clip_stop_at_last_layers": "clip_skip",
    "denoise": "strength",
    "denoising_end": "refine_at",
    "denoising_start": "refine_at",
    "denoising_strength": "strength",
    "enable_hr": "hires",
    "generator": "seed",
    "hires_fix": "hires",
    "hr_scale": "hires",
    "hr_upscaler": "hires",
    "init_image": "image",
    "mask_blur": "feather",
    "negative": "negative_prompt",
    "refiner_switch_at": "refine_at",
    "sampler_name": "sampler",
    "scheduler": "sampler",
    "subseed": "variation_seed",
    "subseed_strength": "variation_strength",
} | {name: foreign.ours for table in (CALL, LOAD) for name, foreign in table.items() if foreign.ours}
_LIKENESS = 0.75  # below that a guess leads astray more often than not


def guess(name: str, known: Iterable[str]) -> str | None:
    """Our name for an unknown argument, if it can be guessed."""
    known = list(known)
    if (ours := _OURS.get(name)) in known:
        return ours
    if name in CALL or name in LOAD:
        return None
    return next(iter(get_close_matches(name, known, n=1, cutoff=_LIKENESS)), None)


def advice(name: str, known: Iterable[str]) -> str:
    """What an unknown argument is called here, if that can be guessed, or does not exist here; else which ones there
    are.
    """
    known = sorted(known)
    if ours := guess(name, known):
        return f"perhaps {ours} is meant"
    sentence = CALL[name].sentence if name in CALL else ""
    return sentence or f"there are {', '.join(known)}"
