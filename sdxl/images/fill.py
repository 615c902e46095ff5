"""The window of `mask_padding` as diffusers has it: how it grows, is fitted to the work, and back to the window.

Sizes are (height, width), boxes (left, top, right, bottom) as in PIL.
"""

from __future__ import annotations

from PIL import Image

Size = tuple[int, int]
Box = tuple[int, int, int, int]


def grow_box(box: Box, padding: int, size: Size, whole: Size) -> Box:
    """A box in an image of the size `whole` enlarged by `padding` and then, on two sides, to the proportions of `size`
    as far as the image allows. Fractions of a pixel are cut off, and an odd pixel lies at the right or the bottom.
    """
    height, width = whole
    left, top = max(box[0] - padding, 0), max(box[1] - padding, 0)
    right, bottom = min(box[2] + padding, width), min(box[3] + padding, height)
    ratio = size[1] / size[0]
    if (right - left) / (bottom - top) > ratio:
        top, bottom = _grow(top, bottom, (right - left) / ratio, height)
    else:
        left, right = _grow(left, right, (bottom - top) * ratio, width)
    return left, top, right, bottom


def _grow(start: int, stop: int, length: float, most: int) -> tuple[int, int]:
    """An interval made `length` long, moved to lie within 0..`most`."""
    more = int(length - (stop - start))
    start, stop = start - more // 2, stop + more - more // 2
    beyond = max(stop - most, 0)
    start, stop = start - beyond, stop - beyond
    before = max(-start, 0)
    return start + before, min(stop + before, most)


def fill(image: Image.Image, size: Size) -> Image.Image:
    """An image in its own proportions in the middle of `size`, between borders in the colours of its edges. Where the
    borders are uneven, the last line is black.
    """
    height, width = size
    fitted = _scaled(image, size, larger=False)
    left, top = width // 2 - fitted.width // 2, height // 2 - fitted.height // 2
    filled = Image.new(image.mode, (width, height))
    filled.paste(fitted, (left, top))
    for x, place in ((0, 0), (fitted.width, left + fitted.width)) if left else ():
        filled.paste(fitted.resize((left, height), box=(x, 0, x, fitted.height)), (place, 0))
    for y, place in ((0, 0), (fitted.height, top + fitted.height)) if top else ():
        filled.paste(fitted.resize((width, top), box=(0, y, fitted.width, y)), (0, place))
    return filled


def unfill(image: Image.Image, size: Size) -> Image.Image:
    """What `fill` made of an image of that size: its middle, in the same proportions as it is."""
    height, width = size
    fitted = _scaled(image, size, larger=True)
    left, top = fitted.width // 2 - width // 2, fitted.height // 2 - height // 2
    return fitted.crop((left, top, left + width, top + height))


def _scaled(image: Image.Image, size: Size, larger: bool) -> Image.Image:
    """An image in its own proportions as large as fits into a size, or so that it covers it."""
    height, width = size
    if (width / height < image.width / image.height) == larger:
        width = max(image.width * height // image.height, 1)
    else:
        height = max(image.height * width // image.width, 1)
    return image.resize((width, height), Image.Resampling.LANCZOS)
