"""The sizes of images: canvases, the size of the work, and the size conditioning (SDXL paper, section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import ArgumentError
from ..images.canvas import Canvas, extend, fit_image, make_canvas
from ..images.image import MOST_PIXELS
from ..models.config import ModelConfig
from ..text.encode import Sizes
from .request import Request, Size, spread
from .sources import Sources


def make_canvases(request: Request, sources: Sources, config: ModelConfig, steps: int) -> tuple[Canvas, ...]:
    """One canvas for each image to generate in that many steps, shared where the source is."""
    if sources.images is None:
        return ()
    masks: Sequence[Any] = sources.masks or [None]
    number = max(len(sources.images), len(masks))
    pairs = list(zip(spread(sources.images, number), spread(masks, number), strict=True))
    if request.outpaint:
        pairs = [extend(image, mask, request.outpaint) for image, mask in pairs]
    if (request.height, request.width, request.mask_padding) == (None,) * 3:
        pairs = [fit_image(image, mask, request.conventions.image_size) for image, mask in pairs]
    made = [
        make_canvas(
            image,
            mask,
            (request.height, request.width),
            config.native_size,
            config.vae.factor,
            darkest(request, config, steps),
            request.mask_padding,
            request.feather or 0,
            request.conventions.mask_window == "filled",
            request.conventions.paste_grey == "doubled",
            request.conventions.pixels == "cut",
        )
        for image, mask in pairs
    ]
    return tuple(spread(made, request.count))


def work_size(request: Request, sources: Sources, config: ModelConfig, canvases: Sequence[Canvas]) -> Size:
    """The (height, width) that is worked on."""
    factor = config.vae.factor
    if canvases:
        height, width = canvases[0].size
        if other := [canvas.size for canvas in canvases if canvas.size != (height, width)]:
            raise ArgumentError(
                f"the images are worked on at {width} x {height} and {other[0][1]} x {other[0][0]}, and a batch must "
                "be of one size; give width and height, or generate them one after the other"
            )
    else:
        given = sources.image_latents if sources.image_latents is not None else sources.start_noise
        height, width = config.native_size
        if given is not None and given.ndim == 4:
            height, width = (side * factor for side in given.shape[-2:])
        height, width = request.height or height, request.width or width
    for name, side in (("width", width), ("height", height)):
        if side % factor:
            raise ArgumentError(
                f"{name} is {side}; it must be a multiple of {factor}: try {max(side // factor, 1) * factor}"
            )
    if height * width > MOST_PIXELS:
        raise ArgumentError(
            f"{width} x {height} is more than {MOST_PIXELS} pixels; SDXL was made for about 1024 x 1024, give less"
        )
    return height, width


def check_latents(request: Request, sources: Sources, config: ModelConfig, size: Size) -> Size:
    """The (height, width) of the latents. Raises `ArgumentError` for given ones of another shape."""
    height, width = (side // config.vae.factor for side in size)
    shape, given = (request.count, config.vae.latent_channels, height, width), sources.start_noise
    if given is not None and tuple(given.shape) != shape:
        raise ArgumentError(f"latents have shape {list(given.shape)}; they must be {list(shape)}")
    if sources.image_latents is not None:
        _check_image_latents(request, sources, sources.image_latents, config, size, shape)
    return height, width


def _check_image_latents(
    request: Request, sources: Sources, latents: Tensor, config: ModelConfig, size: Size, shape: tuple[int, ...]
) -> None:
    """Latents given as the image are (B, 4, h, w), or a part of them that goes evenly into the B images."""
    if config.kind == "inpainting":
        raise ArgumentError("the image is latents, and an inpainting model must see its pixels; give an image")
    if latents.shape[1:] != shape[1:] or shape[0] % len(latents):
        raise ArgumentError(f"the image's latents have shape {list(latents.shape)}; they must be {list(shape)}")
    height, width = size
    for mask in sources.masks or ():
        if mask.size != (width, height):
            raise ArgumentError(
                f"mask is {mask.width} x {mask.height} and the image's latents are those of {width} x {height}; "
                "they must be of the same size, resize the mask"
            )
    if request.mask_padding is not None:
        raise ArgumentError("mask_padding cuts a box out of an image, and the image is latents; give an image")


def darkest(request: Request, config: ModelConfig, steps: int) -> int:
    """The darkest grey of a mask (1 to 255) that is repainted: with 4 channels in int(grey / 255 * steps) steps."""
    if (rule := request.conventions.grey) != "steps":
        return 128 if rule == "binary" else 1
    return 128 if config.kind == "inpainting" else math.ceil(255 / max(steps, 1))


def size_conditioning(request: Request, size: Size, canvas: Canvas | None, kind: str) -> tuple[Sizes, Sizes]:
    """The size conditioning of an image, and of its negative prompt, by a model of a kind.

    With `mask_padding` it is the real position of the window, unless the conventions are others; arguments of the
    caller take precedence.
    """
    is_placed = request.mask_padding is not None and request.conventions.padded_sizes == "place"
    cut = canvas if is_placed else None
    original = request.original_size or (cut.original_size if cut else size)
    crop = request.crop_top_left or (cut.crop_top_left if cut else (0, 0))
    sizes = Sizes(original, crop, request.target_size or size, request.aesthetic_score)
    return sizes, negative_sizes(request, sizes, kind)


def negative_sizes(request: Request, sizes: Sizes, kind: str) -> Sizes:
    """The size conditioning of the negative prompt beside that of the prompt."""
    original, crop = request.negative_original_size, request.negative_crop_top_left
    target, score = request.negative_target_size, request.negative_aesthetic_score
    if request.conventions.negative_sizes == "pair":  # diffusers'
        if kind == "refiner":
            crop = crop or (0, 0)
        elif request.image is not None:
            crop = None
        elif original is None or target is None:
            original = crop = target = None
        else:
            crop = crop or (0, 0)
    return Sizes(original or sizes.original, crop or sizes.crop, target or sizes.target, score)
