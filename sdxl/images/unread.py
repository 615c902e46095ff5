"""Tools that leave parameters in images in forms of their own, which are recognised and not read."""

from __future__ import annotations

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
