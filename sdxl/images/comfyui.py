"""Reads a plain graph of ComfyUI: text to image, image to image or inpainting by its own nodes, with a second pass."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArgumentError
from ..sampling.names import read_sampler, read_schedule
from .comfyui_text import Text, read_text
from .fields import Fields, tidy
from .graph import Graph, Link, Node, literal, origin, parse_graph
from .parameters import Origin, Parameters

_SAMPLERS = ("KSampler", "KSamplerAdvanced")
_SINKS = ("SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveImageWebsocket")
_MOST_SAMPLERS = 20  # that are looked at; a plain graph has two or three
_UPSCALERS = {"bilinear": "latent", "nearest-exact": "latent_nearest_exact", "bicubic": "latent_bicubic"}
_EMBEDDING = re.compile(r"(?<!\S)embedding:([^\s,()]+)")


@dataclass
class Pass:
    """A sampler's node, and what its latents went through since the one before it, or since their source."""

    sampler: Node
    steps: list[Node] = field(default_factory=list)
    source: Node | None = None


@dataclass
class Reading:
    """A graph, and what is known of it so far."""

    graph: Graph
    fields: Fields
    model: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str | None] = field(default_factory=dict)
    compat: dict[str, Any] = field(default_factory=dict)

    def value(self, node: Node, name: str) -> Any:
        """A value of a node."""
        return literal(self.graph, node.inputs.get(name))

    def number(self, node: Node, name: str) -> float | None:
        """A number of a node; another value stays unmapped."""
        label = f"{node.kind} {node.id}: {name}"
        self.fields.left[label] = self.value(node, name)
        found = self.fields.number(label)
        return None if found is None else tidy(found)

    def refuse(self, node: Node, reason: str, name: str | None = None) -> None:
        """Note that a node, or a value of it, has no counterpart."""
        label = f"{node.kind} {node.id}" + (f": {name}" if name else "")
        value = {key: each for key, each in node.inputs.items() if not isinstance(each, Link)}
        self.fields.refuse(label, value if name is None else self.value(node, name), reason)


def read_graph(text: str) -> Parameters:
    """The parameters in a graph. Raises `ValueError` if it has none that can be read."""
    graph = parse_graph(text)
    reading = Reading(graph, Fields({}))
    decoder, last = _last_sampler(reading)
    passes = list(_passes(reading, last))[::-1]
    request: dict[str, Any] = {}
    first = passes[0]
    if first.source is not None:
        request |= _latents(reading, first)
    request |= _sampler(reading, first.sampler, is_first=True)
    loras = _model(reading, first.sampler, decoder)
    request |= _prompts(reading, first.sampler, request, loras)
    for each in passes[1:]:
        request |= _later(reading, passes, each, request)
    listed = [each for each in loras.values() if each["weight"] or each.get("text_weight", each["weight"])]
    if listed:
        request["loras"] = listed
    compat = {"profile": "comfyui", **reading.compat} if reading.compat else "comfyui"
    request |= {"prompt_syntax": "comfyui", "compat": compat, "preset": "none"}
    if embeddings := _embeddings(request):
        reading.model["embeddings"] = embeddings
    record = {"version": "ComfyUI", "model": reading.model, "request": request}
    return Parameters(record, Origin("ComfyUI", reading.fields.unmapped, reading.sources))


# ---- which nodes


def _last_sampler(reading: Reading) -> tuple[Node | None, Node]:
    """The sampler of the image that is saved, and the node that decodes it. Of several the one behind most others."""
    graph = reading.graph
    sinks = [node for kind in _SINKS for node in graph.values() if node.kind == kind] or [
        Node("", "", {"images": Link(node.id, 0)}) for node in graph.values() if node.kind.startswith("VAEDecode")
    ]
    found: dict[str, tuple[Node | None, Node]] = {}
    for sink in sinks[:_MOST_SAMPLERS]:
        decoder = _decoder(reading, sink)
        sampler = decoder and _sampler_before(reading, decoder.inputs.get("samples"))
        if sampler:
            found[sampler.id] = decoder, sampler
    if not found:
        found = {node.id: (None, node) for node in graph.values() if node.kind in _SAMPLERS}
        found = dict(list(found.items())[:_MOST_SAMPLERS])
    if not found:
        kinds = sorted({node.kind for node in graph.values() if "ampler" in node.kind}) or ["none"]
        raise ValueError(
            f"ComfyUI's graph has no KSampler that leads to an image; its samplers are {', '.join(kinds[:5])}"
        )
    lengths = {name: sum(1 for _ in _passes(reading, each[1], is_quiet=True)) for name, each in found.items()}
    best = max(found, key=lambda name: lengths[name])
    if len(found) > 1:
        others = ", ".join(name for name in found if name != best)
        reading.fields.refuse("other samplers", others, f"the graph saves several images; that of node {best} is read")
    return found[best]


