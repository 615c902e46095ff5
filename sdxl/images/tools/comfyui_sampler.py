"""What a sampler of ComfyUI's graph says: its own values, and the prompts that lead to it."""

from __future__ import annotations

from typing import Any

from ...sampling.names import read_sampler, read_schedule
from .comfyui_passes import Reading
from .comfyui_reasons import reason_of
from .comfyui_text import Text, read_text
from .graph import Node, chain
from .stand_ins import REST


def read_sampling(reading: Reading, node: Node, is_first: bool) -> dict[str, Any]:
    """Steps, guidance, sampler, schedule and seed of a sampler."""
    fields, label = reading.fields, f"{node.kind} {node.id}"
    found: dict[str, Any] = {}
    for ours, name in (("steps", "steps"), ("guidance_scale", "cfg")):
        found[ours] = reading.number(node, name)
    fields.left[f"{label}: seed"] = reading.value(node, "noise_seed" if node.kind == "KSamplerAdvanced" else "seed")
    found["seed"] = fields.whole(f"{label}: seed")
    sampler, schedule = reading.value(node, "sampler_name"), reading.value(node, "scheduler")
    if isinstance(sampler, str):
        found["sampler"] = fields.convert(f"{label}: sampler_name", sampler, lambda name: read_sampler(name)[0])
        if sampler.endswith("_gpu") and found["sampler"] is not None:
            reading.compat["tree_noise"] = "philox"
    if isinstance(schedule, str):
        own = found.get("sampler")
        found["schedule"] = fields.convert(f"{label}: scheduler", schedule, lambda name: read_schedule(name, own))
    found |= _options(reading, node)
    if is_first and node.kind == "KSampler":
        denoise = reading.number(node, "denoise")
        if "image" in reading.sources:
            found["strength"] = denoise
        elif denoise not in (None, 1):
            fields.refuse(f"{label}: denoise", denoise, "without an image all noise levels are visited")
    elif is_first and reading.number(node, "start_at_step"):
        reading.refuse(node, "its first steps are left out", "start_at_step")
    return {name: value for name, value in found.items() if value is not None}


def _options(reading: Reading, node: Node) -> dict[str, Any]:
    """What a node says that stands for a custom sampler, or for one of a pack."""
    found: dict[str, Any] = {}
    if "timesteps" in node.inputs:
        found |= {"timesteps": node.inputs["timesteps"]}
    if (eta := reading.number(node, "eta")) is not None:
        found["eta"] = eta
    if (scale := reading.number(node, "s_noise")) not in (None, 1):
        found["sampler_options"] = {"s_noise": scale}
    if REST in node.inputs:
        reading.refuse(node, "they are not read", REST)
    return found


def read_prompt(reading: Reading, sampler: Node, side: str) -> Text:
    """The text on one side of a sampler."""
    for node, _ in chain(reading.graph, sampler.inputs.get(side), ("conditioning", "conditioning_1", side)):
        if node.kind == "ConditioningZeroOut":
            return Text(None)
        if node.kind == "InpaintModelConditioning":
            continue
        text = read_text(reading.graph, node)
        if text is not None:
            for each in text.others:
                reading.refuse(each, reason_of(each, "a text encoder"))
            for name, unread in text.unread.items():
                reading.fields.refuse(f"{node.kind} {node.id}: {name}", unread.value, unread.reason)
            return text
        reading.refuse(node, reason_of(node, "a prompt"))
    reading.fields.refuse(f"{sampler.kind} {sampler.id}: {side}", None, "its text is not known")
    return Text("" if side == "positive" else None)
