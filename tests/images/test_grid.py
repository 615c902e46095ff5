"""Grids: every image is where its labels say, whole and unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdxl.errors import ArgumentError
from sdxl.images import differences, grid


def square(colour: str, width: int = 40, height: int = 40) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def boxes(sheet: Image.Image, *colours: str) -> list[tuple[int, int, int, int]]:
    """The box of each colour, all of whose pixels belong to it."""
    pixels, found = np.asarray(sheet), []
    for colour in colours:
        is_it = (pixels == np.array(square(colour, 1, 1).getpixel((0, 0)))).all(-1)
        box = Image.fromarray(is_it.astype(np.uint8) * 255).getbbox()
        assert box is not None and is_it.sum() == (box[2] - box[0]) * (box[3] - box[1])
        found.append(box)
    return found


def test_images_stand_row_by_row() -> None:
    red, green, blue, yellow = boxes(
        grid([*map(square, ("red", "green", "blue", "yellow"))]), "red", "green", "blue", "yellow"
    )
    assert red[1] == green[1] < blue[1] == yellow[1] and red[0] == blue[0] < green[0] == yellow[0]
    assert all(box[2] - box[0] == box[3] - box[1] == 40 for box in (red, green, blue, yellow))


def test_labels_do_not_cover_images() -> None:
    images = [square("red"), square("blue", 40, 30), None, square("yellow", 20, 40)]
    long = "a very long prompt " * 20
    sheet = grid(images, labels=["", "seed 1", "", long], x_labels=[long, "x"], y_labels=["y", long])
    red, blue, yellow = boxes(sheet, "red", "blue", "yellow")
    assert (blue[2] - blue[0], blue[3] - blue[1]) == (40, 30) and (yellow[2] - yellow[0]) == 20
    assert red[0] < blue[0] and abs((yellow[0] + yellow[2]) - (blue[0] + blue[2])) <= 1, "in the middle of the column"
    dark = np.asarray(sheet.convert("L")) < 60
    assert dark[: red[1]].any() and dark[:, : red[0]].any() and dark[yellow[3] :, yellow[0] :].any()


def test_a_label_has_three_lines_at_most() -> None:
    one, many = (grid([square("red", 120, 20)], labels=[text]).height for text in ("a", "word " * 500))
    assert many - one == 2 * 14


def test_letters_that_the_font_lacks() -> None:
    """It draws a box in place of each, also of German and French ones."""
    image = Image.new("RGB", (300, 40), "red")
    for text, plain in (("Größe ä é Ł", "Grosse a e L"), ("\u201cŒuvre\u201d \u2013 2\xd73…", '"OEuvre" - 2x3...')):
        assert np.array_equal(np.asarray(grid([image], [text])), np.asarray(grid([image], [plain])))


def test_a_grid_that_is_too_large_is_made_smaller() -> None:
    images = [square(colour, 6000, 6000) for colour in ("red", "blue")]
    sheet = grid(images)
    assert sheet.width * sheet.height < 1.01 * 2**26 and sheet.width > 11000
    assert grid(images[:1]).width >= 6000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": ["a"]}, "labels has 1 texts; expected 2"),
        ({"x_labels": ["a", "b"], "columns": 1}, "x_labels has 2 texts; expected 1"),
        ({"columns": -1}, "columns is -1; expected a whole number of at least 1"),
        ({"columns": 1.5}, "columns is 1.5; expected"),
        ({"y_labels": ["a", "b"], "columns": 2}, "y_labels has 2 texts; expected 1"),
    ],
)
def test_wrong_numbers_of_labels(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        grid([square("red"), square("blue")], **given)


def test_nothing_is_no_grid() -> None:
    with pytest.raises(ArgumentError, match="there are no images"):
        grid([None])


def test_labels_say_what_differs() -> None:
    requests = [
        {"prompt": "a cat", "seed": 1, "steps": 5, "guider": None},
        {"prompt": "a dog", "seed": 1, "steps": 6, "guider": None},
    ]
    assert differences([{"request": each} for each in requests]) == ["a cat, steps 5", "a dog, steps 6"]
    assert differences([{"request": requests[0]}] * 2) == ["", ""]
