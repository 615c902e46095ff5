"""`inspect` of an image, or of a text file with parameters: what it says of how the image was made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import as_json

if TYPE_CHECKING:
    from ..images.parameters import Parameters

_HASH = re.compile(r"(?:sha256:)?\b([0-9a-f]{10})[0-9a-f]{54}\b")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".txt", ".json")


def image_report(path: Path, in_json: bool) -> list[str]:
    """The parameters that a file records, ours or another tool's. Raises `ArgumentError` where it has none."""
    from ..images.record import read_parameters

    recorded = read_parameters(path)
    if in_json:
        return as_json(recorded | _foreign(recorded), indent=2).split("\n")
    version = str(recorded.get("version", "sdxl"))
    tool = version if recorded.is_record or recorded.tool in version else f"{recorded.tool} {version}"
    facts = [*_facts(recorded["request"]), *_facts(recorded["model"])]
    sources = {name: f"{identity or 'not named'}, not in the file" for name, identity in recorded.sources.items()}
    return [
        f"{path}: an image of {', '.join([tool, *_machine(recorded)])}",
        *facts,
        *(_facts(sources) if not recorded.is_record else ()),
        *_left(recorded),
    ]


def _foreign(recorded: Parameters) -> dict[str, Any]:
    """What another tool's parameters have beside a record."""
    if recorded.is_record:
        return {}
    unmapped = {name: {"value": value, "reason": reason} for name, (value, reason) in recorded.unmapped.items()}
    return {"tool": recorded.tool, "sources": recorded.sources, "unmapped": unmapped}


def _machine(recorded: Parameters) -> Iterator[str]:
    yield from (f"{name} {recorded[name]}" for name in ("torch", "device") if recorded.is_record and name in recorded)


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    """A line for each value, and for each entry of a list of LoRAs, controls or references."""
    for name, value in facts.items():
        entries = value if isinstance(value, list) and all(isinstance(each, dict) for each in value) else [value]
        yield from (f"  {name:24} {_shown(each)}" for each in entries if each is not None)


def _shown(value: object) -> str:
    """A value for people: of a hash the first 10 digits, by which tools look for it."""
    if isinstance(value, dict):
        return ", ".join(
            f"{name} {'not in the file' if each is None else _shown(each)}" for name, each in value.items()
        )
    return _HASH.sub(r"\1", value) if isinstance(value, str) else str(value)


def _left(recorded: Parameters) -> Iterator[str]:
    yield from (f"  not mapped: {name} {value}: {reason}" for name, (value, reason) in recorded.unmapped.items())
