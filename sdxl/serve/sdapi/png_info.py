"""What an image file says of how it was made, as AUTOMATIC1111 shows it."""

from __future__ import annotations

import json
from typing import Any

from ...images.texts import find_texts
from ...images.tools.infotext import split_infotext
from ..catalog import STRANGER
from ..uploads import Upload


def png_info(upload: Upload) -> dict[str, Any]:
    """The text `info`, and its fields as `parameters`; empty ones where an image has none. Raises `ArgumentError`."""
    text = STRANGER.message(find_texts(upload.data).parameters or "")
    try:
        parts = split_infotext(text)
    except ValueError:
        return {"info": text, "items": {}, "parameters": {}}
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in parts.fields.items()}
    return {
        "info": text,
        "items": {"parameters": text},
        "parameters": {"Prompt": parts.prompt, "Negative prompt": parts.negative_prompt, **values} | _sides(values),
    }


def _sides(values: dict[str, Any]) -> dict[str, str]:
    """AUTOMATIC1111 splits a size in two."""
    width, cross, height = values.get("Size", "").partition("x")
    return {"Size-1": width, "Size-2": height} if cross else {}
