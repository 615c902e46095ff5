"""Samplers as other tools have them, where a name stands for another method there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from .sampler import Sampler
from .samplers import SAMPLERS


def _variant(name: str, options: Mapping[str, float | str] | None = None, **details: float) -> Sampler:
    own = SAMPLERS[name]
    return replace(own, run=partial(own.run, **details), options=own.options if options is None else options)


_LMS = _variant("lms", extrapolates_last=True)
VARIANTS: Mapping[str, Mapping[str, Sampler]] = {
    "diffusers": {
        "dpm_2_ancestral": _variant("dpm_2_ancestral", below=1e-12),
        "lms": _LMS,
        "tcd": _variant("tcd", {"eta": 0.0}),  # its pipelines' default, not that of the class
    },
    "sgm": {"lms": _LMS},
    "comfyui": {
        "uni_pc": _variant("uni_pc", {"order": 3}, end=0.001),
        "uni_pc_bh2": replace(
            _variant("uni_pc", {"order": 3}, end=0.001, bh2=True), diffusers=SAMPLERS["uni_pc_bh2"].diffusers
        ),
        "ddim": replace(SAMPLERS["ddim"], ends_at_zero=True),
    },
    "a1111": {
        **{name: _variant(name, draws_always=True) for name in ("euler", "heun", "dpm_2")},
        "euler_ancestral": _variant("euler_ancestral", draws_last=False),
        "lms": _LMS,
    },
}


def sampler_of(name: str, tool: str) -> Sampler:
    """The sampler that a name stands for in a tool (or `ours`)."""
    return VARIANTS.get(tool, {}).get(name) or SAMPLERS[name]


def takes_eta(name: str, tool: str) -> bool:
    """Whether the argument `eta` acts on a sampler in a tool."""
    return tool != "diffusers" or name in ("ddim", "tcd")
