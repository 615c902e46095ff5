"""What a PNG records: all that is needed to make its image again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from ..adapters.lora import read_loras
from ..runtime.placement import Placement
from ..version import __version__
from .plan import Plan
from .request import SOURCES, TEXTS, Request


def describe(plan: Plan, source: Mapping[str, Any], placement: Placement) -> list[dict[str, Any]]:
    """For each image of a plan its arguments as they were given, with the model's defaults filled in. Images and
    latents that it was made from are identified by hashes of their content; `source` says how the model was loaded.
    """
    request, count = plan.request, len(plan.seeds)
    common = {e.name: getattr(request, e.name) for e in fields(Request) if e.name not in SOURCES}
    common["loras"] = [lora.record() for lora in read_loras(request.loras or ())] or None
    names = {"dtype": placement.dtype, "arithmetic": placement.arithmetic}
    model = {**source, **{name: str(value).removeprefix("torch.") for name, value in names.items()}}
    if plan.embeddings:
        model["embeddings"] = [each.record() for each in plan.embeddings]
    hashes = plan.sources.fingerprints(count)
    images = []
    for i, seed in enumerate(plan.seeds):
        own: dict[str, Any] = {"seed": seed, "num_images": 1}
        for name in TEXTS:
            texts = request.texts(name)
            own[name] = None if texts is None else texts[i // request.num_images]
        own |= {name: each[i] for name, each in hashes.items()}
        version = f"sdxl {__version__}"
        images.append({"version": version, "torch": torch.__version__, "model": model, "request": common | own})
    return images