def _decoder(reading: Reading, sink: Node) -> Node | None:
    """The node that decodes what a sink saves, before what is done with the pixels."""
    value = sink.inputs.get("images", sink.inputs.get("image"))
    for node, _ in _chain(reading, value, ("image", "images", "pixels")):
        if node.kind in ("VAEDecode", "VAEDecodeTiled"):
            return node
        reading.refuse(node, "the pixels are saved as they are decoded")
    return None


def _chain(reading: Reading, value: Any, names: tuple[str, ...]) -> Iterator[tuple[Node, int]]:
    """The nodes from a link backwards, along the inputs of these names. Each is met once, also in a graph with a
    cycle.
    """
    seen: set[str] = set()
    while (found := origin(reading.graph, value)) is not None and found[0].id not in seen:
        node = found[0]
        seen.add(node.id)
        yield found
        value = next((node.inputs[name] for name in names if isinstance(node.inputs.get(name), Link)), None)


def _sampler_before(reading: Reading, value: Any) -> Node | None:
    nodes = (node for node, _ in _chain(reading, value, ("samples", "latent_image", "latent")))
    return next((node for node in nodes if node.kind in _SAMPLERS), None)


def _passes(reading: Reading, last: Node, is_quiet: bool = False) -> Iterator[Pass]:
    """The samplers from the last to the first."""
    sampler: Node | None = last
    seen: set[str] = set()
    while sampler is not None and sampler.id not in seen:
        seen.add(sampler.id)
        own = Pass(sampler)
        names = ("samples", "latent_image", "latent", "pixels", "image", "images")
        sampler = None
        for node, slot in _chain(reading, own.sampler.inputs.get("latent_image"), names):
            if node.kind in _SAMPLERS:
                sampler = node
                break
            is_source = node.kind in ("EmptyLatentImage", "LoadImage", "LoadLatent")
            if is_source or (node.kind == "InpaintModelConditioning" and slot == 2):
                own.source = node
                if node.kind != "InpaintModelConditioning":
                    break
            own.steps.append(node)
        if not is_quiet and sampler is None and own.source is None:
            reading.refuse(own.sampler, "where its latents come from is not known", "latent_image")
        yield own


# ---- what they say


def _sampler(reading: Reading, node: Node, is_first: bool) -> dict[str, Any]:
    """Steps, guidance, sampler, schedule and seed of a sampler."""
    fields, label = reading.fields, f"{node.kind} {node.id}"
    found: dict[str, Any] = {}
    for ours, name in (("steps", "steps"), ("guidance_scale", "cfg")):
        found[ours] = reading.number(node, name)
    fields.left[f"{label}: seed"] = reading.value(node, "noise_seed" if node.kind == "KSamplerAdvanced" else "seed")
    found["seed"] = fields.whole(f"{label}: seed")
    sampler, schedule = reading.value(node, "sampler_name"), reading.value(node, "scheduler")
    try:
        found["sampler"] = read_sampler(sampler)[0] if isinstance(sampler, str) else None
    except ArgumentError as error:
        fields.refuse(f"{label}: sampler_name", sampler, str(error))
    try:
        found["schedule"] = read_schedule(schedule, found.get("sampler")) if isinstance(schedule, str) else None
    except ArgumentError as error:
        fields.refuse(f"{label}: scheduler", schedule, str(error))
    if is_first and node.kind == "KSampler":
        denoise = reading.number(node, "denoise")
        if "image" in reading.sources:
            found["strength"] = denoise
        elif denoise not in (None, 1):
            fields.refuse(f"{label}: denoise", denoise, "without an image all noise levels are visited")
    elif is_first and reading.number(node, "start_at_step"):
        reading.refuse(node, "its first steps are left out", "start_at_step")
    return {name: value for name, value in found.items() if value is not None}


