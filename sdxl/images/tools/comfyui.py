"""Reads a plain graph of ComfyUI: text to image, image to image or inpainting by its own nodes, with a second pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..parameters import Origin, Parameters
from .comfyui_families import leave_out
from .comfyui_latents import read_latents
from .comfyui_later import read_later
from .comfyui_passes import Reading, last_sampler, passes_before
from .comfyui_reasons import reason_of
from .comfyui_sampler import read_prompt, read_sampling
from .fields import Fields, file_name
from .graph import Node, chain, origin
from .graph_text import parse_graph

_EMBEDDING = re.compile(r"(?<!\S)embedding:([^\s,()]+)")


def read_graph(text: str) -> Parameters:
    """The parameters in a graph. Raises `ValueError` if it has none that can be read."""
    graph = parse_graph(text)
    reading = Reading(graph, Fields({}))
    decoder, last = last_sampler(reading)
    passes = list(passes_before(reading, last))[::-1]
    request: dict[str, Any] = {}
    first = passes[0]
    request |= read_latents(reading, first)
    request |= read_sampling(reading, first.sampler, is_first=True)
    loras = _model(reading, first.sampler, decoder)
    request |= _prompts(reading, first.sampler, request, loras)
    for each in passes[1:]:
        request |= read_later(reading, passes, each, request)
    listed = [each for each in loras.values() if each["weight"] or each.get("text_weight", each["weight"])]
    if listed:
        request["loras"] = listed
    leave_out(reading, [each.sampler for each in passes], request)
    compat = {"profile": "comfyui", **reading.compat} if reading.compat else "comfyui"
    request |= {"prompt_syntax": "comfyui", "compat": compat, "preset": "none"}
    if embeddings := _embeddings(request):
        reading.model["embeddings"] = embeddings
    record = {"version": "ComfyUI", "model": reading.model, "request": request}
    return Parameters(record, Origin("ComfyUI", reading.fields.unmapped, reading.sources))


def _model(reading: Reading, sampler: Node, decoder: Node | None) -> dict[str, dict[str, Any]]:
    """The files of the model; and the LoRAs on the way to it by their nodes, the first one first."""
    loras: dict[str, dict[str, Any]] = {}
    for node, _ in chain(reading.graph, sampler.inputs.get("model"), ("model",)):
        if node.kind in ("LoraLoader", "LoraLoaderModelOnly"):
            loras[node.id] = _lora(reading, node)
        elif node.kind in ("CheckpointLoaderSimple", "CheckpointLoader"):
            _file(reading, node, "ckpt_name", "model")
        elif node.kind == "UNETLoader":
            _file(reading, node, "unet_name", "unet")
        elif node.kind == "RescaleCFG":
            reading.model["guidance_rescale"] = reading.number(node, "multiplier")
        elif node.kind == "DifferentialDiffusion":
            reading.compat["grey"] = "timesteps"
        elif node.kind == "ModelSamplingDiscrete" and reading.value(node, "sampling") in ("eps", "v_prediction"):
            reading.refuse(node, "whether the model predicts noise or v is what its file says")
        else:
            reading.refuse(node, reason_of(node, "a model"))
    found = None if decoder is None else origin(reading.graph, decoder.inputs.get("vae"))
    if found is not None and found[0].kind == "VAELoader":
        _file(reading, found[0], "vae_name", "vae")
    elif found is not None and found[0].kind not in ("CheckpointLoaderSimple", "CheckpointLoader"):
        reading.refuse(found[0], "nothing here does that with a VAE")
    return dict(reversed(loras.items()))


def _file(reading: Reading, node: Node, name: str, part: str) -> None:
    value = reading.value(node, name)
    if isinstance(value, str) and value:
        reading.model[part] = file_name(value)


def _lora(reading: Reading, node: Node) -> dict[str, Any]:
    """The LoRA of a node, as it acts on the UNet; the way of the text encoders adds its other weight."""
    name = reading.value(node, "lora_name")
    file = file_name(name) if isinstance(name, str) and name else f"node {node.id}"
    weight = reading.number(node, "strength_model")
    return {"file": file, "weight": 1 if weight is None else weight, "text_weight": 0}


def _prompts(
    reading: Reading, sampler: Node, request: Mapping[str, Any], loras: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The prompts, the sizes that they state, and the text encoders' layer."""
    size = request.get("height"), request.get("width")
    rescale = reading.model.pop("guidance_rescale", None)
    found: dict[str, Any] = {} if rescale is None else {"guidance_rescale": rescale}
    positive = read_prompt(reading, sampler, "positive")
    negative = read_prompt(reading, sampler, "negative")
    found["prompt"] = positive.prompt or ""
    found |= {"prompt_2": positive.prompt_2} if positive.prompt_2 is not None else {}
    if negative.prompt is not None:
        found["negative_prompt"] = negative.prompt
        found |= {"negative_prompt_2": negative.prompt_2} if negative.prompt_2 is not None else {}
    if positive.sizes:
        found |= positive.sizes
        own = {"original_size": size, "crop_top_left": (0, 0), "target_size": size} if all(size) else {}
        sizes = negative.sizes or (own if negative.prompt is not None else {})
        found |= {f"negative_{name}": list(value) for name, value in sizes.items() if list(value) != found.get(name)}
    for name, weight in positive.loras.items():
        loras[name] = {**loras.get(name, {**_lora(reading, reading.graph[name]), "weight": 0}), "text_weight": weight}
    for each in loras.values():
        if each["text_weight"] == each["weight"]:
            del each["text_weight"]
    if positive.layer is not None and positive.layer != -2:
        if positive.layer < -2:
            found["clip_skip"] = -positive.layer - 2
        else:
            reading.fields.refuse(
                "stop_at_clip_layer", positive.layer, "the last layer but one is the last that SDXL has"
            )
    if negative.prompt is not None and (negative.layer, negative.loras) != (positive.layer, positive.loras):
        reading.fields.refuse("clip of the negative prompt", negative.layer, "both prompts have the same text encoders")
    return found


def _embeddings(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    texts = " ".join(
        str(request.get(name, "")) for name in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
    )
    names = dict.fromkeys(_EMBEDDING.findall(texts))
    return [{"file": name, "word": name.removesuffix(".safetensors").removesuffix(".pt")} for name in names]
