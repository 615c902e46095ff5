"""What a PNG records: all that is needed to make its picture again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from .device import Placement
from .image import fingerprint
from .plan import Plan
from .request import Request, spread
from .version import __version__

_SOURCES = ("image", "mask", "latents")  # recorded by their content


def describe(plan: Plan, source: Mapping[str, Any], at: Placement) -> list[dict[str, Any]]:
    """For each picture of a plan its arguments as they were given, with the model's defaults filled in. Pictures and
    latents that it was made from are named by their content; `source` says how the model was loaded.
    """
    request, count = plan.request, len(plan.seeds)
    common = {e.name: getattr(request, e.name) for e in fields(Request) if e.name not in _SOURCES}
    names = {"dtype": at.dtype, "arithmetic": at.arithmetic}
    model = {**source, **{name: str(value).removeprefix("torch.") for name, value in names.items()}}
    sources = {
        name: [fingerprint(each) for each in spread(getattr(request, name), count)]
        for name in _SOURCES
        if getattr(request, name) is not None
    }
    pictures = []
    for i, seed in enumerate(plan.seeds):
        own: dict[str, Any] = {"seed": seed, "num_images": 1}
        for name in ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2"):
            texts = request.texts(name)
            own[name] = None if texts is None else texts[i // request.num_images]
        own |= {name: hashes[i] for name, hashes in sources.items()}
        version = f"sdxl {__version__}"
        pictures.append({"version": version, "torch": torch.__version__, "model": model, "request": common | own})
    return pictures
