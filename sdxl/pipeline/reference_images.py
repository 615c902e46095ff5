"""The images and masks of a request's references, opened."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL.Image import Image

from ..adapters.reference import Reference, read_references
from ..errors import ArgumentError, brief, warn
from ..images.clip_pixels import lost_share
from ..images.image import fingerprint, open_mask, open_picture
from .request import Request, spread

_MUCH = 1 / 3  # the share of an image that is cut off without a word


@dataclass(frozen=True)
class ReferenceImages:
    """`images` are RGB, those of a reference for each image to generate, side by side; `mask` is grey (mode L)."""

    images: tuple[tuple[Image, ...], ...]
    mask: Image | None

    def hash(self, number: int) -> str:
        """A hash of the content that image `number` sees."""
        hashes = [*self.hashes[number], *self._mask_hash]
        return hashes[0] if len(hashes) == 1 else "sha256:" + hashlib.sha256("".join(hashes).encode()).hexdigest()

    @cached_property
    def hashes(self) -> tuple[tuple[str, ...], ...]:
        """Hashes of the contents of `images`."""
        shared = {id(each): each for several in self.images for each in several}
        known = {key: fingerprint(each) for key, each in shared.items()}
        return tuple(tuple(known[id(each)] for each in several) for several in self.images)

    @cached_property
    def _mask_hash(self) -> tuple[str, ...]:
        return () if self.mask is None else (fingerprint(self.mask),)


def open_references(request: Request) -> tuple[ReferenceImages, ...]:
    """Open what the references of a request show. Raises `ArgumentError`; warns of images that lose much, and of those
    that are not the ones of a recorded image.
    """
    return tuple(_open(each, len(request.prompts), request.count) for each in read_references(request.reference or ()))


def _open(reference: Reference, prompts: int, count: int) -> ReferenceImages:
    name = f"the image of reference {reference.adapter}"
    entries = reference.images
    if len(entries) not in (1, prompts, count):
        raise ArgumentError(
            f"{name} has {len(entries)} entries for {count} images; give one for each, one for each prompt, or one"
        )
    for source in (*(image for images in entries for image in images), reference.mask):
        if not isinstance(source, (Image, str, Path, type(None))):
            raise ArgumentError(f"{name} or its mask is {brief(source)}; give a path or a PIL image")
    opened = [
        tuple(open_picture(image, f"reference {reference.adapter}: image") for image in images) for images in entries
    ]
    for image in {id(each): each for images in opened for each in images}.values():
        if lost_share(image) > _MUCH:
            warn(
                f"{name} is {image.width} x {image.height}, and the image encoder sees its middle square alone; cut or "
                "pad it to a square"
            )
    mask = None if reference.mask is None else open_mask(reference.mask, f"reference {reference.adapter}: mask")
    found = ReferenceImages(tuple(spread(opened, count)), mask)
    if reference.image_hash is not None and reference.image_hash != found.hash(0):
        warn(f"{name} is not the one that the recorded image was made with; the result will differ")
    return found
