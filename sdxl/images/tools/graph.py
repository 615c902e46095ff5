"""ComfyUI's graphs: the nodes by id, with their inputs, from the prompt that was executed or from the workflow that is
saved beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .fields import listed

_MOST_NODES = 5000
_MUTED, _BYPASSED = 2, 4  # modes of nodes in a workflow
_CONTROLS = {"fixed", "increment", "decrement", "randomize"}  # of a seed, in a workflow's values
_VALUES = ("value", "string", "text", "String", "Text", "seed", "int", "float")  # of nodes that hold one value

WIDGETS: dict[str, tuple[str, ...]] = {
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": (
        *("width", "height", "crop_w", "crop_h", "target_width", "target_height"),
        *("text_g", "text_l"),
    ),
    "CLIPTextEncodeSDXLRefiner": ("ascore", "width", "height", "text"),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "ImageScale": ("upscale_method", "width", "height", "crop"),
    "ImageScaleBy": ("upscale_method", "scale_by"),
    "InpaintModelConditioning": ("noise_mask",),
    "KSampler": ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        *("add_noise", "noise_seed", "steps", "cfg", "sampler_name", "scheduler"),
        *("start_at_step", "end_at_step", "return_with_leftover_noise"),
    ),
    "LatentFromBatch": ("batch_index", "length"),
    "LatentUpscale": ("upscale_method", "width", "height", "crop"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "LoadImage": ("image",),
    "LoadImageMask": ("image", "channel"),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "ModelSamplingDiscrete": ("sampling", "zsnr"),
    "PrimitiveNode": ("value",),
    "RepeatLatentBatch": ("amount",),
    "RescaleCFG": ("multiplier",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "VAEEncodeForInpaint": ("grow_mask_by",),
    "VAELoader": ("vae_name",),
}
"""The values of ComfyUI's own nodes, in the order in which a workflow lists them."""


class Link(NamedTuple):
    """An output of a node."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    """A node of the `kind` that ComfyUI calls class_type; inputs are values, or links to other nodes."""

    id: str
    kind: str
    inputs: Mapping[str, Any] = field(default_factory=dict)


Graph = dict[str, Node]


def parse_graph(text: str) -> Graph:
    """The graph in a text of JSON, in either of its forms. Raises `ValueError`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"ComfyUI's graph is damaged ({error})") from error
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]  # as it is posted to ComfyUI
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        return _from_workflow(data)
    if not isinstance(data, dict) or not all(isinstance(each, dict) for each in data.values()):
        raise ValueError("ComfyUI's graph is damaged (it is no object of nodes)")
    nodes = {name: each for name, each in data.items() if isinstance(each.get("class_type"), str)}
    _check_size(len(nodes))
    return {name: Node(name, each["class_type"], _linked(each.get("inputs"), nodes)) for name, each in nodes.items()}


def _check_size(count: int) -> None:
    if not 0 < count <= _MOST_NODES:
        raise ValueError(f"ComfyUI's graph has {count} nodes; expected 1 to {_MOST_NODES}")


def _linked(inputs: Any, nodes: Iterable[str]) -> dict[str, Any]:
    """The inputs of a node in a prompt, in which a link is a list of a node's id and a slot."""
    if not isinstance(inputs, dict):
        return {}
    return {name: _link(value) if _is_link(value, nodes) else value for name, value in inputs.items()}


def _is_link(value: Any, nodes: Iterable[str]) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], (str, int))
        and type(value[1]) is int
        and str(value[0]) in nodes
    )


def _link(value: list[Any]) -> Link:
    return Link(str(value[0]), value[1])


# ---- workflows


