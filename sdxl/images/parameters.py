"""What a file says of how its image was made, whichever tool has written it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

SOURCES = ("image", "mask", "latents")
"""The arguments of a request that no file contains: what its image was made from."""


class NamedFile(NamedTuple):
    """A file by the `name` and the `hash` that a tool recorded; the hash has the first hexadecimal digits, or all."""

    name: str | None
    hash: str | None


class Unmapped(NamedTuple):
    """A value that has no counterpart in a request, and why."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Origin:
    """Which `tool` has written parameters, what of them stays `unmapped`, and which `sources` the image was made from,
    by argument: what identifies each, or None.
    """

    tool: str = "sdxl"
    unmapped: Mapping[str, Unmapped] | None = None
    sources: Mapping[str, str | None] | None = None


class Parameters(dict[str, Any]):
    """What a file records: a dict with "version", "model" (arguments of `ModelRequest`) and "request" (arguments of
    `Request`), as `Result.parameters` has them. It is a dict since records are JSON.

    `tool` is the program that wrote the file, `unmapped` has all that has no counterpart here, and `sources` what the
    image was made from and the file does not contain. `is_record` says that it is the record of `save_image`, which
    lacks nothing.
    """

    def __init__(self, record: Mapping[str, Any], origin: Origin | None = None) -> None:
        super().__init__(record)
        self.is_record = origin is None
        origin = origin or Origin(sources=_sources(record["request"]))
        self.tool = origin.tool
        self.unmapped: dict[str, Unmapped] = dict(origin.unmapped or {})
        self.sources: dict[str, str | None] = dict(origin.sources or {})

    @property
    def request(self) -> dict[str, Any]:
        """The arguments of `Request`."""
        return dict(self["request"])

    @property
    def model(self) -> NamedFile:
        """The model's name and hash."""
        return self.file("model")

    @property
    def loras(self) -> list[dict[str, Any]]:
        """The LoRAs: "file", "weight", and where they are known "text_weight" and "hash"."""
        hashes = self.get("lora_hashes") or {}
        found = [dict(each) for each in self["request"].get("loras") or []]
        known = [each.get("hash") or hashes.get(str(each["file"])) for each in found]
        return [each | ({"hash": hash} if hash else {}) for each, hash in zip(found, known, strict=True)]

    def file(self, part: str) -> NamedFile:
        """The name and the hash of the model, or of its refiner, unet or vae."""
        hashes = self["model"].get("sha256")
        found = hashes.get(part) if isinstance(hashes, Mapping) else None
        name = self["model"].get(part)
        return NamedFile(None if name is None else str(name), found if isinstance(found, str) else None)


def _sources(request: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: str(request[name]) for name in SOURCES if request.get(name) is not None}
