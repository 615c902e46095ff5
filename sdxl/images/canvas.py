"""A source picture and its mask, the window of them that is worked on, and how the result goes back.

Sizes are (height, width), boxes (left, top, right, bottom) as in PIL.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import ArgumentError
from .image import MOST_PIXELS, resize, resize_mask, to_tensor

Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Canvas:
    """`box` of `picture` is worked on at `size`. With a mask the result goes back into the picture at `result_size`:
    the picture's own, or `size` where the caller asked for one and the box is all of the picture.
    """

    picture: Image.Image  # RGB
    mask: Image.Image | None  # L, white where it is repainted
    box: Box
    size: Size
    result_size: Size
    feather: int = 0

    @cached_property
    def pixels(self) -> Tensor:
        """What is worked on, (3, H, W) in 0..1."""
        return to_tensor(resize(self.picture.crop(self.box), self.size))

    @cached_property
    def work_mask(self) -> Tensor:
        """The mask over it, (1, H, W): 0 is kept, 1 repainted, values between are repainted in a part of the steps."""
        assert self.mask is not None
        return to_tensor(resize_mask(self.mask.crop(self.box), self.size))

    @cached_property
    def masked_image(self) -> Tensor:
        """The work with grey in place of the repainted part, (3, H, W), for a 9-channel model."""
        return self.pixels.masked_fill(self.work_mask >= 0.5, 0.5)

    @property
    def original_size(self) -> Size:
        """The true size of the picture that the window was cut from (SDXL paper, section 2.2)."""
        return self.picture.height, self.picture.width

    @property
    def crop_top_left(self) -> Size:
        """Where the window begins in the picture scaled to the window's resolution."""
        left, top, right, bottom = self.box
        return round(top * self.size[0] / (bottom - top)), round(left * self.size[1] / (right - left))

    def paste(self, result: Tensor) -> Tensor:
        """The decoded window (3, H, W) put back: what the mask leaves black is the picture's own, bit for bit.

        Without a mask the window is the whole result.
        """
        if self.mask is None:
            return result
        whole = to_tensor(resize(self.picture, self.result_size))
        own_size = self.result_size == self.original_size
        left, top, right, bottom = self.box if own_size else (0, 0, self.size[1], self.size[0])
        kept = whole[:, top:bottom, left:right]
        share, work = self._share()[:, top:bottom, left:right], result.cpu()  # not every device can resize like this
        if work.shape != kept.shape:
            size = list(kept.shape[1:])
            work = F.interpolate(work[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        whole[:, top:bottom, left:right] = work * share + kept * (1 - share)
        return whole.to(result.device)

    def _share(self) -> Tensor:
        """How much of each pixel (1, H, W) is the result's: nothing outside the mask, all inside; with `feather` it
        rises in that many equal steps from the mask's edge inwards. The picture's own border is no edge.
        """
        assert self.mask is not None
        outside = (to_tensor(resize_mask(self.mask, self.result_size)) == 0)[0].numpy()
        # of the pixels above and to the left (Crow 1984, "Summed-area tables for texture mapping")
        counts = np.pad(outside.cumsum(0, np.int32).cumsum(1), ((1, 0), (1, 0)))
        depth = np.zeros(outside.shape, np.int32)
        for bit in reversed(range((self.feather + 1).bit_length())):
            deeper = depth + (1 << bit)
            depth = np.where((deeper <= self.feather + 1) & _is_clear(counts, deeper - 1), deeper, depth)
        return torch.from_numpy(depth / (self.feather + 1)).float()[None]


def _is_clear(counts: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Whether nothing is counted in the square around each pixel (H, W), of its `radius` to every side. `counts`
    (H+1, W+1) is a summed-area table.
    """
    height, width = radius.shape
    y, x = (axis.astype(np.int32) for axis in np.ogrid[:height, :width])
    top, bottom = np.maximum(y - radius, 0), np.minimum(y + radius + 1, height)
    left, right = np.maximum(x - radius, 0), np.minimum(x + radius + 1, width)
    inner: np.ndarray = counts[bottom, right] - counts[top, right] - counts[bottom, left] + counts[top, left]
    return inner == 0


def make_canvas(
    picture: Image.Image,
    mask: Image.Image | None,
    asked: tuple[int | None, int | None],
    native: Size,
    factor: int,
    padding: int | None = None,
    feather: int = 0,
) -> Canvas:
    """The canvas of an RGB picture and its mask of the same size.

    `asked` (height, width) is what the caller wants, None where it is left open: then the picture's own side, floored
    to a multiple of `factor`. With `padding` the window is the box around what the mask repaints, that many pixels
    larger on every side and in the proportions of the work, and `native` stands in for what is left open.
    """
    whole = (0, 0, *picture.size)
    if padding is not None and mask is not None:
        size = asked[0] or native[0], asked[1] or native[1]
        box = _window(mask.getbbox() or whole, padding, size, whole)
        return Canvas(picture, mask, box, size, (picture.height, picture.width), feather)
    size = asked[0] or picture.height // factor * factor, asked[1] or picture.width // factor * factor
    if 0 in size:
        raise ArgumentError(
            f"the image is {picture.width} x {picture.height}, less than {factor} pixels a side; "
            "give width and height to enlarge it"
        )
    own = picture.height, picture.width
    return Canvas(picture, mask, whole, size, own if mask is not None and asked == (None, None) else size, feather)


def _window(box: Box, padding: int, size: Size, whole: Box) -> Box:
    """The box enlarged by `padding` and then to the proportions of `size` as far as the picture allows."""
    width, height = whole[2:]
    left, top = max(box[0] - padding, 0), max(box[1] - padding, 0)
    right, bottom = min(box[2] + padding, width), min(box[3] + padding, height)
    wanted_width = max(right - left, round((bottom - top) * size[1] / size[0]))
    wanted_height = max(bottom - top, round((right - left) * size[0] / size[1]))
    left, right = _widen(left, right, wanted_width, width)
    top, bottom = _widen(top, bottom, wanted_height, height)
    return left, top, right, bottom


def _widen(start: int, stop: int, length: int, most: int) -> tuple[int, int]:
    """An interval made `length` long around its middle, moved to lie within 0..`most`."""
    length = min(length, most)
    start = min(max((start + stop - length) // 2, 0), most - length)
    return start, start + length


def extend(
    picture: Image.Image, mask: Image.Image | None, borders: tuple[int, int, int, int]
) -> tuple[Image.Image, Image.Image]:
    """Outpainting: a larger picture whose (left, top, right, bottom) borders repeat its edge, and the mask that
    repaints them, beside what `mask` does already.
    """
    left, top, right, bottom = borders
    width, height = left + picture.width + right, top + picture.height + bottom
    if width * height > MOST_PIXELS:
        raise ArgumentError(
            f"outpaint makes the picture {width} x {height}; at most {MOST_PIXELS} pixels are drawn, give less"
        )
    grown = np.pad(np.asarray(picture), ((top, bottom), (left, right), (0, 0)), mode="edge")
    larger = Image.new("L", (width, height), 255)
    larger.paste(mask or Image.new("L", picture.size, 0), (left, top))
    return Image.fromarray(grown), larger
