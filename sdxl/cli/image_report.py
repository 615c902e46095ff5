"""`inspect` of an image: the parameters that it records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from .console import as_json

IMAGES = (".png", ".jpg", ".jpeg", ".webp")


def image_report(path: Path, in_json: bool) -> list[str]:
    """Our parameters, or the text that AUTOMATIC1111 and its kin write into a PNG. Raises `ArgumentError` where an
    image has neither.
    """
    from ..images.record import read_parameters

    try:
        recorded = read_parameters(path)
    except ArgumentError:
        text = None if in_json else _text(path)
        if text is None:
            raise
        return [f"{path}: parameters of another program", *(f"  {line}" for line in text.splitlines())]
    if in_json:
        return as_json(recorded, indent=2).split("\n")
    facts = [*_facts(recorded["request"]), *_facts(recorded["model"])]
    return [f"{path}: an image of {recorded.get('version', 'sdxl')}", *facts]


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"  {name:24} {value}" for name, value in facts.items() if value is not None and value != [])


def _text(path: Path) -> str | None:
    from ..images.image import open_header

    with suppress(OSError, ValueError, SyntaxError), open_header(path, formats=("PNG",)) as image:
        text = image.info.get("parameters")
        return text if isinstance(text, str) else None
    return None
