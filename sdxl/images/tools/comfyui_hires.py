"""The second pass of ComfyUI's graph at a larger size: what enlarges the first image, and what differs from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .comfyui_passes import Pass, Reading
from .comfyui_sampler import read_prompt, read_sampling
from .fields import file_name, tidy
from .graph import Node, origin

_UPSCALERS = {"bilinear": "latent", "nearest-exact": "latent_nearest_exact", "bicubic": "latent_bicubic"}
_RESIZING = ("LatentUpscale", "LatentUpscaleBy", "ImageScale", "ImageScaleBy")
_NETWORK = "ImageUpscaleWithModel"
_BETWEEN = ("VAEDecode", "VAEDecodeTiled", "VAEEncode", "VAEEncodeTiled")
_SCALE = re.compile(r"(?<![0-9])([1248])x|x([1248])(?![0-9])", re.IGNORECASE)  # in the name of a network's file
_ENDING = re.compile(r"\.(pth|pt|safetensors)$", re.IGNORECASE)
_USUAL = 4  # scale of a network


def enlarging_nodes(own: Pass) -> list[Node]:
    """The nodes before a pass that this package can enlarge as: one that resizes, behind a network, or either alone.
    None for other nodes.
    """
    found = [each for each in reversed(own.steps) if each.kind in (*_RESIZING, _NETWORK)]  # in the order of the work
    kinds = [each.kind for each in found]
    is_known = kinds in ([_NETWORK], [_NETWORK, "ImageScale"], [_NETWORK, "ImageScaleBy"])
    return found if is_known or (len(kinds) == 1 and kinds[0] in _RESIZING) else []


def read_hires(reading: Reading, own: Pass, enlarging: list[Node], request: Mapping[str, Any]) -> dict[str, Any]:
    """The argument `hires` as JSON has it."""
    for each in own.steps:
        if each not in enlarging and each.kind not in _BETWEEN:
            reading.refuse(each, "nothing here does that between two passes")
    hires = _enlarged(reading, enlarging)
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


def _enlarged(reading: Reading, enlarging: list[Node]) -> dict[str, Any]:
    """Size or scale, and the upscaler."""
    network = enlarging[0] if enlarging[0].kind == _NETWORK else None
    resizing = enlarging[-1] if enlarging[-1].kind in _RESIZING else None
    name = None if network is None else _network(reading, network)
    scale = 1 if network is None else _scale(reading, network, name) if _is_relative(resizing) else None
    size: dict[str, Any] = {"scale": scale}
    if resizing is not None and resizing.kind.endswith("By"):
        by = reading.number(resizing, "scale_by")
        size = {"scale": None if by is None or scale is None else tidy(by * scale)}
    elif resizing is not None:
        size = {"size": [reading.number(resizing, "height"), reading.number(resizing, "width")]}
    own = "lanczos" if resizing is None else _resized(reading, resizing)
    return size | {"upscaler": own if name is None else name}


def _is_relative(resizing: Node | None) -> bool:
    """Whether the size that comes of a network follows from its scale."""
    return resizing is None or resizing.kind.endswith("By")


def _resized(reading: Reading, node: Node) -> str:
    """The upscaler of a node that resizes; behind a network it is Lanczos."""
    method = reading.value(node, "upscale_method")
    if node.kind.startswith("Latent") and isinstance(method, str) and method in _UPSCALERS:
        return _UPSCALERS[method]
    own = "latent" if node.kind.startswith("Latent") else "lanczos"
    if method != own:
        reading.refuse(node, f"images are not enlarged that way; {own} takes its place")
    return own


def _network(reading: Reading, node: Node) -> str | None:
    """The file of a network; None, and a note, where its loader is not known."""
    found = origin(reading.graph, node.inputs.get("upscale_model"))
    name = reading.value(found[0], "model_name") if found is not None else None
    if isinstance(name, str) and (own := _ENDING.sub("", file_name(name)).strip()):
        return own
    reading.refuse(node, "its network is not known; lanczos takes its place")
    return None


def _scale(reading: Reading, node: Node, name: str | None) -> int:
    """The scale of a network, which its file's name states as a rule."""
    if name is None:
        reading.refuse(node, f"its network is not known; lanczos takes its place, and {_USUAL} is taken as its scale")
        return _USUAL
    found = _SCALE.search(name)
    if found is None:
        reading.refuse(node, f"its scale is not in the name of its file; {_USUAL} is taken")
        return _USUAL
    return int(found[1] or found[2])
