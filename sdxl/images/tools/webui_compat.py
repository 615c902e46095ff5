"""The conventions of AUTOMATIC1111 and Forge under which an image was made, as `Request.compat` has them in JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .fields import Fields

_PROFILE = "a1111"
_DISCARDING = ["dpm_2", "dpm_2_ancestral", "dpmpp_3m_sde"]  # samplers that always leave the last sigma but one out
_FORGE = {
    "timesteps": "nearest",
    "alphas": "exact",
    "known": "always",
}  # its UNet is called as ComfyUI's, also with a mask
_NEW_REFINER = (1, 8)  # the version from which the refiner's part is one of the noise schedule


def number_of(version: str) -> tuple[int, int] | None:
    """The first two numbers of AUTOMATIC1111's version, also in Forge's `f2.0.1v1.10.1`."""
    match = re.search(r"v(\d{1,4})\.(\d{1,4})", version) or re.match(r"(\d{1,4})\.(\d{1,4})", version)
    return (int(match[1]), int(match[2])) if match else None


def read_compat(fields: Fields, request: Mapping[str, Any], tool: str, version: str) -> str | dict[str, Any]:
    """The profile, with the members that the text changes."""
    changed: dict[str, Any] = {}
    source = fields.take("RNG")
    if source == "CPU":
        changed |= {"noise": "cpu", "tree_noise": "cpu"}
    elif source not in (None, "GPU", "NV", "cuda"):  # the last one is stable-diffusion.cpp's
        fields.left["RNG"] = source
    if delta := fields.whole("ENSD"):
        changed["ensd"] = delta
    if _is_on(fields, "SGM noise multiplier"):
        changed["start_scale"] = "root"
    if _is_on(fields, "Discard penultimate sigma") and "sampler" in request:
        changed["discard_penultimate"] = [*_DISCARDING, request["sampler"]]
    number = number_of(version)
    is_old = number is not None and number < _NEW_REFINER
    if (_is_on(fields, "Refiner switch by sampling steps") or is_old) and "refine_at" in request:
        changed["hand_off"] = "steps"
    if tool == "Forge":
        changed |= _FORGE | ({"hand_off": "steps"} if "refine_at" in request else {})
    if tool != "AUTOMATIC1111" and "clip_skip" in request:
        changed["clip_skip"] = "both"
    return {"profile": _PROFILE, **changed} if changed else _PROFILE


def _is_on(fields: Fields, name: str) -> bool:
    return fields.take(name) == "True"
