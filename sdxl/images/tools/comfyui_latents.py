"""What the first pass of ComfyUI's graph starts from: empty latents of a size, or an image and a mask."""

from __future__ import annotations

from typing import Any

from .comfyui_passes import Pass, Reading
from .comfyui_reasons import reason_of
from .empty_latents import size_of
from .graph import Link, Node, origin

_PLAIN = ("EmptyLatentImage", "LoadImage", "VAEEncode", "VAEEncodeTiled", "ImageScale")


def read_latents(reading: Reading, own: Pass) -> dict[str, Any]:
    """The size and the number of images, or what an image to image was made from."""
    found: dict[str, Any] = {}
    encoder = next((node for node in own.steps if node.kind.startswith("VAEEncode")), None)
    if own.source is None and encoder is None:
        return found
    if own.source is not None and own.source.kind == "EmptyLatentImage":
        for ours, name in (("width", "width"), ("height", "height"), ("num_images", "batch_size")):
            value = reading.number(own.source, name)
            if value is not None and (ours, value) != ("num_images", 1):
                found[ours] = value
    elif own.source is not None and (size := size_of(reading.graph, own.source)) is not None:
        found |= size
        reading.refuse(own.source, "it is taken for empty latents of the size that it states")
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
        elif node.kind not in _PLAIN and not _loads(node):
            reading.refuse(node, reason_of(node, "an image or its latents"))
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


def _loads(node: Node) -> bool:
    """Whether it is a node of a pack that loads an image."""
    return "load" in node.kind.lower() and not any(isinstance(value, Link) for value in node.inputs.values())
