"""The passes of ComfyUI's graph behind the first: the refiner's part of the steps, or a second one at a larger size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .comfyui_hires import enlarging_nodes, read_hires
from .comfyui_passes import Pass, Reading
from .fields import file_name, tidy
from .graph import Node, chain, origin


def read_later(reading: Reading, passes: list[Pass], own: Pass, request: Mapping[str, Any]) -> dict[str, Any]:
    """A pass behind the first: the refiner's part of the steps, or a second one at a larger size."""
    before, node = passes[passes.index(own) - 1], own.sampler
    enlarging = enlarging_nodes(own)
    start = reading.number(node, "start_at_step") if node.kind == "KSamplerAdvanced" else None
    if start and not enlarging and "refiner" not in reading.model:
        return _refiner(reading, before.sampler, node, start)
    if enlarging and "hires" not in request:
        return {"hires": read_hires(reading, own, enlarging, request)}
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
