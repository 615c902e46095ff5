"""Control images: their size and what they should look like."""

from __future__ import annotations

from PIL import Image

from ..errors import warn
from .image import open_control, resize

SHAPES_DIFFER = 1.02
"""From this ratio of two shapes on, fitting an image to the other is warned of."""
LINES = {"canny", "lineart", "anime_lineart", "mlsd", "scribble", "sketch", "softedge", "hed", "pidi", "ted"}
"""Types of control that are white lines on black."""


def fit_control(
    image: Image.Image, width: int, height: int, *, stretch: bool = False, name: str = "control"
) -> Image.Image:
    """A control image as 8-bit RGB of `width` x `height`.

    An image of that size stays as it is, bit for bit. Others are cut to the shape around their centre, or stretched to
    it as diffusers does, and resized with the Lanczos filter. Images are rotated by their EXIF data, transparent parts
    become black. Warns where the shapes differ by more than 2 %; `name` is the argument's.
    """
    image = open_control(image, name)
    ratio = image.width * height / (image.height * width)
    if max(ratio, 1 / ratio) > SHAPES_DIFFER:
        how = "it is stretched" if stretch else "its borders are cut off"
        warn(
            f"{name} is {image.width} x {image.height}, of another shape than {width} x {height}; {how}. "
            f"Try an image of {width} x {height}"
        )
    return resize(image if stretch else _cut(image, width, height), (height, width))


def _cut(image: Image.Image, width: int, height: int) -> Image.Image:
    """The largest part of the shape `width` x `height` around the centre, in whole pixels."""
    inner = min(image.width, max(round(image.height * width / height), 1))
    tall = min(image.height, max(round(image.width * height / width), 1))
    left, top = (image.width - inner) // 2, (image.height - tall) // 2
    return image.crop((left, top, left + inner, top + tall))


def warn_of_white_lines(image: Image.Image, type: str, name: str = "control") -> None:
    """Warn where a control image of lines (`LINES`) is mostly white: nets for these want white lines on black."""
    if type.lower() not in LINES:
        return
    counts = image.convert("L").histogram()
    if sum(counts[128:]) > sum(counts[:128]):
        warn(f"{name} is mostly white; {type} expects white lines on black. Try preprocess='invert'")
