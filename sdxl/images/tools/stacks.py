"""Stacks of LoRAs: nodes of packs that list several, each in names of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .graph import Graph, Node, literal, origin

_NONE = ("", "None", "none")
_MOST, _LONGEST = 100, 20  # LoRAs in a stack, and stacks in a row
# the names of the file and of its weights for the UNet and for the text encoders, by number
_FORMS = (
    ("lora_name_{}", "model_weight_{}", "clip_weight_{}"),
    ("lora_name_{}", "model_str_{}", "clip_str_{}"),
    ("lora_name_{}", "lora_wt_{}", "lora_wt_{}"),
    ("lora_{:02}", "strength_{:02}", "strength_{:02}"),
    ("lora_{}_name", "lora_{}_model_strength", "lora_{}_clip_strength"),
    ("lora_{}_name", "lora_{}_strength", "lora_{}_strength"),
)


class Entry(NamedTuple):
    """A LoRA by its file's name, with its weights for the UNet and the text encoders."""

    name: Any
    weight: Any
    text_weight: Any


def stack_of(graph: Graph, node: Node) -> list[Entry] | None:
    """The LoRAs of a node that lists some or gets a list of them, the first one next to the model; None for another
    node, and where a list comes from a node that is not known, or through too many.
    """
    found: list[list[Entry]] = []
    seen: set[str] = set()
    own: Node | None = node
    while own is not None and own.id not in seen:
        seen.add(own.id)
        before = origin(graph, own.inputs.get("lora_stack"))
        entries = _own_entries(graph, own)
        if (entries is None and before is None) or len(found) == _LONGEST:
            return None
        found.append(entries or [])
        own = None if before is None else before[0]
    return [each for entries in reversed(found) for each in entries][:_MOST]


def _own_entries(graph: Graph, node: Node) -> list[Entry] | None:
    if node.kind.startswith("Power Lora Loader") or any(map(_is_object, node.inputs.values())):
        return list(_of_objects(node))
    if (managed := _managed(node)) is not None:
        return managed
    values = {name: literal(graph, value) for name, value in node.inputs.items()}
    if values.get("toggle") is False:
        return []
    is_simple = "simple" in (values.get("input_mode"), values.get("mode"))
    for name, weight, text in _FORMS:
        numbers = _numbers(values, name)
        if not numbers or weight.format(numbers[0]) not in values or (is_simple and weight != text):
            continue
        count = values.get("lora_count", values.get("num_loras"))
        used = [n for n in numbers if not isinstance(count, int) or n <= count]
        on = [n for n in used if values.get(f"switch_{n}") != "Off" and values[name.format(n)] not in _NONE]
        return [Entry(*(node.inputs.get(each.format(n)) for each in (name, weight, text))) for n in on]
    return None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "lora" in value


def _numbers(values: dict[str, Any], name: str) -> list[int]:
    pattern = re.compile(re.sub(r"\{.*?\}", r"(\\d{1,3})", name))
    return sorted(int(match[1]) for key in values if (match := pattern.fullmatch(key)))[:_MOST]


def _of_objects(node: Node) -> Iterator[Entry]:
    """Each LoRA as an object, with a switch."""
    for value in node.inputs.values():
        if _is_object(value) and value.get("on") and value["lora"] not in (None, *_NONE):
            weight = value.get("strength", 1)
            text = value.get("strengthTwo")
            yield Entry(value["lora"], weight, weight if text is None else text)


def _managed(node: Node) -> list[Entry] | None:
    """The list of LoRA Manager, whose numbers may be texts."""
    value = node.inputs.get("loras")
    value = value.get("__value__") if isinstance(value, dict) else value
    if "LoraManager" not in node.kind or not isinstance(value, list):
        return None
    on = (each for each in value if isinstance(each, dict) and each.get("name") and each.get("active", True))
    return [
        Entry(each["name"], each.get("strength", 1), each.get("clipStrength", each.get("strength", 1))) for each in on
    ]
