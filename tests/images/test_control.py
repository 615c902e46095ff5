"""Control images: fitted to the size of the work, and warned of where they are probably wrong."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdxl.errors import ArgumentError, SDXLWarning
from sdxl.images import fit_control
from sdxl.images.control import LINES, warn_of_white_lines


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode and np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("stretch", [False, True])
def test_an_image_of_the_size_stays(stretch: bool) -> None:
    assert same(fit_control(noise(64, 48), 64, 48, stretch=stretch), noise(64, 48))


def test_an_image_of_the_shape_is_resized() -> None:
    image = noise(128, 96)
    assert same(fit_control(image, 64, 48), image.resize((64, 48), Image.Resampling.LANCZOS))
    assert same(fit_control(image, 256, 192), image.resize((256, 192), Image.Resampling.LANCZOS))


@pytest.mark.parametrize(("size", "box"), [((200, 96), (36, 0, 164, 96)), ((128, 150), (0, 27, 128, 123))])
def test_another_shape_is_cut_around_the_centre(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    image = noise(*size)
    with pytest.warns(SDXLWarning, match=rf"control is {size[0]} x {size[1]}, of another shape than 64 x 48; its bord"):
        fitted = fit_control(image, 64, 48)
    theirs = image.crop(box).resize((64, 48), Image.Resampling.LANCZOS)
    assert same(fitted, theirs)


def test_stretched_as_diffusers_does() -> None:
    processor = pytest.importorskip("diffusers.image_processor").VaeImageProcessor(do_normalize=False)
    image = noise(200, 96)
    with pytest.warns(SDXLWarning, match=r"control\[1\] is 200 x 96.*; it is stretched"):
        ours = fit_control(image, 64, 48, stretch=True, name="control[1]")
    theirs = (processor.preprocess(image, height=48, width=64)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.array_equal(np.asarray(ours), theirs)


@pytest.mark.parametrize(("size", "warned"), [((1019, 1000), False), ((1000, 1019), False), ((1000, 1030), True)])
def test_two_percent_are_not_warned_of(size: tuple[int, int], warned: bool) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert fit_control(noise(*size), 32, 32).size == (32, 32)
    assert bool(found) == warned


def test_transparent_parts_are_black() -> None:
    image = Image.new("RGBA", (4, 2), (255, 255, 255, 0))
    image.putpixel((1, 1), (200, 100, 50, 255))
    image.putpixel((2, 1), (200, 100, 50, 128))
    fitted = fit_control(image, 4, 2)
    assert fitted.mode == "RGB"
    assert fitted.getpixel((0, 0)) == (0, 0, 0)
    assert fitted.getpixel((1, 1)) == (200, 100, 50)
    assert fitted.getpixel((2, 1)) == (100, 50, 25)


def test_other_modes(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 8192, dtype=np.uint16).reshape(2, 4)
    deep = np.asarray(fit_control(Image.fromarray(values), 4, 2))
    assert np.array_equal(deep[..., 0], np.rint(values / 65535 * 255).astype(np.uint8))
    assert np.array_equal(deep[..., 0], deep[..., 2])
    grey = noise(4, 2).convert("L")
    assert same(fit_control(grey, 4, 2), grey.convert("RGB"))
    assert same(
        fit_control(grey.point([0] * 128 + [255] * 128).convert("1"), 4, 2),
        grey.point([0] * 128 + [255] * 128).convert("RGB"),
    )
    palette = noise(4, 2).quantize(4)
    assert same(fit_control(palette, 4, 2), palette.convert("RGB"))
    palette.save(tmp_path / "clear.png", transparency=palette.getpixel((0, 0)))
    assert fit_control(Image.open(tmp_path / "clear.png"), 4, 2).getpixel((0, 0)) == (0, 0, 0)


def test_rotated_by_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # its top is at the right
    noise(48, 64).save(tmp_path / "turned.png", exif=exif)
    assert same(fit_control(Image.open(tmp_path / "turned.png"), 64, 48), noise(48, 64).rotate(-90, expand=True))


def test_errors_name_the_argument() -> None:
    with pytest.raises(ArgumentError, match=r"control\[0\] has floating-point pixels"):
        fit_control(Image.new("F", (4, 4)), 4, 4, name="control[0]")


@pytest.mark.parametrize("type", sorted(LINES))
def test_lines_on_white_are_warned_of(type: str) -> None:
    with pytest.warns(SDXLWarning, match=f"control is mostly white; {type} expects white lines on black"):
        warn_of_white_lines(Image.new("RGB", (8, 8), "white"), type)


def test_others_are_not_warned_of() -> None:
    warn_of_white_lines(Image.new("RGB", (8, 8), "white"), "depth")
    half = Image.new("L", (8, 8), 0)
    half.paste(255, (0, 0, 8, 4))
    warn_of_white_lines(half.convert("RGB"), "canny")
