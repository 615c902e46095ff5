"""A control image as a value of a request: which network, which image, how strongly and when. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, brief
from .statement import check_texts, checked_numbers, read_values

# the numbers of a union's types; from 6 on in those of 8 types (ProMax) alone
TYPES = {
    "openpose": 0,
    "depth": 1,
    "hed": 2,
    "pidi": 2,
    "scribble": 2,
    "ted": 2,
    "canny": 3,
    "lineart": 3,
    "anime_lineart": 3,
    "mlsd": 3,
    "normal": 4,
    "segment": 5,
    "tile": 6,
    "repaint": 7,
}
_NUMBERS = {"scale": (0.0, 100.0), "start": (0.0, 1.0), "end": (0.0, 1.0)}


def type_names(count: int) -> list[str]:
    """The names of the types of a union that takes so many."""
    return [name for name, number in TYPES.items() if number < count]


@dataclass(frozen=True)
class Control:
    """`net` is a ControlNet, ControlNet-Union, Control-LoRA, T2I-Adapter or ControlNet-LLLite: a path, a name in
    `control_dir`, or owner/name or owner/name/file on the hub. `image` is the control image for all images, or a list
    with one for each: paths or PIL images.

    It acts with strength `scale` in the steps from the share `start` to the share `end` of those that run. `type` says
    which of a union's types the image is of. `preprocess` makes the control image of an ordinary one. With `guess` the
    net acts on the prompt alone, and most in the middle of the UNet. With a `hash`, the sha256 of the net, another net
    is refused; with an `image_hash`, another image is a warning.
    """

    net: str | Path
    image: Any = field(hash=False)
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    type: str | int | None = None
    preprocess: str | None = None
    guess: bool = False
    hash: str | None = None
    image_hash: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.net, (str, Path)) or not str(self.net):
            raise ArgumentError(f"the net of a control is {brief(self.net)}; expected a path, a name or a hub id")
        checked: dict[str, Any] = {**checked_numbers(self, f"control {self.net}", _NUMBERS)}
        checked |= {"image": self._image(), "guess": self._guess()}
        is_number = isinstance(self.type, int) and not isinstance(self.type, bool) and self.type >= 0
        if not is_number and self.type not in (None, *TYPES):
            raise ArgumentError(
                f"the type of control {self.net} is {brief(self.type)}; expected a number, or {', '.join(TYPES)}"
            )
        check_texts(self, f"control {self.net}", ("preprocess", "hash", "image_hash"))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _guess(self) -> bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}  # of the command line
        value: Any = words.get(self.guess, self.guess) if isinstance(self.guess, str) else self.guess
        if value not in (True, False):
            raise ArgumentError(f"the guess of control {self.net} is {brief(value)}; expected true or false")
        return bool(value)

    def _image(self) -> Any:
        several = isinstance(self.image, (list, tuple))
        images = list(self.image) if several else [self.image]
        if not images or any(each is None or (isinstance(each, (str, list, tuple)) and not each) for each in images):
            raise ArgumentError(
                f"the image of control {self.net} is {brief(self.image)}; give a path, a PIL image, or a list with one "
                "for each image. Try --control NET=IMAGE for an image whose record has none"
            )
        return images if len(images) > 1 else images[0]

    @property
    def images(self) -> list[Any]:
        """The images: one for all, or one for each image to generate."""
        return list(self.image) if isinstance(self.image, list) else [self.image]

    @property
    def number(self) -> int | None:
        """The number of its type."""
        return TYPES[self.type] if isinstance(self.type, str) else self.type

    def record(self) -> dict[str, Any]:
        """As JSON has it; equal for equal values. An image that is no path is null."""
        images = [str(each) if isinstance(each, (str, Path)) else None for each in self.images]
        record: dict[str, Any] = {"net": str(self.net), "image": images if len(images) > 1 else images[0]}
        for each in fields(self)[2:]:
            if (value := getattr(self, each.name)) != each.default:
                record[each.name] = value
        return record | {"scale": self.scale}


def read_controls(values: Any) -> tuple[Control, ...]:
    """A list of controls, or one: themselves, or objects of JSON. Raises `ArgumentError`."""
    return read_values(values, Control, "control")
