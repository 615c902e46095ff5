"""Models and networks under the names by which AUTOMATIC1111's clients ask for them."""

from __future__ import annotations

import re

from ..service import Service

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
