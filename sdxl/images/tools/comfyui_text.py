"""A prompt in ComfyUI's graph: its text, the sizes that it states, and the text encoders that read it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..parameters import Unmapped
from .fields import Fields, tidy
from .graph import Graph, Link, Node, chain, literal
from .strings import read_string

_ENCODERS = ("CLIPTextEncode", "CLIPTextEncodeSDXL", "CLIPTextEncodeSDXLRefiner")
_TEXTS = ("populated_text", "text", "prompt")
_LOADERS = ("CheckpointLoaderSimple", "CheckpointLoader")


@dataclass
class Text:
    """A prompt, None for zeros in its place, and another one for the second encoder. `layer` is the hidden state as
    ComfyUI counts it, `loras` are weights by node, `others` nodes that are not understood, and `unread` the inputs
    whose text is not known, or not all of it.
    """

    prompt: str | None
    prompt_2: str | None = None
    sizes: dict[str, tuple[int, int] | list[int]] = field(default_factory=dict)
    layer: int | None = None
    loras: dict[str, float] = field(default_factory=dict)
    others: list[Node] = field(default_factory=list)
    unread: dict[str, Unmapped] = field(default_factory=dict)


def read_text(graph: Graph, node: Node) -> Text | None:
    """The text of a node that encodes one, as ComfyUI's own read it; None for another node."""
    if node.kind not in _ENCODERS:
        return _read_other(graph, node)
    found = {name: read_string(graph, node.inputs.get(name)) for name in ("text", "text_l", "text_g")}
    if node.kind == "CLIPTextEncodeSDXL":
        first, second = found["text_l"].value, found["text_g"].value
        text = Text(first, None if first == second else second, _sizes(graph, node))
    else:
        text = Text(found["text"].value)
    text.unread.update({name: each for name, each in found.items() if each.reason})
    _read_encoder(graph, node, text)
    return text


def _read_other(graph: Graph, node: Node) -> Text | None:
    """The text of a pack's node that takes text encoders, or is named as one."""
    name = next((name for name in _TEXTS if name in node.inputs), None)
    is_encoder = isinstance(node.inputs.get("clip"), Link) or "textencode" in node.kind.lower()
    if name is None or not is_encoder or "conditioning" in node.inputs:
        return None
    read = read_string(graph, node.inputs[name])
    reason = read.reason or f"{node.kind} may read brackets and weights in a way of its own"
    text = Text(read.value, unread={name: Unmapped(read.value, reason)})
    _read_encoder(graph, node, text)
    return text


def _sizes(graph: Graph, node: Node) -> dict[str, tuple[int, int] | list[int]]:
    """The sizes of the conditioning, (height, width) or (top, left)."""
    pairs = {
        "original_size": ("height", "width"),
        "crop_top_left": ("crop_h", "crop_w"),
        "target_size": ("target_height", "target_width"),
    }
    found: dict[str, tuple[int, int] | list[int]] = {}
    for ours, names in pairs.items():
        values = [literal(graph, node.inputs.get(name)) for name in names]
        if all(type(value) is int for value in values):
            found[ours] = values
    return found


def _read_encoder(graph: Graph, node: Node, text: Text) -> None:
    """The way from a text back to the file of its encoders."""
    for own, _ in chain(graph, node.inputs.get("clip"), ("clip",)):
        fields = Fields({name: literal(graph, each) for name, each in own.inputs.items()})
        if own.kind == "CLIPSetLastLayer":
            layer = fields.number("stop_at_clip_layer")
            text.layer = int(layer) if layer is not None and text.layer is None else text.layer
        elif own.kind == "LoraLoader":
            weight = fields.number("strength_clip")
            text.loras[own.id] = 1 if weight is None else tidy(weight)
        elif own.kind not in _LOADERS:
            text.others.append(own)
