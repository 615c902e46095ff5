"""Models, networks and arguments under the names by which AUTOMATIC1111's clients know them."""

from __future__ import annotations

import re

from ..service import Service

_THEIRS = {  # of our arguments whose values are the same there
    "batches": "n_iter",
    "guidance_scale": "cfg_scale",
    "mask_padding": "inpaint_full_res_padding",
    "num_images": "batch_size",
    "strength": "denoising_strength",
    "upscaler": "hr_upscaler",
    "variation_seed": "subseed",
    "variation_strength": "subseed_strength",
}
_HASH = re.compile(r" \[[0-9a-fA-F]{4,64}\]$")


def without_hash(title: str) -> str:
    """A title without the hash behind the name."""
    return _HASH.sub("", title.strip())


def model_name(service: Service, title: str) -> str | None:
    """The name of a model from its title, with or without a hash and an ending; None for an empty one. Raises
    `UnknownError`.
    """
    name = without_hash(title).replace("\\", "/")
    if not name or name == "None":
        return None
    if name in service.catalog.models:
        return name
    return service.catalog.model(name.rpartition("/")[2])


def in_their_words(message: str) -> str:
    """A message about one of our arguments, which begins with its name, with the name that the client has given."""
    name, space, rest = message.partition(" ")
    return _THEIRS.get(name, name) + space + rest
