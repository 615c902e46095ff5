"""The images of a request's controls: opened, and fitted to the work."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..adapters.control import Control, read_controls
from ..errors import ArgumentError, brief, warn
from ..images.canvas import Canvas
from ..images.control import LINES, fit_control, warn_of_white_lines
from ..images.image import fingerprint, open_control, open_picture
from ..images.preprocess import read_preprocessor, repaint
from .request import Request, spread

if TYPE_CHECKING:
    from .plan import Plan


@dataclass(frozen=True)
class ControlImages:
    """The images of a control as they were given, RGB: one for each image to generate, the same object where it is
    shared.
    """

    images: tuple[Image.Image, ...]

    def hash(self, number: int) -> str:
        """A hash of the content that image `number` sees."""
        return self._hashes[id(self.images[number])]

    @cached_property
    def _hashes(self) -> dict[int, str]:
        return {key: fingerprint(image) for key, image in {id(image): image for image in self.images}.items()}


def open_controls(request: Request) -> tuple[ControlImages, ...]:
    """Open the images of a request's controls. Raises `ArgumentError`; warns of an image that is not the one that a
    recorded image was made with.
    """
    return tuple(_open(each, len(request.prompts), request.count) for each in read_controls(request.control or ()))


def _open(control: Control, prompts: int, count: int) -> ControlImages:
    name, entries = f"the image of control {control.net}", control.images
    if len(entries) not in (1, prompts, count):
        raise ArgumentError(
            f"{name} has {len(entries)} entries for {count} images; give one for each, one for each prompt, or one"
        )
    if wrong := [each for each in entries if not isinstance(each, (Image.Image, str, Path))]:
        raise ArgumentError(f"{name} is {brief(wrong[0])}; give a path or a PIL image")
    if control.preprocess is not None:
        read_preprocessor(control.preprocess)
    # what is transparent is nothing in lines and poses, and the ground of an ordinary image
    read = open_control if control.preprocess is None else open_picture
    found = ControlImages(tuple(spread([read(each, f"control {control.net}: image") for each in entries], count)))
    if control.image_hash is not None and control.image_hash != found.hash(0):
        warn(f"{name} is not the one that the recorded image was made with; the result will differ")
    return found


def fit_images(control: Control, given: ControlImages, plan: Plan) -> tuple[Image.Image, ...]:
    """The control images at the size of the work, one for each image. With `mask_padding` they show the whole source
    image, of which the window is cut out. A preprocessor gets what was fitted.
    """
    canvases: Sequence[Canvas | None] = plan.canvases or (None,) * len(given.images)
    made: dict[tuple[int, int], Image.Image] = {}
    for image, canvas in zip(given.images, canvases, strict=True):
        key = id(image), id(canvas)
        if key not in made:
            made[key] = _prepared(control, _fit(image, canvas, plan, f"the image of control {control.net}"), canvas)
    return tuple(made[id(image), id(canvas)] for image, canvas in zip(given.images, canvases, strict=True))


def _fit(image: Image.Image, canvas: Canvas | None, plan: Plan, name: str) -> Image.Image:
    (height, width), stretch = plan.size, plan.request.conventions.control_image == "stretched"
    if canvas is None or plan.request.mask_padding is None:
        return fit_control(image, width, height, stretch=stretch, name=name)
    whole = fit_control(image, canvas.image.width, canvas.image.height, stretch=stretch, name=name)
    return canvas.view(whole)


def _prepared(control: Control, image: Image.Image, canvas: Canvas | None) -> Image.Image:
    if control.preprocess is not None:
        image = _preprocess(control, image, canvas)
    for type in [control.type] if isinstance(control.type, str) else _named_types(control.net):
        warn_of_white_lines(image, type, f"the image of control {control.net}")
    return image


def _named_types(net: str | Path) -> list[str]:
    """The first type of control images that the name of a network states, or the folder that it lies in."""
    words = re.split("[^a-z]+", "/".join(Path(net).parts[-2:]).lower())
    return [word for word in words if word in LINES][:1]


def _preprocess(control: Control, image: Image.Image, canvas: Canvas | None) -> Image.Image:
    function: Callable[..., Image.Image]
    function, numbers = read_preprocessor(str(control.preprocess))
    if function is not repaint:
        return function(image, **numbers)
    if canvas is None or canvas.mask is None:
        raise ArgumentError(
            f"control {control.net} has preprocess repaint, which needs a mask; give mask, or an image that is black "
            "where it is to be repainted"
        )
    return repaint(image, canvas.view(canvas.mask))
