"""Addresses of the Hugging Face hub as a browser shows them, such as https://huggingface.co/owner/name/tree/main."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ..errors import ArgumentError, CheckpointError, brief

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}", re.IGNORECASE)  # a `Path` keeps one slash of two
_PAGES = ("tree", "blob", "resolve", "raw", "commit")
_NO_MODELS = ("api", "blog", "collections", "datasets", "docs", "models", "papers", "spaces")


@dataclass(frozen=True)
class HubAddress:
    """A model `owner/name` on the hub, a `revision` of it, and the `path` of a file or folder in it."""

    model: str
    revision: str | None
    path: str

    @property
    def is_file(self) -> bool:
        """Whether it is a safetensors file."""
        return self.path.endswith(".safetensors")


def is_address(name: str) -> bool:
    """Whether a name of a model is an address of the web or of the hub, and no path."""
    return _SCHEME.match(name) is not None or name.split("/")[0].lower() in _HOSTS


def read_address(name: str) -> HubAddress:
    """The address that `name` is, for which `is_address` holds. Raises `CheckpointError` with what to type in its place
    if it is not of a model on the hub.
    """
    try:
        url = urlsplit(_SCHEME.sub("https://", name) if _SCHEME.match(name) else f"https://{name}")
        mirror = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").netloc.lower()
    except ValueError as error:
        raise CheckpointError(f"{brief(name)} is not an address ({error}); give a file or a folder") from error
    if url.netloc.lower() not in (*_HOSTS, mirror):
        raise CheckpointError(
            f"{brief(name)} is an address of the web; only those of the Hugging Face hub are read, so download the "
            "file and give its path"
        )
    pieces = [unquote(piece) for piece in url.path.split("/") if piece]
    owner, model, page, revision = [*pieces, "", "", "", ""][:4]
    if not model or owner in _NO_MODELS or page not in ("", *_PAGES):
        raise CheckpointError(
            f"{brief(name)} is not the address of a model on the hub; give owner/name or owner/name/file.safetensors"
        )
    address = HubAddress(f"{owner}/{model}", revision or None, "/".join(pieces[4:]))
    if page in ("blob", "resolve", "raw") and not address.is_file:
        raise CheckpointError(
            f"{brief(name)} is not a .safetensors file; give {address.model} for the whole model, or such a file of it"
        )
    return address


def resolve_address(name: str, revision: str | None, part: str | None) -> tuple[str, str | None]:
    """The name on the hub (`owner/name` or `owner/name/file.safetensors`) and the revision that an address names. The
    folder of a component is part of its model: `part` is the component that is wanted. Raises `CheckpointError`, and
    `ArgumentError` if it names another revision than `revision`.
    """
    address = read_address(name)
    if address.path and not address.is_file and address.path != part:
        component = f" as {address.path}=" if address.path in ("unet", "vae") else ""
        raise CheckpointError(f"{brief(name)} is a folder of a model; give {address.model}{component}")
    if revision and address.revision and revision != address.revision:
        raise ArgumentError(
            f"revision is {revision!r} and the address names {address.revision!r}; give one of them, such as "
            f"{address.model} with the revision"
        )
    file = f"/{address.path}" if address.is_file else ""
    return address.model + file, revision or address.revision
