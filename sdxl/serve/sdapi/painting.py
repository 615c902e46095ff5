"""Images and masks as AUTOMATIC1111's clients send them, made into what our pipeline takes.

Imports PIL and numpy, so it is imported with the first image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from ...images.image import open_control, open_mask, open_picture
from ..uploads import Upload

CROP, FILL = 1, 2
_REACH = 2.5  # sigmas that AUTOMATIC1111's blur of masks reaches
_HALF = 128
_MOST_FILLED = 1024  # pixels of a side
Size = tuple[int, int]


@dataclass(frozen=True)
class Painting:
    """How images and masks are prepared. `size` is (width, height), `mode` AUTOMATIC1111's resize mode: `CROP` and
    `FILL` keep proportions. `rounds` makes a mask black and white; `blur` is its sigma in x and y. `fills` replaces
    what is masked by its surroundings. With `only_masked` an image keeps its size.
    """

    size: tuple[int | None, int | None] = (None, None)
    mode: int = 0
    inverts: bool = False
    rounds: bool = True
    blur: tuple[float, float] = (0.0, 0.0)
    fills: bool = False
    only_masked: bool = False

    @property
    def feather(self) -> int:
        """Pixels over which the result fades in, from where a blurred mask begins: half of it at the mask's own
        edge, as in AUTOMATIC1111.
        """
        return reach(min(self.blur)) * (2 if self.rounds else 1)


def prepare(uploads: Sequence[Upload], mask: Upload | None, how: Painting) -> tuple[list[bytes], list[bytes]]:
    """The files of the images, and of a mask for each of them if there is one. It takes time."""
    images = [open_picture(each.open(), "init_images") for each in uploads]
    width, height = how.size
    keeps = how.mode not in (CROP, FILL) or width is None or height is None or (how.only_masked and mask is not None)
    size = None if keeps or width is None or height is None else (width, height)
    fitted = [each if size is None else fit(each, size, how.mode) for each in images]
    if mask is None:
        pairs = zip(uploads, images, fitted, strict=True)
        return [given.data if own is new else _png(new) for given, own, new in pairs], []
    grey = read_mask(mask)
    masks = [grey.resize(each.size) if size is None else fit(grey, size, how.mode) for each in fitted]
    if how.rounds:
        masks = [each.point([0] * _HALF + [255] * (256 - _HALF)) for each in masks]
    if how.inverts:
        masks = [ImageOps.invert(each) for each in masks]
    if how.fills:
        fitted = [fill(*each) for each in zip(fitted, masks, strict=True)]
    masks = [blurred(each, how.blur) for each in masks]
    if how.rounds:  # all that a blur reaches is repainted, and fades in from there: `feather`
        masks = [each.point([0] + [255] * 255) for each in masks]
    return [_png(each) for each in fitted], [_png(each) for each in masks]


def read_mask(upload: Upload) -> Image.Image:
    """A mask, white where it repaints. Where an image has transparent parts its opaque ones are repainted."""
    image = upload.open()
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        return ImageOps.exif_transpose(image).getchannel("A")
    return open_mask(image)


def fit(image: Image.Image, size: Size, mode: int) -> Image.Image:
    """An image of another shape at (width, height): cut (`CROP`), or with its outermost lines repeated (`FILL`)."""
    if image.size == size:
        return image
    width, height = size
    scales = width / image.width, height / image.height
    scale = max(scales) if mode == CROP else min(scales)
    inner = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    if mode == CROP:
        box_width, box_height = width / scale, height / scale
        left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
        box = max(left, 0), max(top, 0), min(left + box_width, image.width), min(top + box_height, image.height)
        return image.resize(size, Image.Resampling.LANCZOS, box)
    pixels = np.asarray(image.resize(inner, Image.Resampling.LANCZOS))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    borders = [(top, height - inner[1] - top), (left, width - inner[0] - left)]
    return Image.fromarray(np.pad(pixels, [*borders, *[(0, 0)] * (pixels.ndim - 2)], mode="edge"))


def reshaped(upload: Upload, size: Size, mode: int | None) -> bytes:
    """The file of an image at (width, height), stretched where there is no mode. It takes time."""
    image = open_control(upload.open(), "image")
    return _png(image.resize(size, Image.Resampling.LANCZOS) if mode is None else fit(image, size, mode))


def reach(sigma: float) -> int:
    """How many pixels outside of a mask a blur changes."""
    return int(_REACH * sigma + 0.5)


def blurred(mask: Image.Image, sigmas: tuple[float, float]) -> Image.Image:
    """A mask blurred by a Gaussian of these sigmas in x and y, cut off at its `reach`."""
    pixels = np.asarray(mask).astype(np.float32)
    for axis, sigma in zip((1, 0), sigmas, strict=True):
        if radius := reach(sigma):
            weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
            lines = pixels.swapaxes(0, axis)
            around = np.pad(lines, ((radius, radius), (0, 0)), mode="edge")
            sums = np.zeros_like(lines)
            for n, weight in enumerate((weights / weights.sum()).astype(np.float32)):
                sums += weight * around[n : n + len(lines)]
            pixels = sums.swapaxes(0, axis)
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """An image (RGB) whose masked part is a smooth continuation of its surroundings, by averages of ever larger squares
    (push-pull, Gortler et al. 1996, "The Lumigraph", section 3.4). What the mask leaves black stays bit for bit.
    """
    if max(image.size) > _MOST_FILLED:  # what is smooth needs no more
        small = ImageOps.contain(image, (_MOST_FILLED, _MOST_FILLED))
        parts = mask.resize(small.size, Image.Resampling.BOX).point([0] + [255] * 255)
        filled = fill(small, parts).resize(image.size, Image.Resampling.BICUBIC)
        return Image.composite(filled, image, mask)
    pixels, weight = np.asarray(image).astype(np.float32), 1 - np.asarray(mask).astype(np.float32)[..., None] / 255
    if not weight.any():
        return image
    return Image.fromarray(np.rint(_pull(pixels, weight)).clip(0, 255).astype(np.uint8))


def _pull(pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Pixels (H, W, C) that are known by their weight (H, W, 1), and the average of those around them where not."""
    height, width = pixels.shape[:2]
    if weight.min() >= 1 or height * width == 1:
        return pixels
    odd = [(0, height % 2), (0, width % 2), (0, 0)]
    sums, weights = _fours(np.pad(pixels * weight, odd)), _fours(np.pad(weight, odd))
    coarse = _pull(sums / np.maximum(weights, 1e-6), weights.clip(0, 1))
    return pixels * weight + _smooth(coarse.repeat(2, 0).repeat(2, 1))[:height, :width] * (1 - weight)


def _fours(values: np.ndarray) -> np.ndarray:
    """Sums of squares of four pixels."""
    rows = values[::2] + values[1::2]
    return rows[:, ::2] + rows[:, 1::2]


def _smooth(pixels: np.ndarray) -> np.ndarray:
    """Each pixel with its neighbours in parts of 1 : 2 : 1, which makes squares into slopes."""
    for axis in (0, 1):
        lines = pixels.swapaxes(0, axis)
        around = np.pad(lines, ((1, 1), (0, 0), (0, 0)), mode="edge")
        pixels = ((around[:-2] + 2 * lines + around[2:]) / 4).swapaxes(0, axis)
    return pixels


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG", compress_level=1)
    return data.getvalue()
