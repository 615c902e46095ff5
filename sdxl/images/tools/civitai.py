"""Civitai's fields in AUTOMATIC1111's text: lists of the resources that an image was made with, and their hashes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import is_number
from .fields import Fields, listed, tidy
from .infotext import pairs

_RESOURCES, _HASHES = "Civitai resources", "Hashes"
_LORAS = ("lora", "lycoris", "locon", "dora")


@dataclass(frozen=True)
class Resources:
    """The model's name, the LoRAs with their weights, and all `hashes`, by names such as `model` and `lora:style`."""

    model: str | None = None
    loras: tuple[tuple[str, float], ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    is_civitai: bool = False

    def hashes_of(self, kind: str) -> dict[str, str]:
        """The hashes of one kind, such as "lora", by name."""
        named = ((name.partition(":"), value) for name, value in self.hashes.items())
        return {name: value for (own, colon, name), value in named if colon and own == kind}


def read_resources(fields: Fields) -> Resources:
    """What the fields say of resources. Those that are no files here stay in the unmapped fields."""
    hashes = pairs(fields.left.pop(_HASHES, None))
    hashes = {_lower_kind(name): value for name, value in hashes.items()}
    value = fields.left.pop(_RESOURCES, None)
    if value is not None and not listed(value):
        fields.refuse(_RESOURCES, value, "a list of objects was expected")
    model: str | None = None
    loras: list[tuple[str, float]] = []
    for each in listed(value):
        kind, name = _kind(each), _name(each)
        if kind in ("checkpoint", "model") and model is None:
            model = name
        elif kind in _LORAS:
            loras.append((name, _weight(each)))
        else:
            fields.refuse(f"{_RESOURCES}: {name}", each, "Civitai's list names no file of it")
    is_civitai = value is not None or "Created Date" in fields.left or "Civitai metadata" in fields.left
    return Resources(model, tuple(loras), hashes, is_civitai)


def _lower_kind(name: str) -> str:
    kind, colon, rest = name.partition(":")
    return f"{kind.lower()}{colon}{rest}"


def _kind(resource: Mapping[str, Any]) -> str:
    """What it is, as it says, or as its identifier does: urn:air:sdxl:lora:civitai:MODEL@VERSION."""
    identifier = re.match(r"urn:air:[^:]*:(\w+):", str(resource.get("air")))
    return str(resource.get("type") or (identifier[1] if identifier else "")).lower()


def _name(resource: Mapping[str, Any]) -> str:
    """The name with the version, by which a file may be found; else the number that Civitai has for it."""
    version = resource.get("modelVersionName") or resource.get("versionName")
    names = [str(each or "") for each in (resource.get("modelName"), version)]
    names = [name.strip() for name in names if name.strip()]
    number = resource.get("modelVersionId")
    return " ".join(names) or str(resource.get("air") or f"civitai {number}")


def _weight(resource: Mapping[str, Any]) -> float:
    weight = resource.get("weight", 1.0)
    return tidy(float(weight)) if is_number(weight) and abs(weight) < 1e6 else 1.0
