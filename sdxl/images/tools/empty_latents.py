"""Empty latents of other nodes than ComfyUI's own, such as pickers of a size."""

from __future__ import annotations

import re
from typing import Any

from .graph import Graph, Link, Node, literal

_FROM = ("samples", "latent", "latent_image", "pixels", "image", "images")
_SIZE = re.compile(r"(?<!\d)(\d{3,4})\s*[xX\u00d7]\s*(\d{3,4})(?!\d)")
_PLAIN = {"width", "height", "batch_size"}


def size_of(graph: Graph, node: Node) -> dict[str, Any] | None:
    """The width and height, and the number of images, of a node that makes latents of nothing; None if it states none,
    or more than one.
    """
    if any(isinstance(node.inputs.get(name), Link) for name in _FROM):
        return None
    values = {name: literal(graph, value) for name, value in node.inputs.items()}
    found = [_SIZE.findall(value) for value in values.values() if isinstance(value, str)]
    sizes = {(int(width), int(height)) for each in found for width, height in each}
    width, height, count = (values.get(name) for name in ("width", "height", "batch_size"))
    if not sizes and values.keys() <= _PLAIN and type(width) is int and type(height) is int:
        sizes = {(width, height)}
    if len(sizes) != 1 or "swap_dimensions" in values:
        return None
    (size,) = sizes
    several = {"num_images": count} if type(count) is int and count > 1 else {}
    return {"width": size[0], "height": size[1], **several}


def is_empty(graph: Graph, node: Node) -> bool:
    """Whether it makes latents of nothing, of a size that it states."""
    return size_of(graph, node) is not None
