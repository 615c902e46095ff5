"""Texts that nodes of ComfyUI's graph make of others: joined, chosen or shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..parameters import Unmapped
from .graph import Graph, Link, Node, literal, origin

_RESULTS = ("result", "populated_text", "text_0")
"""Where a node's own text of the run is saved, beside what it was made from."""
_HELD = ("text", "string", "value", "prompt", "positive", "wildcard_text", "text_multiline")
_DELIMITERS = ("delimiter", "separator")
_PARTS = re.compile(r"(?:text|string)_?([a-z]|\d{1,2})")
_DEEPEST = 20  # nodes within one another; one that joins n others counts as n, since the same may be in all of them
_LONGEST = 100_000  # letters of a text that is joined


def read_string(graph: Graph, value: Any, depth: int = 0) -> Unmapped:
    """A text, and if it is not all known, why."""
    if isinstance(known := literal(graph, value), str):
        return Unmapped(known, "")
    found = origin(graph, value)
    if found is None:
        return Unmapped("", "")
    node, slot = found
    if depth < _DEEPEST:
        read = next((read for read in _of_node(graph, node, slot, depth) if read is not None), None)
        if read is not None:
            return read
    reason = f"the text comes from the node {node.kind} {node.id}, which is not read; give it as an argument"
    return Unmapped("", reason)


def _of_node(graph: Graph, node: Node, slot: int, depth: int) -> Iterator[Unmapped | None]:
    yield next((Unmapped(text, "") for name in _RESULTS if isinstance(text := node.inputs.get(name), str)), None)
    yield _styled(graph, node, slot, depth)
    yield _joined(graph, node, depth)
    held = [value for name in _HELD if isinstance(value := node.inputs.get(name), (str, Link))]
    yield read_string(graph, held[0], depth + 1) if len(held) == 1 and not _makes_texts(node) else None


def _makes_texts(node: Node) -> bool:
    """Whether a node makes a text of a pattern by chance, so that no file has it."""
    return "seed" in node.inputs


def _styled(graph: Graph, node: Node, slot: int, depth: int) -> Unmapped | None:
    """Both prompts in a style, whose words are in a file of the pack."""
    names = ("text_positive", "text_negative")
    if not node.inputs.keys() >= {*names} or slot not in (0, 1):
        return None
    read = read_string(graph, node.inputs[names[slot]], depth + 1)
    style = literal(graph, node.inputs.get("style"))
    if style in (None, "base", "None", "No Style"):
        return read
    return Unmapped(read.value, read.reason or f"the words of the style {style!r} are in no file; add them")


def _joined(graph: Graph, node: Node, depth: int) -> Unmapped | None:
    """Texts with a mark between them."""
    parts = sorted(name for name in node.inputs if _PARTS.fullmatch(name))
    marks = [mark for name in _DELIMITERS if isinstance(mark := literal(graph, node.inputs.get(name)), str)]
    if len(parts) < 2 or len(marks) != 1:
        return None
    linked = sum(isinstance(node.inputs[name], Link) for name in parts)
    texts = [read_string(graph, node.inputs[name], depth + max(1, linked)) for name in parts]
    if sum(len(marks[0]) + len(each.value) for each in texts) > _LONGEST:
        return None
    joined = marks[0].replace("\\n", "\n").join(each.value for each in texts if each.value)
    return Unmapped(joined, next((each.reason for each in texts if each.reason), ""))