def _latents(reading: Reading, own: Pass) -> dict[str, Any]:
    """The size and the number of images, or what an image to image was made from."""
    found: dict[str, Any] = {}
    assert own.source is not None
    if own.source.kind == "EmptyLatentImage":
        for ours, name in (("width", "width"), ("height", "height"), ("num_images", "batch_size")):
            value = reading.number(own.source, name)
            if value is not None and (ours, value) != ("num_images", 1):
                found[ours] = value
    else:
        found |= _image(reading, own)
    for node in own.steps:
        if node.kind == "RepeatLatentBatch":
            found["num_images"] = (found.get("num_images") or 1) * (reading.number(node, "amount") or 1)
        elif node.kind == "LatentFromBatch":
            found["num_images"] = _part_of_batch(reading, node, found.get("num_images") or 1)
        elif node.kind == "SetLatentNoiseMask":
            _mask(reading, node)
        elif node.kind in ("VAEEncodeForInpaint", "InpaintModelConditioning"):
            _mask(reading, node)
            if node.kind == "VAEEncodeForInpaint":
                reading.compat |= {"hole": "grey", "grow_mask": reading.number(node, "grow_mask_by") or 0}
            elif reading.value(node, "noise_mask") is False:
                reading.compat["known_9"] = False
        elif node.kind not in ("EmptyLatentImage", "LoadImage", "VAEEncode", "VAEEncodeTiled", "ImageScale"):
            reading.refuse(node, "nothing here does that with an image or its latents")
    return {name: value for name, value in found.items() if (name, value) != ("num_images", 1)}


def _part_of_batch(reading: Reading, node: Node, size: float) -> float:
    """How many images a node leaves of a batch of that size."""
    start, count = reading.number(node, "batch_index") or 0, reading.number(node, "length") or 1
    if start and count == 1 and start < size and "image" not in reading.sources:
        reading.compat["batch"] = [start, size, 1]
    elif start:
        reading.refuse(node, "the noise of the images before it in the batch is not drawn", "batch_index")
    return count


def _image(reading: Reading, own: Pass) -> dict[str, Any]:
    """The image that the latents are made from."""
    nodes = [*own.steps]
    if own.source is not None and own.source not in nodes:
        nodes.append(own.source)
    loader = next((node for node in nodes if node.kind == "LoadImage"), None)
    name = None if loader is None else reading.value(loader, "image")
    reading.sources["image"] = name if isinstance(name, str) else None
    scale = next((node for node in nodes if node.kind == "ImageScale"), None)
    if scale is None:
        return {}
    if reading.value(scale, "upscale_method") != "lanczos":
        reading.refuse(scale, "images are resized with lanczos", "upscale_method")
    return {name: value for name in ("width", "height") if (value := reading.number(scale, name)) is not None}


def _mask(reading: Reading, node: Node) -> None:
    """What the mask of a node was loaded from."""
    found = origin(reading.graph, node.inputs.get("mask"))
    name = None if found is None else reading.value(found[0], "image")
    reading.sources.setdefault("image", None)
    reading.sources["mask"] = name if isinstance(name, str) else None
    if found is not None and found[0].kind == "LoadImage":
        reading.refuse(found[0], "the mask is its alpha: give a mask that is white where it is transparent", "image")
    elif found is not None and found[0].kind != "LoadImageMask":
        reading.refuse(found[0], "the mask was made by the graph: give it as an image")


def _model(reading: Reading, sampler: Node, decoder: Node | None) -> dict[str, dict[str, Any]]:
    """The files of the model; and the LoRAs on the way to it by their nodes, the first one first."""
    loras: dict[str, dict[str, Any]] = {}
    for node, _ in _chain(reading, sampler.inputs.get("model"), ("model",)):
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
            reading.refuse(node, "nothing here does that with a model")
    found = None if decoder is None else origin(reading.graph, decoder.inputs.get("vae"))
    if found is not None and found[0].kind == "VAELoader":
        _file(reading, found[0], "vae_name", "vae")
    elif found is not None and found[0].kind not in ("CheckpointLoaderSimple", "CheckpointLoader"):
        reading.refuse(found[0], "nothing here does that with a VAE")
    return dict(reversed(loras.items()))


def _file(reading: Reading, node: Node, name: str, part: str) -> None:
    value = reading.value(node, name)
    if isinstance(value, str) and value:
        reading.model[part] = value.replace("\\", "/").rpartition("/")[2]


