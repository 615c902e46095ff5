"""A pipeline in a few lines, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .loading import Loader
from .residency import Residency


def overview(name: str, residency: Residency, source: Mapping[str, Any]) -> str:
    """The model, its components, and how it is kept in memory."""
    model, loader = residency.model, residency.loader
    at = model.placement
    kinds = [expert.info.config.kind for expert in model.experts]
    names = [str(source[each]) for each in ("model", "refiner") if each in source] or ["networks in memory"]
    dtype = str(at.dtype).removeprefix("torch.")
    computed = "" if at.arithmetic is at.dtype else f", computed in {str(at.arithmetic).removeprefix('torch.')}"
    lines = {
        "model": " and ".join(names),
        "kind": " and ".join(kinds),
        "components": _components(loader) if loader else ", ".join(["unet", "vae", *model.experts[0].info.encoders]),
        "dtype": dtype + computed + (", UNet in 8 bits" if at.int8 else ", blocks in float8" if at.fp8 else ""),
        "device": str(at.device),
        "offload": model.offload + (" (auto)" if residency.may_shrink else ""),
        "memory": _memory(loader, model.offload) if loader else "that of the networks",
    }
    if loader is not None and loader.trainable:
        lines["trainable"] = "yes"
    if model.is_compiled:
        lines["compiled"] = "yes"
    elif model.graphs is not None:
        lines["steps"] = "run layer by layer" if model.graphs.stopped else "recorded as CUDA graphs"
    return "\n".join([f"{name}(", *(f"  {label}: {text}" for label, text in lines.items()), ")"])


def _components(loader: Loader) -> str:
    """Each component with the number of its parameters, a refiner's behind `refiner.`."""
    parts = []
    for number, checkpoint in enumerate(loader.checkpoints):
        for name, component in checkpoint.components.items():
            count = sum(math.prod(shape) for shape in component.shapes()) / 1e6
            parts.append(f"{'refiner.' * number}{name} {count:,.1f}M")
    return ", ".join(parts)


def _memory(loader: Loader, offload: str) -> str:
    """What the weights take."""
    each, text = loader.bytes(), loader.text_bytes()
    if offload == "block":
        return "the weights of one layer at a time"
    if offload == "stage":
        return f"at most {_size(max(each))} of weights at a time, of {_size(sum(each))}"
    return f"{_size(sum(each) - (text if offload == 'text' else 0))} of weights"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
