"""Control images made of others, with Pillow and NumPy: what a ControlNet for that kind of image was trained on.

`PREPROCESSORS` takes 8-bit RGB images and gives 8-bit RGB images of the same size. Preprocessors that need a network
are named in the error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches

import numpy as np
from PIL import Image, ImageOps

from ..errors import ArgumentError, brief, warn
from .canny import canny_edges
from .gaussian import gaussian_blur
from .image import Picture, open_mask, open_picture


def canny(image: Image.Image, low: float = 100, high: float = 200, sigma: float = 0) -> Image.Image:
    """White edges on black, the same as OpenCV's `Canny(pixels, low, high)`, after a Gaussian blur if `sigma` is given.
    Raises `ArgumentError`.
    """
    return _grey_as_rgb(canny_edges(np.asarray(image), low, high, sigma) * np.uint8(255))


def invert(image: Image.Image) -> Image.Image:
    """The negative: a drawing in black on white as the white on black that nets for lines want."""
    return ImageOps.invert(image)


def blur(image: Image.Image, sigma: float = 9) -> Image.Image:
    """A Gaussian blur. Raises `ArgumentError`."""
    return Image.fromarray(np.rint(gaussian_blur(np.asarray(image), sigma)).astype(np.uint8))


def tile(image: Image.Image, factor: float = 4) -> Image.Image:
    """Without details: reduced by `factor` (area) and enlarged again (cubic). Raises `ArgumentError`."""
    if not 1 <= factor <= 64:
        raise ArgumentError(f"tile's factor is {factor:g}; expected 1 to 64. Try 4")
    small = max(round(image.width / factor), 1), max(round(image.height / factor), 1)
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def grey(image: Image.Image) -> Image.Image:
    """The luminance, for nets that colour an image (ITU-R 601)."""
    return image.convert("L").convert("RGB")


def scribble(image: Image.Image, threshold: float = 32) -> Image.Image:
    """White strokes on black where the image is darker than around it: the difference of two Gaussians of 0.5 and 5
    pixels, in all channels more than half of `threshold` (XDoG; Winnemoeller et al. 2012). Raises `ArgumentError`.
    """
    if not 0 <= threshold <= 510:
        raise ArgumentError(f"scribble's threshold is {threshold:g}; expected 0 to 510. Try 32")
    pixels = np.asarray(image)
    difference = gaussian_blur(pixels, 5) - gaussian_blur(pixels, 0.5)
    return _grey_as_rgb((difference.min(axis=2) > threshold / 2) * np.uint8(255))


def repaint(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Black where the mask (mode L, of the same size) is 128 or above: what a net for inpainting fills in. Raises
    `ArgumentError`.
    """
    if mask.size != image.size:
        raise ArgumentError(
            f"mask is {mask.width} x {mask.height} and the image {image.width} x {image.height}; "
            "expected one size. Try a mask of the image's size"
        )
    pixels = np.array(image)
    pixels[np.asarray(mask) >= 128] = 0
    return Image.fromarray(pixels)


def _grey_as_rgb(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).convert("RGB")


PREPROCESSORS: dict[str, Callable[..., Image.Image]] = {
    each.__name__: each for each in (canny, invert, blur, tile, grey, scribble, repaint)
}
"""Each takes an image, `repaint` also a mask; what follows are numbers with defaults."""

OTHERS = {
    "depth": "Depth Anything, MiDaS or ZoeDepth",
    "hed": "HEDdetector",
    "lineart": "LineartDetector or LineartAnimeDetector",
    "mlsd": "MLSDdetector",
    "normal": "NormalBaeDetector",
    "openpose": "OpenposeDetector or DWPose",
    "pidi": "PidiNetDetector",
    "segment": "SamDetector, or a segmentation by UperNet with ADE20K's colours",
    "softedge": "HEDdetector or PidiNetDetector",
}
"""Those that need a network of their own, and the tool that makes them; the detectors are controlnet_aux's."""


def preprocess_image(source: Picture, name: str, mask: Picture | None = None) -> Image.Image:
    """The control image that preprocessor `name` makes of an image: 8-bit RGB of the same size.

    Numbers may follow the name: "canny:50:150" is `canny(image, 50, 150)`. `mask` is `repaint`'s. The image is rotated
    by its EXIF data, and transparent parts are white, as for image to image. Raises `ArgumentError`.
    """
    function, numbers = read_preprocessor(name)
    image = open_picture(source)
    if function is repaint:
        if mask is None:
            raise ArgumentError("repaint needs a mask: white is repainted. Try mask=")
        return function(image, open_mask(mask))
    if mask is not None:
        warn(f"mask has no effect with {name}; only repaint takes one")
    return function(image, **numbers)


def read_preprocessor(name: str) -> tuple[Callable[..., Image.Image], dict[str, float]]:
    """The function of "canny:50:150" and its numbers by name. Raises `ArgumentError`."""
    if not isinstance(name, str):
        raise ArgumentError(f"preprocess is {brief(name)}; expected a name. Try 'canny'")
    kind, *texts = name.split(":")
    if kind not in PREPROCESSORS:
        known = ", ".join(PREPROCESSORS)
        raise ArgumentError(f"preprocess is {brief(kind)}; expected one of {known}. Try {_instead_of(kind)}")
    function = PREPROCESSORS[kind]
    names = [each.name for each in inspect.signature(function).parameters.values() if each.default is not each.empty]
    if len(texts) > len(names):
        form = ":".join([kind, *(each.upper() for each in names)])
        raise ArgumentError(f"preprocess is {brief(name)}; expected {form}. Try fewer numbers")
    return function, {each: _number(text, name) for each, text in zip(names[: len(texts)], texts, strict=True)}


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentError(f"preprocess is {brief(name)}; expected numbers after the name. Try canny:50:150") from None


def _instead_of(kind: str) -> str:
    """What to try for a name that is none of ours."""
    if kind in OTHERS:
        return f"{OTHERS[kind]}, a network of its own, and give its image without preprocess"
    return [*get_close_matches(kind, PREPROCESSORS, n=1), "canny"][0]
