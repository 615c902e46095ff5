"""Preprocessors of control images, against OpenCV."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.cli.preprocess import NAMES
from sdxl.errors import ArgumentError, SDXLWarning
from sdxl.images import PREPROCESSORS, preprocess_image
from sdxl.images.gaussian import gaussian_blur
from sdxl.images.preprocess import OTHERS
from sdxl.miniature.scenes import draw, random_scene


def photo(height: int = 90, width: int = 130, grain: int = 6, seed: int = 0) -> Image.Image:
    """Smooth random colours: gradients of all sizes and directions."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // grain, width // grain, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def scene(seed: int) -> Image.Image:
    drawn = draw(random_scene(np.random.default_rng(seed)))
    return Image.fromarray((drawn * 255).round().astype(np.uint8))


IMAGES = {
    "smooth": photo(),
    "noise": photo(grain=1),
    "steps": photo().quantize(5).convert("RGB"),
    "scene": scene(0),
    "grey": photo(grain=3).convert("L").convert("RGB"),
    "flat": Image.new("RGB", (40, 30), "red"),
    "a pixel": Image.new("RGB", (1, 1)),
    "a line": photo(90, 130, 1).crop((0, 0, 60, 1)),
}


@pytest.mark.parametrize("numbers", [(100, 200), (50, 150), (0, 0), (20.7, 30.2), (200, 900), (150, 150)])
@pytest.mark.parametrize("name", IMAGES)
def test_canny_is_opencvs(name: str, numbers: tuple[float, float]) -> None:
    cv2 = pytest.importorskip("cv2")
    theirs = cv2.Canny(np.asarray(IMAGES[name]), *numbers)
    ours = np.asarray(PREPROCESSORS["canny"](IMAGES[name], *numbers))
    assert ours.shape == (*theirs.shape, 3)
    assert np.array_equal(ours, np.repeat(theirs[..., None], 3, 2))


def test_canny_of_blurred_pixels_is_opencvs() -> None:
    """OpenCV blurs 8-bit pixels with weights of 8 bits: few pixels differ by a level, and fewer edges."""
    cv2 = pytest.importorskip("cv2")
    image = photo(300, 400, 7)
    theirs = cv2.Canny(cv2.GaussianBlur(np.asarray(image), (0, 0), 1.4), 50, 150)
    ours = np.asarray(preprocess_image(image, "canny:50:150:1.4"))[..., 0]
    assert (theirs > 0).mean() > 0.05
    assert (ours != theirs).mean() < 0.01


def test_canny_of_a_large_image_takes_less_than_a_second() -> None:
    image = photo(1024, 1024, 4)
    began = time.process_time()
    preprocess_image(image, "canny")
    assert time.process_time() - began < 1


def test_a_long_line_stays_connected() -> None:
    """A spiral that one strong end keeps: hysteresis walks along all of it."""
    cv2 = pytest.importorskip("cv2")
    pixels = np.zeros((120, 120), np.uint8)
    left, top, right, bottom = 4, 4, 115, 115
    while right - left > 12:
        for row, column in (
            (top, slice(left - 6 if left > 4 else left, right)),
            (slice(top, bottom), right),
            (bottom, slice(left, right + 1)),
            (slice(top + 6, bottom), left),
        ):
            pixels[row, column] = 60
        left, top, right, bottom = left + 6, top + 6, right - 6, bottom - 6
    pixels[4, 4:8] = 255
    theirs = cv2.Canny(pixels, 100, 800)
    assert 0 < (theirs > 0).sum() < (cv2.Canny(pixels, 100, 100) > 0).sum() * 1.01
    ours = np.asarray(preprocess_image(Image.fromarray(pixels), "canny:100:800"))[..., 0]
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("sigma", [0.5, 1.4, 5, 9])
@pytest.mark.parametrize("size", [(90, 130), (7, 40), (1, 1)])
def test_the_blur_is_opencvs(size: tuple[int, int], sigma: float) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.float32)
    side = 2 * max(round(4 * sigma), 1) + 1
    theirs = cv2.GaussianBlur(pixels, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
    assert np.abs(gaussian_blur(pixels, sigma) - theirs).max() < 1e-3


def test_blur_has_sigma_9_by_default() -> None:
    image = photo()
    assert preprocess_image(image, "blur") == preprocess_image(image, "blur:9")
    blurred = np.asarray(preprocess_image(image, "blur"))
    assert np.abs(blurred - gaussian_blur(np.asarray(image), 9)).max() <= 0.5 + 1e-3


def test_invert_is_the_negative() -> None:
    image = photo()
    assert np.array_equal(np.asarray(preprocess_image(image, "invert")), 255 - np.asarray(image))


def test_tile_is_area_down_and_cubic_up() -> None:
    image = photo(96, 128, 2)
    made = preprocess_image(image, "tile:8")
    blocks = np.asarray(image, np.float64).reshape(12, 8, 16, 8, 3).mean((1, 3))
    small = Image.fromarray(np.floor(blocks + 0.5).astype(np.uint8))
    assert np.abs(np.asarray(made, int) - np.asarray(small.resize((128, 96), Image.Resampling.BICUBIC))).max() <= 2
    assert preprocess_image(image, "tile") == preprocess_image(image, "tile:4")
    assert preprocess_image(Image.new("RGB", (3, 2), "red"), "tile").size == (3, 2)


def test_grey_is_the_luminance() -> None:
    image = photo()
    weighted = np.asarray(image) @ np.array([0.299, 0.587, 0.114])
    made = np.asarray(preprocess_image(image, "grey"))
    assert np.abs(made - weighted[..., None]).max() <= 0.51


def test_scribble_draws_dark_lines_white() -> None:
    pixels = np.full((60, 60, 3), 220, np.uint8)
    pixels[30, 10:50] = 20
    made = np.asarray(preprocess_image(Image.fromarray(pixels), "scribble"))
    assert (made[30, 12:48] == 255).all()
    assert (made[:20] == 0).all()
    negative = np.asarray(preprocess_image(Image.fromarray(255 - pixels), "scribble"))
    assert (negative[30, 12:48] == 0).all()


def test_scribble_is_the_difference_of_opencvs_gaussians() -> None:
    cv2 = pytest.importorskip("cv2")
    image = photo(200, 200, 8)
    fine, wide = (cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), sigma) for sigma in (0.5, 5.0))
    theirs = (wide - fine).min(2) > 16
    ours = np.asarray(preprocess_image(image, "scribble"))[..., 0] > 0
    assert 0.02 < theirs.mean() < 0.5
    assert (ours != theirs).mean() < 0.001


