"""Several images as one, with labels."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..errors import ArgumentError, OutputError
from .image import MOST_PIXELS
from .output import image_format

_GAP = 6  # pixels between cells, and around texts
_LEAST_LETTERS, _MOST_LETTERS = 11, 40  # the height of letters, in pixels
_LINES = 3  # of a label, at most


def grid(
    images: Sequence[Image.Image | None],
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    x_labels: Sequence[str] | None = None,
    y_labels: Sequence[str] | None = None,
) -> Image.Image:
    """Images as one, row by row; None is an empty cell. `labels` stand below each image, `x_labels` above the columns,
    `y_labels` on the left of the rows. Without `columns` there are as many as `x_labels`, else about as many as rows.
    All images become smaller by one factor where the whole would have more than 2^26 pixels. Raises `ArgumentError`.
    """
    if not any(images):
        raise ArgumentError("there are no images; a grid needs one at least")
    columns = columns or len(x_labels or ()) or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    for name, texts, count in (
        ("labels", labels, len(images)),
        ("x_labels", x_labels, columns),
        ("y_labels", y_labels, rows),
    ):
        if texts is not None and len(texts) != count:
            raise ArgumentError(f"{name} has {len(texts)} texts; expected {count}")
    images = _within(images, MOST_PIXELS)
    width = max(image.width for image in images if image is not None)
    height = max(image.height for image in images if image is not None)
    size = min(max(width // 24, _LEAST_LETTERS), _MOST_LETTERS)
    font = ImageFont.load_default(size)
    below, above = (_wrap(texts, font, width) for texts in (labels, x_labels))
    beside = _wrap(y_labels, font, max(width, 8 * size))
    left = max((math.ceil(font.getlength(line)) for text in beside for line in text), default=0)
    top, under = (max(map(len, texts), default=0) * (size + 3) for texts in (above, below))
    origin = left + _GAP * (2 if left else 1), top + _GAP * (2 if top else 1)
    step = width + _GAP, height + under + _GAP + (_GAP // 2 if under else 0)
    sheet = Image.new("RGB", (origin[0] + columns * step[0], origin[1] + rows * step[1]), "white")
    pen = ImageDraw.Draw(sheet)
    for n, image in enumerate(images):
        x, y = origin[0] + n % columns * step[0], origin[1] + n // columns * step[1]
        if image is not None:
            sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
        if below:
            _write(pen, (x, y + height + _GAP // 2), below[n], font, size)
    for n, text in enumerate(above):
        _write(pen, (origin[0] + n * step[0], _GAP), text, font, size)
    for n, text in enumerate(beside):
        middle = origin[1] + n * step[1] + (height - len(text) * (size + 3)) // 2
        _write(pen, (_GAP, middle), text, font, size)
    return sheet


def encode_grid(image: Image.Image, path: Path) -> bytes:
    """The file of a grid, of the format of its suffix. It records nothing: its images do. Raises `OutputError`."""
    data, format = io.BytesIO(), image_format(path)
    try:
        image.save(data, format=format)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"a grid of {image.width} x {image.height} cannot be written as {format} ({error}); try PNG"
        ) from error
    return data.getvalue()


def differences(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each of several images: what differs between their recorded requests, with its name unless it is a
    prompt.
    """
    requests = [each["request"] for each in records]
    names = [name for name in requests[0] if any(each.get(name) != requests[0][name] for each in requests)]
    return [", ".join(_label(name, each.get(name)) for name in names) for each in requests]


def _label(name: str, value: Any) -> str:
    return str(value) if name == "prompt" else f"{name} {value}"


def _within(images: Sequence[Image.Image | None], most: int) -> list[Image.Image | None]:
    """The images, made smaller by one factor if they have more pixels than that together."""
    sizes = [image.size for image in images if image is not None]
    whole = len(images) * max(width for width, _ in sizes) * max(height for _, height in sizes)
    if whole <= most:
        return list(images)
    factor = math.sqrt(most / whole)
    return [
        None if image is None else image.resize([max(int(side * factor), 1) for side in image.size]) for image in images
    ]


def _wrap(texts: Sequence[str] | None, font: Any, width: int) -> list[list[str]]:
    """The lines of each text, of at most that width and number; what is left out is dots."""
    return [_lines(" ".join(text.split()), font, width) for text in texts or ()]


def _lines(text: str, font: Any, width: int) -> list[str]:
    lines: list[str] = []
    while text and len(lines) < _LINES:
        end = _fitting(text, font, width)
        if end < len(text) and " " in text[1:end]:
            end = text.rindex(" ", 1, end + 1) if text[end] != " " else end
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    if text:
        lines[-1] = lines[-1][: max(_fitting(lines[-1] + "...", font, width) - 3, 1)] + "..."
    return lines


def _fitting(text: str, font: Any, width: int) -> int:
    """How many of the first characters fit into a width; one at least."""
    low, high = 1, min(len(text), 4 * width)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: Any, size: int) -> None:
    for n, line in enumerate(lines):
        pen.text((place[0], place[1] + n * (size + 3)), line, "black", font=font)