def _from_workflow(data: Mapping[str, Any]) -> Graph:
    """The graph of a workflow: values stand in lists, and links in a list of their own."""
    nodes = {str(each.get("id")): each for each in data["nodes"] if isinstance(each, dict)}
    _check_size(len(nodes))
    links = dict(_links(data.get("links")))
    graph: Graph = {}
    for name, each in nodes.items():
        if each.get("mode") == _MUTED:
            continue
        kind = "Reroute" if each.get("mode") == _BYPASSED else str(each.get("type"))
        inputs = _values(each) if kind != "Reroute" else {}
        for own in listed(each.get("inputs")):
            source = links.get(own.get("link")) if isinstance(own.get("link"), (int, str)) else None
            if source is not None:
                inputs[str(own.get("name"))] = source
        graph[name] = Node(name, kind, inputs if kind != "Reroute" else _passing(each, inputs))
    return graph


def _links(value: Any) -> Iterable[tuple[Any, Link]]:
    """The sources of links by the links' ids."""
    for each in value if isinstance(value, list) else ():
        if isinstance(each, list) and len(each) >= 4 and all(isinstance(part, (int, str)) for part in each[:4]):
            yield each[0], Link(str(each[1]), int(each[2]) if str(each[2]).isdecimal() else 0)
        elif isinstance(each, dict) and isinstance(each.get("id"), (int, str)):
            slot = each.get("origin_slot")
            yield each["id"], Link(str(each.get("origin_id")), slot if isinstance(slot, int) else 0)


def _values(node: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a node by name."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return dict(values)
    if not isinstance(values, list):
        return {}
    names = WIDGETS.get(str(node.get("type")))
    if names is None:
        names = tuple(
            str(own["name"])
            for own in listed(node.get("inputs"))
            if isinstance(own.get("widget"), dict) and "name" in own
        ) or ("value",)
    found: dict[str, Any] = {}
    left = list(values)
    for name in names:
        if not left:
            break
        found[name] = left.pop(0)
        if name.endswith("seed") and left and isinstance(left[0], str) and left[0] in _CONTROLS:
            left.pop(0)
    return found


def _passing(node: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a node that passes on: for each output, by its slot, the first input of its type."""
    kinds = {str(own.get("name")): own.get("type") for own in listed(node.get("inputs"))}
    found: dict[str, Any] = {}
    for slot, output in enumerate(listed(node.get("outputs"))):
        same = [name for name in inputs if kinds.get(name) in (output.get("type"), "*") or output.get("type") == "*"]
        if same:
            found[f"slot {slot}"] = inputs[same[0]]
    return found or {f"slot {n}": value for n, value in enumerate(inputs.values())}


# ---- ways through a graph


def origin(graph: Graph, value: Any) -> tuple[Node, int] | None:
    """The node and the slot that a link leads to, past nodes that only pass on. None for what is no link."""
    seen: set[Link] = set()
    while isinstance(value, Link) and value not in seen:
        seen.add(value)
        node = graph.get(value.node)
        if node is None:
            return None
        if node.kind != "Reroute":
            return node, value.slot
        value = node.inputs.get(f"slot {value.slot}", next(iter(node.inputs.values()), None))
    return None


def chain(graph: Graph, value: Any, names: tuple[str, ...]) -> Iterator[tuple[Node, int]]:
    """The nodes from a link backwards, along the inputs of these names. Each is met once, also in a graph with a
    cycle.
    """
    seen: set[str] = set()
    while (found := origin(graph, value)) is not None and found[0].id not in seen:
        node = found[0]
        seen.add(node.id)
        yield found
        value = next((node.inputs[name] for name in names if isinstance(node.inputs.get(name), Link)), None)


def literal(graph: Graph, value: Any) -> Any:
    """A value, also where it is the output of a node that holds one. None if it comes from another node."""
    for _ in range(len(graph) + 1):
        if not isinstance(value, Link):
            return value
        found = origin(graph, value)
        if found is None:
            return None
        node = found[0]
        held = [node.inputs[name] for name in _VALUES if name in node.inputs]
        if len(held) != 1 or (node.kind in WIDGETS and node.kind != "PrimitiveNode"):
            return None
        value = held[0]
    return None
