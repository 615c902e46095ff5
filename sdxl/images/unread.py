"""Tools that leave parameters in images in forms of their own, which are recognised and not read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_CHUNKS = {
    "fooocus_scheme": "Fooocus",
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "use_stable_diffusion_model": "Easy Diffusion",
}
_WORDS = {
    "parameters": {'"sui_image_params"': "SwarmUI", '"full_prompt"': "Fooocus"},
    "Software": {"NovelAI": "NovelAI"},
    "XML:com.adobe.xmp": {"Draw Things": "Draw Things"},
}


def unread_tool(chunks: Mapping[Any, Any]) -> str | None:
    """The tool that has written the texts of a PNG, by their names; None if it is none of these. The UserComment of an
    EXIF counts as `parameters`.
    """
    named = [tool for name, tool in _CHUNKS.items() if name in chunks]
    for name, words in _WORDS.items():
        named += [tool for word, tool in words.items() if word in str(chunks.get(name, ""))]
    return named[0] if named else None


_KEYS: dict[str, tuple[frozenset[str], ...]] = {
    "SwarmUI": (frozenset({"sui_image_params"}),),
    "Fooocus": (frozenset({"metadata_scheme"}), frozenset({"full_prompt"}), frozenset({"Metadata Scheme"})),
    "InvokeAI": (
        frozenset({"app_version", "model"}),
        frozenset({"generation_mode", "model"}),
        frozenset({"app_version", "image"}),
    ),
    "NovelAI": (frozenset({"uc", "sampler", "noise_schedule"}), frozenset({"uc", "scale", "sampler", "seed", "steps"})),
    "Draw Things": (frozenset({"c", "uc", "model"}), frozenset({"seed_mode"}), frozenset({"seedMode"})),
    "Easy Diffusion": (frozenset({"use_stable_diffusion_model"}), frozenset({"Stable Diffusion model"})),
}


def unread_json(text: str) -> str | None:
    """The tool that has written a text of JSON, by the names in it; None if it is none of these."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    order = ("Draw Things", *_KEYS)  # its keys contain some of NovelAI's
    return next((tool for tool in order if any(keys <= data.keys() for keys in _KEYS[tool])), None)
