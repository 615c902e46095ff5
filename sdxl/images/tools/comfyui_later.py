"""The passes of ComfyUI's graph behind the first: the refiner's part of the steps, or a second one at a larger size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .comfyui_passes import Pass, Reading
from .comfyui_sampler import read_prompt, read_sampling
from .fields import file_name, tidy
from .graph import Node, chain, origin

_UPSCALERS = {"bilinear": "latent", "nearest-exact": "latent_nearest_exact", "bicubic": "latent_bicubic"}


def read_later(reading: Reading, passes: list[Pass], own: Pass, request: Mapping[str, Any]) -> dict[str, Any]:
    """A pass behind the first: the refiner's part of the steps, or a second one at a larger size."""
    before, node = passes[passes.index(own) - 1], own.sampler
    enlarging = [each for each in own.steps if each.kind in ("LatentUpscale", "LatentUpscaleBy", "ImageScaleBy")]
    enlarging += [each for each in own.steps if each.kind == "ImageScale"]
    start = reading.number(node, "start_at_step") if node.kind == "KSamplerAdvanced" else None
    if start and not enlarging and "refiner" not in reading.model:
        return _refiner(reading, before.sampler, node, start)
    if len(enlarging) == 1 and "hires" not in request:
        for each in own.steps:
            if each not in enlarging and each.kind not in ("VAEDecode", "VAEDecodeTiled", "VAEEncode"):
                reading.refuse(each, "nothing here does that between two passes")
        return {"hires": _hires(reading, own, enlarging[0], request)}
    reading.refuse(node, "a further pass is not generated")
    return {}


def _refiner(reading: Reading, base: Node, node: Node, start: float) -> dict[str, Any]:
    steps = reading.number(base, "steps") or 0
    names = [
        reading.value(found, "ckpt_name")
        for found, _ in chain(reading.graph, node.inputs.get("model"), ("model",))
        if found.kind == "CheckpointLoaderSimple"
    ]
    if not names or not isinstance(names[0], str) or names[0] == reading.model.get("model") or steps < 1:
        reading.refuse(node, "a further pass with the same model is not generated")
        return {}
    reading.model["refiner"] = file_name(names[0])
    # the base runs the first ceil(steps * refine_at) steps; a quotient may round up
    start = min(start, steps)
    part = start / steps if math.ceil(steps * (start / steps)) == start else (start - 0.5) / steps
    found: dict[str, Any] = {"refine_at": tidy(part)}
    for side, ours in (("positive", "aesthetic_score"), ("negative", "negative_aesthetic_score")):
        encoder = origin(reading.graph, node.inputs.get(side))
        if encoder is not None and (score := reading.number(encoder[0], "ascore")) is not None:
            found[ours] = score
    return found


def _hires(reading: Reading, own: Pass, enlarging: Node, request: Mapping[str, Any]) -> dict[str, Any]:
    method = reading.value(enlarging, "upscale_method")
    hires: dict[str, Any] = {}
    if enlarging.kind.endswith("By"):
        hires["scale"] = reading.number(enlarging, "scale_by")
    else:
        hires["size"] = [reading.number(enlarging, "height"), reading.number(enlarging, "width")]
    if enlarging.kind.startswith("Latent") and isinstance(method, str) and method in _UPSCALERS:
        hires["upscaler"] = _UPSCALERS[method]
    elif enlarging.kind.startswith("Image") and method == "lanczos":
        hires["upscaler"] = "lanczos"
    else:
        hires["upscaler"] = "latent" if enlarging.kind.startswith("Latent") else "lanczos"
        reading.refuse(enlarging, f"images are not enlarged that way; {hires['upscaler']} takes its place")
    second = read_sampling(reading, own.sampler, is_first=False)
    hires["steps"], hires["strength"] = second.get("steps"), reading.number(own.sampler, "denoise")
    hires |= {
        name: second[name] for name in ("sampler", "schedule") if second.get(name) not in (None, request.get(name))
    }
    for name in ("seed", "guidance_scale"):
        if second.get(name) != request.get(name):
            label = f"{own.sampler.kind} {own.sampler.id}: {name}"
            reading.fields.refuse(label, second.get(name), f"both passes have the same {name}")
    text = read_prompt(reading, own.sampler, "positive").prompt
    if text is not None and text != request.get("prompt"):
        hires["prompt"] = text
    return {name: value for name, value in hires.items() if value is not None}
