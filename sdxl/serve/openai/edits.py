"""The image and the mask of images/edits. OpenAI's masks are transparent where they repaint."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ArgumentError
from ..given import Given
from ..service import Service
from ..uploads import Upload

_HALF = 128  # of 255: what is less opaque is repainted


async def read_sources(service: Service, given: Given, files: Mapping[str, Sequence[bytes]]) -> dict[str, Any]:
    """The fields `image`, `mask` and `strength` from the files of a form. Raises `ArgumentError`."""
    images = [*files.get("image", ()), *files.get("image[]", ())]
    masks = files.get("mask", ())
    if len(images) != 1:
        raise ArgumentError(f"image is given {len(images)} times; expected one image file")
    if len(masks) > 1:
        raise ArgumentError(f"mask is given {len(masks)} times; expected one image file, or none")
    image = await service.upload(images[0], "image")
    transparent = image if not masks else await service.upload(masks[0], "mask")
    mask = await service.work_on(_mask, transparent, image)
    if masks and mask is None:
        raise ArgumentError("mask has no transparent part; make transparent what is to be repainted")
    fields = {"image": image, "strength": given.number("strength")}
    return fields if mask is None else fields | {"mask": await service.upload(mask, "mask")}


def _mask(transparent: Upload, image: Upload) -> bytes | None:
    """Our mask as a file, white where an image is transparent, of the size of the other one; None if it is opaque."""
    from PIL import ImageOps

    source = ImageOps.exif_transpose(transparent.open())
    size = ImageOps.exif_transpose(image.open()).size
    if not source.has_transparency_data:
        return None
    alpha = source.convert("RGBA").getchannel("A")
    white = alpha.point([255] * _HALF + [0] * (256 - _HALF))
    if white.getbbox() is None:
        return None
    data = io.BytesIO()
    (white if white.size == size else white.resize(size)).save(data, format="PNG")
    return data.getvalue()
