"""The files and tensors that a request starts from, opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from torch import Tensor

from ..errors import ArgumentError
from ..images.image import fingerprint, open_latents, open_sources
from .argument_groups import SOURCES
from .control_images import ControlImages, open_controls
from .reference_images import ReferenceImages, open_references
from .request import Request, spread


@dataclass(frozen=True)
class Sources:
    """`images` are RGB, `masks` grey (mode L): one for all prompts, or one for each. `image_latents` are scaled latents
    (B, 4, h, w) in place of images, `start_noise` is noise of variance 1. `controls` and `references` are the images of
    these.
    """

    images: tuple[Image, ...] | None = None
    image_latents: Tensor | None = None
    masks: tuple[Image, ...] | None = None
    start_noise: Tensor | None = None
    controls: tuple[ControlImages, ...] = ()
    references: tuple[ReferenceImages, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """The arguments of `Request` that give these sources, so that their files are not opened again."""
        image = self.image_latents if self.images is None else list(self.images)
        masks = None if self.masks is None else list(self.masks)
        arguments = dict(zip(SOURCES, (image, masks, self.start_noise), strict=True))
        return {name: value for name, value in arguments.items() if value is not None}

    def fingerprints(self, count: int) -> dict[str, list[str]]:
        """Hashes of the content, for each argument those of `count` images."""
        return {name: [fingerprint(each) for each in spread(value, count)] for name, value in self.arguments().items()}


def read_sources(request: Request) -> Sources:
    """Open what a request starts from. Raises `ArgumentError`."""
    noise = None if request.latents is None else open_latents(request.latents, "latents")
    controls, references = open_controls(request), open_references(request)
    if request.image is None:
        return Sources(start_noise=noise, controls=controls, references=references)
    count = len(request.prompts)
    image = open_sources(request.image, "image", count, request.conventions.alpha == "dropped")
    masks = None if request.mask is None else open_sources(request.mask, "mask", count)
    assert not isinstance(masks, Tensor)
    images, latents = (None, image) if isinstance(image, Tensor) else (image, None)
    if request.outpaint is not None and (not any(request.outpaint) or images is None):
        raise ArgumentError(
            f"outpaint is {request.outpaint}; it needs an image (not latents) and at least one border above 0"
        )
    if images is not None and masks is not None:
        _check_sizes(images, masks)
    return Sources(images, latents, masks, noise, controls, references)


def _check_sizes(images: tuple[Image, ...], masks: tuple[Image, ...]) -> None:
    count = max(len(images), len(masks))
    for image, mask in zip(spread(images, count), spread(masks, count), strict=True):
        if image.size != mask.size:
            raise ArgumentError(
                f"mask is {mask.width} x {mask.height} and image {image.width} x {image.height}; "
                "they must be of the same size, resize the mask"
            )
