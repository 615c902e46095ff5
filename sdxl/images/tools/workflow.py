"""ComfyUI's workflow, as the page saves it: values stand in lists without names, links in a list of their own, and a
group of nodes may be a subgraph, of which each instance is a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .fields import listed
from .graph import REROUTE, Graph, Link, Node
from .widgets import PACKS, WIDGETS

MOST_NODES = 5000
_MUTED, _BYPASSED = 2, 4  # modes of nodes
_CONTROLS = ("fixed", "increment", "decrement", "randomize")  # what a page does with a seed
_SUBGRAPH_INPUT, _SUBGRAPH_OUTPUT = -10, -20  # the ids of both ends inside a subgraph
_DEEPEST, _MOST_INSTANCES = 10, 300  # subgraphs within one another, and all together


@dataclass(frozen=True)
class _Reading:
    """The graph so far, the subgraphs by their ids, and the instances of them that are in it."""

    graph: Graph
    subgraphs: Mapping[str, Mapping[str, Any]]
    instances: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Level:
    """The nodes of a workflow, or of an instance of a subgraph, and the `prefix` of their ids. `sources` are links or
    values by the ids of its links.
    """

    nodes: Iterable[Mapping[str, Any]]
    sources: Mapping[Any, Any]
    prefix: str = ""
    depth: int = 0


def check_size(count: int) -> None:
    """Raise `ValueError` for a graph without nodes, or with more than any has."""
    if not 0 < count <= MOST_NODES:
        raise ValueError(f"ComfyUI's graph has {count} nodes; expected 1 to {MOST_NODES}")


def from_workflow(data: Mapping[str, Any]) -> Graph:
    """The graph of a workflow, with the nodes of its subgraphs. Raises `ValueError`."""
    nodes = listed(data["nodes"])
    check_size(len(nodes))
    definitions = data.get("definitions")
    subgraphs = listed(definitions.get("subgraphs")) if isinstance(definitions, dict) else []
    reading = _Reading({}, {str(each.get("id")): each for each in subgraphs})
    _add(reading, _Level(nodes, dict(_links(data.get("links")))))
    return reading.graph


def _add(reading: _Reading, level: _Level) -> None:
    for each in level.nodes:
        if each.get("mode") == _MUTED:
            continue
        name, kind = f"{level.prefix}{each.get('id')}", str(each.get("type"))
        linked = {
            str(own.get("name")): source
            for own in listed(each.get("inputs"))
            if isinstance(own.get("link"), (int, str)) and (source := level.sources.get(own["link"])) is not None
        }
        if each.get("mode") == _BYPASSED:
            reading.graph[name] = Node(name, REROUTE, _passing(each, linked))
        elif kind in reading.subgraphs and level.depth < _DEEPEST:
            _add_instance(reading, level, name, each, linked)
        else:
            reading.graph[name] = Node(name, kind, linked if kind == REROUTE else _values(each) | linked)
        check_size(len(reading.graph))


def _add_instance(
    reading: _Reading, level: _Level, name: str, node: Mapping[str, Any], linked: Mapping[str, Any]
) -> None:
    """The nodes of a subgraph, and in place of its instance one that passes on what they give."""
    own = reading.subgraphs[str(node.get("type"))]
    nodes, links = listed(own.get("nodes")), listed(own.get("links"))
    reading.instances.append(name)
    if len(reading.instances) > _MOST_INSTANCES or len(links) > MOST_NODES:
        raise ValueError(f"ComfyUI's graph has more than {_MOST_INSTANCES} subgraphs, or one of too many links")
    given = _shown(own, node, nodes, links) | dict(linked)
    inputs = [str(each.get("name")) for each in listed(own.get("inputs"))]
    sources: dict[Any, Any] = {}
    outputs: dict[str, Any] = {}
    for each in links:
        slot, number = each.get("origin_slot"), each.get("id")
        if not isinstance(number, (int, str)) or not isinstance(slot, int):
            continue
        source: Any = Link(f"{name}:{each.get('origin_id')}", slot)
        if each.get("origin_id") == _SUBGRAPH_INPUT:  # nothing given leaves the value that the node has itself
            source = given.get(inputs[slot]) if 0 <= slot < len(inputs) else None
        sources[number] = source
        if each.get("target_id") == _SUBGRAPH_OUTPUT:
            outputs[f"slot {each.get('target_slot')}"] = source
    reading.graph[name] = Node(name, REROUTE, outputs)
    _add(reading, _Level(nodes, sources, f"{name}:", level.depth + 1))


def _shown(
    own: Mapping[str, Any],
    instance: Mapping[str, Any],
    nodes: list[dict[str, Any]],
    links: list[dict[str, Any]],
) -> dict[str, Any]:
    """The values that an instance shows and changes: one for each input of the subgraph that is a value inside."""
    values = instance.get("widgets_values")
    if not isinstance(values, list):
        return {}
    inside = {each.get("id"): listed(each.get("inputs")) for each in nodes if isinstance(each.get("id"), (int, str))}
    shown: set[Any] = set()
    for each in links:
        target, slot = each.get("target_id"), each.get("target_slot")
        inputs = inside.get(target, []) if isinstance(target, (int, str)) else []
        is_value = isinstance(slot, int) and 0 <= slot < len(inputs) and isinstance(inputs[slot].get("widget"), dict)
        if is_value and each.get("origin_id") == _SUBGRAPH_INPUT and isinstance(each.get("origin_slot"), int):
            shown.add(each["origin_slot"])
    names = [str(each.get("name")) for n, each in enumerate(listed(own.get("inputs"))) if n in shown]
    return dict(zip(names, values, strict=True)) if len(names) == len(values) else {}


def _links(value: Any) -> Iterator[tuple[Any, Link]]:
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
    names = WIDGETS.get(str(node.get("type"))) or PACKS.get(str(node.get("type"))) or _names(node)
    left = _without_controls(values, names)
    if not names:
        loras = [each for each in left if isinstance(each, dict) and "lora" in each]
        if loras:
            return {f"lora_{n}": each for n, each in enumerate(loras, 1)}
        is_one = bool(left) and all(each in (None, "", *_CONTROLS) for each in map(_plain, left[1:]))
        return {"value": _alone(left[0])} if is_one else {}
    return {name: left[n] for n, name in enumerate(names[: len(left)])}


def _plain(value: Any) -> Any:
    """A value that can be compared, else its type."""
    return value if isinstance(value, (str, int, float)) or value is None else type(value)


def _alone(value: Any) -> Any:
    """A value, also as the only one in a list."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _names(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the values of a node of another pack, where its inputs say them."""
    return tuple(
        str(own["name"]) for own in listed(node.get("inputs")) if isinstance(own.get("widget"), dict) and "name" in own
    )


def _without_controls(values: list[Any], names: tuple[str, ...]) -> list[Any]:
    """The values of these names without what the page does with a seed, which stands behind it and has no name."""
    left: list[Any] = []
    rest = list(values)
    for name in names or ("seed",):
        if not rest:
            break
        left.append(rest.pop(0))
        if name.endswith("seed") and rest and (rest[0] is None or _plain(rest[0]) in _CONTROLS):
            rest.pop(0)
    return left if names else left + rest


def _passing(node: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a node that passes on: for each output, by its slot, the first input of its type."""
    kinds = {str(own.get("name")): str(own.get("type")) for own in listed(node.get("inputs"))}
    first: dict[str, tuple[int, Any]] = {}  # of each type
    for n, (name, value) in enumerate(inputs.items()):
        first.setdefault(kinds[name], (n, value))
    found: dict[str, Any] = {}
    for slot, output in enumerate(listed(node.get("outputs"))):
        kind = str(output.get("type"))
        same = [first[each] for each in (next(iter(first), kind) if kind == "*" else kind, "*") if each in first]
        if same:
            found[f"slot {slot}"] = min(same, key=lambda each: each[0])[1]
    return found or {f"slot {n}": value for n, value in enumerate(inputs.values())}
