"""The samplers of ComfyUI's graph: which one made the image that is saved, and which ones stand before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .empty_latents import is_empty
from .fields import Fields, tidy
from .graph import Graph, Link, Node, chain, literal, origin

_SAMPLERS = ("KSampler", "KSamplerAdvanced")
_SINKS = ("SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveImageWebsocket")
_SOURCES = ("EmptyLatentImage", "LoadImage", "LoadLatent")
_MOST_SAMPLERS = 20  # that are looked at; a plain graph has two or three


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
        """A value of a node. One that another node computes stays unmapped."""
        given = node.inputs.get(name)
        value = literal(self.graph, given)
        found = origin(self.graph, given) if value is None else None
        if found is not None:
            reason = f"it comes from the node {found[0].kind} {found[0].id}, which is not read; give it as an argument"
            self.fields.refuse(f"{node.kind} {node.id}: {name}", None, reason)
        return value

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


def last_sampler(reading: Reading) -> tuple[Node | None, Node]:
    """The sampler of the image that is saved, and the node that decodes it. Of several the one behind most others."""
    graph = reading.graph
    sinks = [node for kind in _SINKS for node in graph.values() if node.kind == kind]
    sinks += [node for node in graph.values() if node.kind not in _SINKS and _saves(node)]
    sinks = sinks or [
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
    lengths = {name: sum(1 for _ in passes_before(reading, each[1], is_quiet=True)) for name, each in found.items()}
    best = max(found, key=lambda name: lengths[name])
    if len(found) > 1:
        others = ", ".join(name for name in found if name != best)
        reading.fields.refuse("other samplers", others, f"the graph saves several images; that of node {best} is read")
    return found[best]


def _saves(node: Node) -> bool:
    """Whether it is a node of a pack that saves an image."""
    return "save" in node.kind.lower() and any(isinstance(node.inputs.get(name), Link) for name in ("images", "image"))


def _decoder(reading: Reading, sink: Node) -> Node | None:
    """The node that decodes what a sink saves, before what is done with the pixels."""
    value = sink.inputs.get("images", sink.inputs.get("image"))
    for node, _ in chain(reading.graph, value, ("image", "images", "pixels")):
        if node.kind in ("VAEDecode", "VAEDecodeTiled"):
            return node
        reading.refuse(node, "the pixels are saved as they are decoded")
    return None


def _sampler_before(reading: Reading, value: Any) -> Node | None:
    nodes = (node for node, _ in chain(reading.graph, value, ("samples", "latent_image", "latent")))
    return next((node for node in nodes if node.kind in _SAMPLERS), None)


def passes_before(reading: Reading, last: Node, is_quiet: bool = False) -> Iterator[Pass]:
    """The samplers from the last to the first."""
    sampler: Node | None = last
    seen: set[str] = set()
    while sampler is not None and sampler.id not in seen:
        seen.add(sampler.id)
        own = Pass(sampler)
        names = ("samples", "latent_image", "latent", "pixels", "image", "images")
        sampler = None
        for node, slot in chain(reading.graph, own.sampler.inputs.get("latent_image"), names):
            if node.kind in _SAMPLERS:
                sampler = node
                break
            is_source = node.kind in _SOURCES or is_empty(reading.graph, node)
            if is_source or (node.kind == "InpaintModelConditioning" and slot == 2):
                own.source = node
                if node.kind != "InpaintModelConditioning":
                    break
            own.steps.append(node)
        is_encoded = any(node.kind.startswith("VAEEncode") for node in own.steps)
        if not is_quiet and sampler is None and own.source is None and not is_encoded:
            reading.refuse(own.sampler, "where its latents come from is not known", "latent_image")
        yield own