def test_repaint_is_black_where_the_mask_is_white() -> None:
    image, mask = photo(), Image.new("L", (130, 90), 0)
    mask.paste(255, (10, 20, 60, 50))
    made = np.asarray(preprocess_image(image, "repaint", mask))
    assert not made[20:50, 10:60].any()
    made = made.copy()
    made[20:50, 10:60] = np.asarray(image)[20:50, 10:60]
    assert np.array_equal(made, np.asarray(image))


@pytest.mark.parametrize("name", sorted(PREPROCESSORS))
def test_size_and_mode_stay(name: str) -> None:
    mask = Image.new("L", (130, 90), 255) if name == "repaint" else None
    for image in (photo(), photo().convert("L"), photo().convert("P"), photo().convert("RGBA")):
        made = preprocess_image(image, name, mask)
        assert (made.size, made.mode) == (image.size, "RGB")


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_what_needs_a_network_is_named_with_its_tool(name: str) -> None:
    with pytest.raises(
        ArgumentError, match=rf"preprocess is '{name}'; expected one of canny, .*Try {OTHERS[name][:5]}"
    ):
        preprocess_image(photo(), name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cany", "expected one of canny, invert, .*Try canny"),
        ("scrible", "Try scribble"),
        ("", "expected one of"),
        ("canny:50:150:1:1", "expected canny:LOW:HIGH:SIGMA. Try fewer numbers"),
        ("invert:1", "expected invert. Try fewer numbers"),
        ("canny:50:", "expected numbers after the name"),
        ("canny:high", "expected numbers after the name"),
        ("canny:nan", "thresholds are nan and 200"),
        ("canny:200:100", "expected 0 <= low <= high <= 2040"),
        ("canny:1:inf", "expected 0 <= low <= high <= 2040"),
        ("canny:1:2:-1", "sigma is -1"),
        ("blur:inf", "sigma is inf"),
        ("tile:0", "factor is 0"),
        ("tile:nan", "factor is nan"),
        ("scribble:-1", "threshold is -1"),
        ("repaint", "repaint needs a mask"),
        (7, "preprocess is 7; expected a name"),
    ],
)
def test_errors(name: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        preprocess_image(photo(), name)


def test_a_mask_of_another_size() -> None:
    with pytest.raises(ArgumentError, match="mask is 5 x 6 and the image 130 x 90"):
        preprocess_image(photo(), "repaint", Image.new("L", (5, 6)))


def test_a_mask_without_effect() -> None:
    with pytest.warns(SDXLWarning, match="mask has no effect with canny"):
        preprocess_image(photo(), "canny", Image.new("L", (130, 90)))


def test_the_command_writes_what_the_function_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo().save(tmp_path / "in.png")
    for name in ("edges.png", "edges.webp"):
        assert main(["preprocess", "canny:50:150", str(tmp_path / "in.png"), str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
        made = Image.open(tmp_path / name).convert("RGB")
        assert np.array_equal(np.asarray(made), np.asarray(preprocess_image(photo(), "canny:50:150")))


def test_the_command_repaints(tmp_path: Path) -> None:
    photo().save(tmp_path / "in.png")
    Image.new("L", (130, 90), 255).save(tmp_path / "mask.png")
    arguments = ["repaint", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--mask", str(tmp_path / "mask.png")]
    assert main(["preprocess", *arguments]) == 0
    assert not np.asarray(Image.open(tmp_path / "out.png")).any()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["canny", "none.png", "out.png"], 2, "image none.png does not exist; give an image file"),
        (["canny", "in.png", "in.png"], 2, "in.png is the source and would be overwritten"),
        (["canny", "in.png", "out.gif"], 1, "the suffix of out.gif is '.gif'"),
        (["openpose", "in.png", "out.png"], 2, "Try OpenposeDetector"),
        (["repaint", "in.png", "out.png"], 2, "repaint needs a mask"),
    ],
)
def test_errors_of_the_command(
    arguments: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    photo().save("in.png")
    assert main(["preprocess", *arguments]) == status
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_the_help_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split("[")[0].split()[0] for line in NAMES.split("\n") if line.startswith("  ")][:-1] == [
        *PREPROCESSORS
    ]
    with pytest.raises(SystemExit):
        main(["preprocess", "--help"])
    assert NAMES in capsys.readouterr().out


def test_the_help_needs_no_numpy() -> None:
    code = "import sys; from sdxl.cli.preprocess import preprocess_parser; preprocess_parser().format_help()"
    code += "; print({'numpy', 'PIL', 'torch'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set()\n"
    assert sdxl.__version__
