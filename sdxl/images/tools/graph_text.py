"""The two texts of ComfyUI's graph: the prompt that was executed, and the workflow on the screen."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .graph import Graph, Link, Node, shortened
from .stand_ins import plain
from .workflow import check_size, from_workflow


def parse_graph(text: str) -> Graph:
    """The graph in a text of JSON, in either of its forms, in ComfyUI's own nodes as far as these stand for others.
    Raises `ValueError`.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"ComfyUI's graph is damaged ({error})") from error
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]  # as it is posted to ComfyUI
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        return _plain(from_workflow(data))
    members = data.items() if isinstance(data, dict) else ()
    nodes = {name: each for name, each in members if isinstance(each, dict) and isinstance(each.get("class_type"), str)}
    if data and not nodes:  # beside its nodes Civitai has other members
        raise ValueError("it is JSON of a tool that is not read")
    check_size(len(nodes))
    return _plain(
        {name: Node(name, each["class_type"], _linked(each.get("inputs"), nodes)) for name, each in nodes.items()}
    )


def _plain(graph: Graph) -> Graph:
    return shortened(plain(shortened(graph)))  # stand-ins pass on too


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
