"""Several images as one, with labels."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..errors import ArgumentError, OutputError, brief
from .image import MOST_PIXELS
from .output import image_format

_GAP = 6  # pixels between cells, and around texts
_LEAST_LETTERS, _MOST_LETTERS = 11, 40  # the height of letters, in pixels
_LINES, _LEADING = 3, 3  # lines of a label at most, and pixels between them
_LETTERS = str.maketrans(
    {
        **{"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"},
        **{"đ": "d", "Đ": "D", "\xd7": "x", "\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'"},
        **{"\u201c": '"', "\u201d": '"'},
    }
)
"""Letters and signs that Unicode does not take apart, in ASCII."""


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
    if columns is not None and (type(columns) is not int or columns < 1):
        raise ArgumentError(f"columns is {brief(columns)}; expected a whole number of at least 1")
    columns = columns or len(x_labels or ()) or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    for name, texts, count in (
        ("labels", labels, len(images)),
        ("x_labels", x_labels, columns),
        ("y_labels", y_labels, rows),
    ):
        if texts is not None and len(texts) != count:
            raise ArgumentError(f"{name} has {len(texts)} texts; expected {count}")
    return _draw(_within(images, MOST_PIXELS), columns, labels or (), x_labels or (), y_labels or ())


def _draw(
    images: Sequence[Image.Image | None],
    columns: int,
    labels: Sequence[str],
    x_labels: Sequence[str],
    y_labels: Sequence[str],
) -> Image.Image:
    """The grid of images of the right size, with as many labels as there are places for, or none."""
    width, height = (max(side) for side in zip(*(image.size for image in images if image is not None), strict=True))
    size = min(max(width // 24, _LEAST_LETTERS), _MOST_LETTERS)
    font, least = ImageFont.load_default(size), 8 * size  # of the width of a text
    width = max(width, least) if labels or x_labels else width
    below, above = (_wrap(texts, font, max(width, least)) for texts in (labels, x_labels))
    beside = _wrap(y_labels, font, max(width // 2, least))
    left = max((math.ceil(font.getlength(line)) for text in beside for line in text), default=0)
    top, under = (max(map(len, texts), default=0) * (size + _LEADING) for texts in (above, below))
    x0, y0 = left + _GAP * (2 if left else 1), top + _GAP * (2 if top else 1)
    across, down = width + _GAP, height + under + _GAP
    sheet = Image.new("RGB", (x0 + columns * across, y0 + math.ceil(len(images) / columns) * down), "white")
    pen = ImageDraw.Draw(sheet)
    for n, image in enumerate(images):
        x, y = x0 + n % columns * across, y0 + n // columns * down
        if image is not None:
            sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
        if below:
            _write(pen, x, y + height, below[n], font, size)
    for n, text in enumerate(above):
        _write(pen, x0 + n * across, _GAP, text, font, size)
    for n, text in enumerate(beside):
        _write(pen, _GAP, y0 + n * down + (height - len(text) * (size + _LEADING)) // 2, text, font, size)
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


def _wrap(texts: Sequence[str], font: Any, width: int) -> list[list[str]]:
    """The lines of each text, of at most that width and number; what is left out is dots."""
    return [_lines(" ".join(_plain(text).split()), font, width) for text in texts]


def _plain(text: str) -> str:
    """A text in the letters of ASCII, as far as it is Latin: Pillow's own font has no others."""
    parts = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


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


def _write(pen: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], font: Any, size: int) -> None:
    for n, line in enumerate(lines):
        pen.text((x, y + n * (size + _LEADING)), line, "black", font=font)
