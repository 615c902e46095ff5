"""Images and masks of AUTOMATIC1111's clients, made into what our pipeline takes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from serving import png

from sdxl.serve.sdapi.painting import CROP, FILL, Painting, blurred, fill, fit, prepare, reach, read_mask
from sdxl.serve.uploads import Upload


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, np.uint8))


def box(width: int = 64, height: int = 64) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).rectangle((20, 24, 43, 39), fill=255)
    return mask


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("sigmas", [(4.0, 4.0), (1.5, 6.0), (0.0, 3.0), (0.0, 0.0)])
def test_masks_are_blurred_as_opencv_does(sigmas: tuple[float, float]) -> None:
    cv2 = pytest.importorskip("cv2")
    expected = np.asarray(box())
    x, y = sigmas
    if x:
        expected = cv2.GaussianBlur(expected, (2 * int(2.5 * x + 0.5) + 1, 1), x, borderType=cv2.BORDER_REPLICATE)
    if y:
        expected = cv2.GaussianBlur(expected, (1, 2 * int(2.5 * y + 0.5) + 1), y, borderType=cv2.BORDER_REPLICATE)
    got = np.asarray(blurred(box(), sigmas))
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1  # OpenCV rounds after each direction
    ys, xs = np.nonzero(got)
    assert (xs.min() >= 20 - reach(x), ys.min() >= 24 - reach(y), xs.max() <= 43 + reach(x)) == (True, True, True)


def test_what_is_filled_continues_its_surroundings() -> None:
    mask, grey = box(), Image.new("RGB", (64, 64), (90, 120, 30))
    spoiled = grey.copy()
    spoiled.paste((255, 0, 255), mask=mask)
    assert np.array_equal(np.asarray(fill(spoiled, mask)), np.asarray(grey))  # one colour around is that colour inside
    ramp = Image.fromarray(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2))
    spoiled = ramp.copy()
    spoiled.paste((255, 0, 255), mask=mask)
    filled, outside = np.asarray(fill(spoiled, mask)).astype(int), np.asarray(mask) == 0
    assert np.array_equal(filled[outside], np.asarray(ramp)[outside])
    assert np.abs(filled - np.asarray(ramp)).max() < 50  # of 97 from side to side
    assert np.diff(filled[32, 20:44, 0]).min() >= -4  # and it rises
    assert fill(grey, Image.new("L", (64, 64), 255)) is grey  # nothing to continue
    large, part = noise(1500, 40), Image.new("L", (1500, 40), 0)
    part.paste(255, (700, 10, 800, 30))
    filled, outside = np.asarray(fill(large, part)), np.asarray(part) == 0
    assert np.array_equal(filled[outside], np.asarray(large)[outside])
    assert filled[~outside].std() < 40 < np.asarray(large)[~outside].std()
    assert fill(noise(63, 31), box(63, 31)).size == (63, 31)


@pytest.mark.parametrize("size", [(96, 48), (40, 80), (32, 32)])
@pytest.mark.parametrize("mode", [CROP, FILL])
def test_other_shapes(size: tuple[int, int], mode: int) -> None:
    image = Image.new("RGB", (64, 64), "red")
    ImageDraw.Draw(image).ellipse((16, 16, 47, 47), fill="blue")
    got = np.asarray(fit(image, size, mode)).astype(int)
    assert got.shape == (size[1], size[0], 3)
    inside = got[..., 2] > 128
    height, width = np.ptp(np.nonzero(inside.any(1))[0]) + 1, np.ptp(np.nonzero(inside.any(0))[0]) + 1
    side = max(size) if mode == CROP else min(size)
    assert abs(width - side / 2) <= 2 and abs(height - min(side / 2, size[1])) <= 2  # a circle stays one
    assert np.array_equal(got[0, 0] > 128, [True, False, False])  # the border goes on
    assert fit(image, (64, 64), mode) is image


def test_masks_in_all_their_forms() -> None:
    grey = box()
    transparent = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    transparent.paste((9, 9, 9, 255), mask=grey)
    for form in (grey, grey.convert("RGB"), grey.convert("RGBA"), transparent, grey.convert("1"), grey.convert("P")):
        assert np.array_equal(np.asarray(read_mask(Upload(png(form)))), np.asarray(grey)), form.mode


def test_preparation() -> None:
    image, mask = Upload(png(noise(64, 64))), Upload(png(box(128, 128).resize((64, 64)).point(lambda v: v // 2)))
    files, masks = prepare([image], None, Painting((32, 64)))
    assert (files, masks) == ([image.data], [])  # untouched, and stretched by the pipeline
    files, _ = prepare([image], None, Painting((32, 64), CROP))
    assert opened(files[0]).shape == (64, 32, 3)
    files, masks = prepare([image], mask, Painting())
    assert np.array_equal(opened(files[0]), np.asarray(noise(64, 64)))
    assert opened(masks[0]).max() == 0  # 127 of 255 is cut off
    _, masks = prepare([image], mask, Painting(rounds=False))
    assert opened(masks[0]).max() == 127
    _, masks = prepare([image], mask, Painting(inverts=True))
    assert opened(masks[0]).min() == 255
    _, masks = prepare([image], Upload(png(box())), Painting(blur=(4.0, 2.0)))
    ys, xs = np.nonzero(opened(masks[0]))
    assert set(np.unique(opened(masks[0]))) == {0, 255}
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (10, 53, 19, 44)  # 2.5 sigmas around
    wide = Upload(png(noise(96, 64)))
    files, masks = prepare([wide, image], Upload(png(box())), Painting(fills=True))
    assert [opened(each).shape for each in masks] == [(64, 96), (64, 64)]
    outside = opened(masks[1]) == 0
    assert np.array_equal(opened(files[1])[outside], np.asarray(noise(64, 64))[outside])
    files, masks = prepare([wide], Upload(png(box())), Painting((64, 64), CROP, only_masked=True))
    assert opened(files[0]).shape == (64, 96, 3)  # its own size is kept where the window is pasted back
