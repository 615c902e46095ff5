"""What a PNG records: all that is needed to make its image again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from ..adapters.lora import read_loras
from ..runtime.device import device_name
from ..runtime.placement import Placement
from ..sampling.guiders import read_guider, record_guider
from ..version import __version__
from .argument_groups import SOURCES, TEXTS
from .hires import read_hires
from .noise import replay_rules
from .plan import Plan
from .profiles import record_compat
from .request import Request


def describe(plan: Plan, source: Mapping[str, Any], placement: Placement) -> list[dict[str, Any]]:
    """For each image of a plan its arguments as they were given, with the model's defaults filled in. Images and
    latents that it was made from are identified by hashes of their content; `source` says how the model was loaded.
    """
    request, count = plan.request, len(plan.seeds)
    common = {e.name: getattr(request, e.name) for e in fields(Request) if e.name not in (*SOURCES, "reference")}
    common["guider"] = None if request.guider is None else record_guider(read_guider(request.guider))
    common["compat"] = record_compat(request.compat)
    common["hires"] = None if request.hires is None else read_hires(request.hires).record()
    common["loras"] = [lora.record() for lora in read_loras(request.loras or ())] or None
    names = {"dtype": placement.dtype, "arithmetic": placement.arithmetic}
    model = {**source, **{name: str(value).removeprefix("torch.") for name, value in names.items()}}
    made = {"version": f"sdxl {__version__}", "torch": torch.__version__, "device": device_name(placement.device)}
    hashes = plan.sources.fingerprints(count)
    images: list[dict[str, Any]] = []
    for i, seed in enumerate(plan.seeds):
        words = plan.embeddings[i // request.num_images] if plan.embeddings else ()
        own: dict[str, Any] = {"seed": seed, "num_images": 1}
        own |= {"variation_seed": plan.variation_seeds[i]} if plan.variation_seeds else {}
        for name in TEXTS:
            texts = request.texts(name)
            own[name] = None if texts is None else texts[i // request.num_images]
        own |= {name: each[i] for name, each in hashes.items()} | replay_rules(plan, i)
        own["control"] = [each.record(i) for each in plan.controls] or None
        own["reference"] = [each.record(i) for each in plan.references] or None
        image: dict[str, Any] = {**made}
        image["model"] = model | ({"embeddings": [each.record() for each in words]} if words else {})
        image["request"] = common | own
        images.append(image | ({"lora_hashes": dict(plan.lora_hashes)} if plan.lora_hashes else {}))
    return images
