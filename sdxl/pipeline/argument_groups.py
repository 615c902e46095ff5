"""Groups of a request's arguments, by what they are."""

from __future__ import annotations

TEXTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
SEEDS = ("seed", "variation_seed")
SOURCES = ("image", "mask", "latents")
LEVELS = ("sigmas", "timesteps")
WITH_IMAGE = ("strength", "mask_padding", "feather", "outpaint")
