"""The families of models other than SDXL that nodes of ComfyUI's graph show."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .comfyui_passes import Reading
from .graph import Graph, Link, Node

_TYPES = {  # ComfyUI's words for the text encoders of a family; another word is its name
    "flux": "Flux",
    "flux2": "Flux",
    "hunyuan_video": "HunyuanVideo",
    "qwen_image": "Qwen-Image",
    "sd3": "Stable Diffusion 3",
    "stable_cascade": "Stable Cascade",
    "wan": "Wan",
}
_OWN_TYPES = ("sdxl", "stable_diffusion")
_KINDS = (  # a name alone is too little: FluxResolutionNode gives a size, and Qwen2VL writes prompts, for any model
    (r"Wan\w*ToVideo|WanVideo\w*", "Wan"),
    (r"TextEncodeQwenImage\w*", "Qwen-Image"),
    (r"EmptyHunyuanLatentVideo|HunyuanImageToVideo", "HunyuanVideo"),
    (r"StableCascade\w*|ModelSamplingStableCascade", "Stable Cascade"),
    (r"TripleCLIPLoader|CLIPTextEncodeSD3|SkipLayerGuidanceSD3", "Stable Diffusion 3"),
    (r"(CLIPTextEncode|ModelSampling)Flux|FluxGuidance", "Flux"),
    # of several families: Stable Diffusion 3 and Wan, AuraFlow and Qwen-Image
    (r"ModelSampling(SD3|AuraFlow)", "models of flow matching"),
)
_PARTS = ("model", "refiner", "unet", "vae")


def family_of(node: Node) -> str | None:
    """The family of models that a node is for; None where it does not show one, or may be for SDXL. (ComfyUI takes
    EmptySD3LatentImage for every model.)
    """
    kind = node.inputs.get("type")
    if node.kind.endswith("CLIPLoader") and isinstance(kind, str) and kind not in _OWN_TYPES:
        return _TYPES.get(kind, kind)
    return next((name for pattern, name in _KINDS if re.fullmatch(pattern, node.kind)), None)


def leave_out(reading: Reading, samplers: Iterable[Node], request: dict[str, Any]) -> None:
    """Leave out the files of a model, and the LoRAs of the `request`, that nodes before the samplers show to be of
    another family than SDXL.
    """
    found = [(family, node) for node in _before(reading.graph, samplers) if (family := family_of(node))]
    if not found:
        return
    family, node = min(found, key=lambda each: each[0] not in _TYPES.values())
    reason = f"the graph is for {family}, as {node.kind} {node.id} shows; only models of SDXL are read"
    for files, parts in ((reading.model, _PARTS), (request, ("loras",))):
        for part in files.keys() & {*parts}:
            reading.fields.refuse(part, files.pop(part), reason)


def _before(graph: Graph, nodes: Iterable[Node]) -> list[Node]:
    """The nodes, and all that they depend on."""
    found: dict[str, Node] = {}
    ahead = [*nodes]
    while ahead:
        node = ahead.pop()
        if node.id not in found:
            found[node.id] = node
            links = (value for value in node.inputs.values() if isinstance(value, Link))
            ahead += [graph[link.node] for link in links if link.node in graph]
    return list(found.values())