def _lora(reading: Reading, node: Node) -> dict[str, Any]:
    """The LoRA of a node, as it acts on the UNet; the way of the text encoders adds its other weight."""
    name = reading.value(node, "lora_name")
    file = name.replace("\\", "/").rpartition("/")[2] if isinstance(name, str) and name else f"node {node.id}"
    weight = reading.number(node, "strength_model")
    return {"file": file, "weight": 1 if weight is None else weight, "text_weight": 0}


def _prompts(
    reading: Reading, sampler: Node, request: Mapping[str, Any], loras: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The prompts, the sizes that they state, and the text encoders' layer."""
    size = request.get("height"), request.get("width")
    rescale = reading.model.pop("guidance_rescale", None)
    found: dict[str, Any] = {} if rescale is None else {"guidance_rescale": rescale}
    positive = _text(reading, sampler, "positive")
    negative = _text(reading, sampler, "negative")
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
        loras[name] = {**loras.get(name, {"weight": 0, **_named(reading, name)}), "text_weight": weight}
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


def _named(reading: Reading, id: str) -> dict[str, Any]:
    return {"file": _lora(reading, reading.graph[id])["file"]}


def _text(reading: Reading, sampler: Node, side: str) -> Text:
    """The text on one side of a sampler."""
    for node, slot in _chain(reading, sampler.inputs.get(side), ("conditioning", "conditioning_1", side)):
        if node.kind == "ConditioningZeroOut":
            return Text(None)
        if node.kind == "InpaintModelConditioning":
            continue
        text = read_text(reading.graph, node)
        if text is not None:
            for each in text.others:
                reading.refuse(each, "nothing here does that with a text encoder")
            return text
        reading.refuse(node, f"nothing here does that with a prompt (slot {slot})")
    reading.fields.refuse(f"{sampler.kind} {sampler.id}: {side}", None, "its text is not known")
    return Text("" if side == "positive" else None)


def _later(reading: Reading, passes: list[Pass], own: Pass, request: Mapping[str, Any]) -> dict[str, Any]:
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
    steps = reading.number(base, "steps")
    names = [
        reading.value(found, "ckpt_name")
        for found, _ in _chain(reading, node.inputs.get("model"), ("model",))
        if found.kind == "CheckpointLoaderSimple"
    ]
    if not names or not isinstance(names[0], str) or names[0] == reading.model.get("model") or not steps:
        reading.refuse(node, "a further pass with the same model is not generated")
        return {}
    reading.model["refiner"] = names[0].replace("\\", "/").rpartition("/")[2]
    # the base runs the first ceil(steps * refine_at) steps; a quotient may round up
    part = start / steps if math.ceil(steps * (start / steps)) == start else (start - 0.5) / steps
    found: dict[str, Any] = {"refine_at": min(tidy(part), 1)}
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
    if enlarging.kind.startswith("Latent") and method in _UPSCALERS:
        hires["upscaler"] = _UPSCALERS[method]
    elif enlarging.kind.startswith("Image") and method == "lanczos":
        hires["upscaler"] = "lanczos"
    else:
        hires["upscaler"] = "latent" if enlarging.kind.startswith("Latent") else "lanczos"
        reading.refuse(enlarging, f"images are not enlarged that way; {hires['upscaler']} takes its place")
    second = _sampler(reading, own.sampler, is_first=False)
    hires["steps"], hires["strength"] = second.get("steps"), reading.number(own.sampler, "denoise")
    hires |= {name: second[name] for name in ("sampler", "schedule") if second.get(name) != request.get(name)}
    for name in ("seed", "guidance_scale"):
        if second.get(name) != request.get(name):
            label = f"{own.sampler.kind} {own.sampler.id}: {name}"
            reading.fields.refuse(label, second.get(name), f"both passes have the same {name}")
    text = _text(reading, own.sampler, "positive").prompt
    if text is not None and text != request.get("prompt"):
        hires["prompt"] = text
    return {name: value for name, value in hires.items() if value is not None}


def _embeddings(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    texts = " ".join(
        str(request.get(name, "")) for name in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
    )
    names = dict.fromkeys(_EMBEDDING.findall(texts))
    return [{"file": name, "word": name.removesuffix(".safetensors").removesuffix(".pt")} for name in names]
