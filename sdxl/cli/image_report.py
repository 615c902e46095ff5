"""`inspect` of an image, or of a text file with parameters: what it says of how the image was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import as_json

if TYPE_CHECKING:
    from ..images.parameters import Parameters

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".txt", ".json")


def image_report(path: Path, in_json: bool) -> list[str]:
    """The parameters that a file records, ours or another tool's. Raises `ArgumentError` where it has none."""
    from ..images.record import read_parameters

    recorded = read_parameters(path)
    if in_json:
        return as_json(recorded | _foreign(recorded), indent=2).split("\n")
    version = recorded.get("version", "sdxl")
    tool = version if recorded.is_record or recorded.tool in version else f"{recorded.tool} {version}"
    facts = [*_facts(recorded["request"]), *_facts(recorded["model"])]
    sources = {name: f"{identity or 'not named'}, not in the file" for name, identity in recorded.sources.items()}
    return [
        f"{path}: an image of {tool}",
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


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"  {name:24} {value}" for name, value in facts.items() if value is not None and value != [])


def _left(recorded: Parameters) -> Iterator[str]:
    yield from (f"  not mapped: {name} {value}: {reason}" for name, (value, reason) in recorded.unmapped.items())
