"""ComfyUI's graphs: the nodes by id, with their inputs, and the ways through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .widgets import WIDGETS

REROUTE = "Reroute"
"""The kind of a node that only passes on: its input "slot N" is its output N; one input alone is every output."""
_VALUES = ("value", "string", "text", "String", "Text", "seed", "int", "float")  # of nodes that hold one value


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


def resolve(graph: Graph, value: Any) -> Any:
    """What a link leads to, past nodes that only pass on: the output of another node, a value, or None."""
    seen: set[Link] = set()
    while isinstance(value, Link):
        node = graph.get(value.node)
        if node is None or value in seen:
            return None
        if node.kind != REROUTE:
            return value
        seen.add(value)
        value = node.inputs.get(f"slot {value.slot}", _only_input(node))
    return value


def shortened(graph: Graph) -> Graph:
    """The same graph with a link past a row of nodes that only pass on at the last of them, so that no way is long."""
    last: dict[Link, Link] = {}
    for link in (value for node in graph.values() for value in node.inputs.values()):
        way: list[Link] = []
        while isinstance(link, Link) and link not in last and (node := graph.get(link.node)) and node.kind == REROUTE:
            last[link] = link
            way.append(link)
            link = node.inputs.get(f"slot {link.slot}", _only_input(node))
        if way:
            end = last.get(link, way[-1]) if isinstance(link, Link) else way[-1]
            last.update(dict.fromkeys(way, end))
    return {name: replace(node, inputs=_moved(node.inputs, last)) for name, node in graph.items()}


def _moved(inputs: Mapping[str, Any], ends: Mapping[Link, Link]) -> dict[str, Any]:
    return {name: ends.get(value, value) if isinstance(value, Link) else value for name, value in inputs.items()}


def _only_input(node: Node) -> Any:
    """The first input of a node whose inputs have no slots."""
    name, value = next(iter(node.inputs.items()), ("", None))
    return None if name.startswith("slot ") and len(node.inputs) > 1 else value


def origin(graph: Graph, value: Any) -> tuple[Node, int] | None:
    """The node and the slot that a link leads to, past nodes that only pass on. None for what is no link."""
    link = resolve(graph, value)
    return (graph[link.node], link.slot) if isinstance(link, Link) else None


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
    seen: set[str] = set()
    while (found := origin(graph, value)) is not None and found[0].id not in seen:
        node = found[0]
        seen.add(node.id)
        held = [node.inputs[name] for name in _VALUES if name in node.inputs]
        if len(held) != 1 or (node.kind in WIDGETS and node.kind != "PrimitiveNode"):
            return None
        value = held[0]
    return None if found else resolve(graph, value)
