"""The images and the mask of img2img."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import ArgumentError, brief
from ..given import Given
from ..refusals import UnknownError
from ..service import Service
from ..uploads import Upload, from_base64
from ..work import check_pixels
from .sizes import read_size

_MODES = (0, 1, 2, 3)  # stretch, crop, fill, and enlarged latents, which is stretched here
_FILLS = {2: "latent noise", 3: "latent nothing"}
_BLUR, _MOST_BLUR = 4.0, 100.0


async def read_sources(service: Service, given: Given, warnings: list[str]) -> dict[str, Any]:
    """The fields `image`, `strength`, `mask`, `feather` and `mask_padding`. Raises `ArgumentError` and
    `UnknownError`.
    """
    images = given.items("init_images")
    service.check_count("init_images", images)
    uploads = await _uploads(service, images, "init_images")
    if not uploads:
        raise UnknownError("Init image not found", "init_images")
    if (mode := given.whole("resize_mode", 0)) not in _MODES:
        raise ArgumentError(f"resize_mode is {mode}; expected 0 to 3")
    masks = await _uploads(service, [given.text("mask")], "mask")
    size = read_size(service, given)
    fields: dict[str, Any] = {"strength": given.number("denoising_strength", 0.75)}
    if not masks and mode in (0, 3):
        return fields | {"image": uploads}
    check_pixels(uploads, service.settings)
    from .painting import Painting, prepare

    if not masks:
        images, _ = await service.work_on(prepare, uploads, None, Painting(size, mode))
        return fields | {"image": await _again(service, images, "init_images")}
    only_masked = given.flag("inpaint_full_res", True)
    painting = Painting(
        size,
        mode,
        inverts=given.flag("inpainting_mask_invert"),
        rounds=given.flag("mask_round", True),
        blur=_blur(given),
        fills=_fills(given, warnings),
        only_masked=only_masked,
    )
    images, painted = await service.work_on(prepare, uploads, masks[0], painting)
    fields |= {"image": await _again(service, images, "init_images"), "mask": await _again(service, painted, "mask")}
    if only_masked:
        fields["mask_padding"] = given.whole("inpaint_full_res_padding", 0)
    return fields | ({"feather": painting.feather} if painting.feather else {})


async def _uploads(service: Service, values: Sequence[Any], name: str) -> list[Upload]:
    return [await service.upload(from_base64(each, name), name) for each in values if each not in (None, "")]


async def _again(service: Service, files: Sequence[bytes], name: str) -> list[Upload]:
    return [await service.upload(each, name) for each in files]


def _blur(given: Given) -> tuple[float, float]:
    both = given.number("mask_blur")
    x, y = (given.number(name, _BLUR) for name in ("mask_blur_x", "mask_blur_y"))
    blur = (x, y) if both is None else (both, both)
    for each in blur:
        if not 0 <= each <= _MOST_BLUR:
            raise ArgumentError(f"mask_blur is {brief(each)}; expected 0 to {_MOST_BLUR:g}")
    return blur


def _fills(given: Given, warnings: list[str]) -> bool:
    """Whether the masked part is filled from its surroundings first."""
    way = given.whole("inpainting_fill", 0)
    if way not in (0, 1, *_FILLS):
        raise ArgumentError(f"inpainting_fill is {way}; expected 0 to 3")
    if way in _FILLS and given.number("denoising_strength", 0.75) < 1:
        warnings.append(f"inpainting_fill {way}, {_FILLS[way]}, is not done here; the masked part begins as it is")
    return way == 0
