"""A source image with its mask: the window to generate, and pasting the result back.

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
from .fill import fill, grow_box, unfill
from .image import MOST_PIXELS, blacken, resize, resize_mask
from .pixels import to_pil, to_tensor

Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Canvas:
    """The window `box` of `image` is generated at `size`. With a mask the result is pasted into the image at
    `result_size`: the image's own, or `size` if the caller gave one and the box is the whole image. `threshold` is the
    darkest grey of the mask (1 to 255) that is repainted in any step; what is darker is black. A `filled` window keeps
    its proportions in the work, as in diffusers; else it is stretched. With `doubles` a grey of the mask is pasted with
    twice its weight, as in AUTOMATIC1111. A filled window becomes 8 bits before it is pasted, rounded or `cut` off.
    """

    image: Image.Image  # RGB
    mask: Image.Image | None  # mode L, white where it repaints
    box: Box
    size: Size
    result_size: Size
    threshold: int
    feather: int
    filled: bool = False
    doubles: bool = False
    cut: bool = False

    def view(self, image: Image.Image) -> Image.Image:
        """The window of an image of the source's size, at the size of the work."""
        window = image.crop(self.box)
        return fill(window, self.size) if self.filled else resize(window, self.size)

    @cached_property
    def pixels(self) -> Tensor:
        """The window, (3, H, W) in 0..1."""
        return to_tensor(self.view(self.image))

    @cached_property
    def work_mask(self) -> Tensor:
        """The window's mask, (1, H, W): 0 is kept, 1 repainted, values between are repainted in some of the steps."""
        assert self.mask is not None
        if self.filled:
            return to_tensor(blacken(self.view(self.mask), self.threshold))
        return to_tensor(resize_mask(self.mask.crop(self.box), self.size, self.threshold))

    @cached_property
    def masked_image(self) -> Tensor:
        """The window with grey where the mask repaints, (3, H, W), for a 9-channel model."""
        return self.pixels.masked_fill(self.work_mask >= 0.5, 0.5)

    @property
    def original_size(self) -> Size:
        """The size of the source image (SDXL paper, section 2.2)."""
        return self.image.height, self.image.width

    @property
    def crop_top_left(self) -> Size:
        """The window's top left corner in the image, scaled to the window's resolution."""
        left, top, right, bottom = self.box
        return round(top * self.size[0] / (bottom - top)), round(left * self.size[1] / (right - left))

    def paste(self, result: Tensor) -> Tensor:
        """Paste the decoded window (3, H, W) into the image. Where the mask is black, the image stays bit for bit.

        Without a mask the window is the result.
        """
        if self.mask is None:
            return result
        whole = to_tensor(resize(self.image, self.result_size))
        own_size = self.result_size == self.original_size
        left, top, right, bottom = self.box if own_size else (0, 0, self.size[1], self.size[0])
        kept = whole[:, top:bottom, left:right]
        weight, work = self._weight()[:, top:bottom, left:right], result.cpu()  # not every device can resize like this
        size = list(kept.shape[1:])
        if self.filled:
            work = to_tensor(unfill(to_pil(work[None], self.cut)[0], (size[0], size[1])))
        elif work.shape != kept.shape:
            work = F.interpolate(work[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        whole[:, top:bottom, left:right] = work * weight + kept * (1 - weight)
        return whole.to(result.device)

    def _weight(self) -> Tensor:
        """The weight (1, H, W) of the result at each pixel: 0 outside the mask, 1 inside. With `feather` it rises in
        that many equal steps from the mask's edge inwards. The image's border is not an edge.
        """
        assert self.mask is not None
        if self.filled and not self.feather:  # diffusers blends by the mask as it is given
            return to_tensor(self.mask)
        if self.doubles and not self.feather:
            return (to_tensor(resize(self.mask, self.result_size)) * 2).clamp(max=1)
        outside = (to_tensor(resize_mask(self.mask, self.result_size, self.threshold)) == 0)[0].numpy()
        # summed-area table (Crow 1984, "Summed-area tables for texture mapping")
        counts = np.pad(outside.cumsum(0, np.int32).cumsum(1), ((1, 0), (1, 0)))
        depth = np.zeros(outside.shape, np.int32)
        for bit in reversed(range((self.feather + 1).bit_length())):
            deeper = depth + (1 << bit)
            depth = np.where((deeper <= self.feather + 1) & _is_clear(counts, deeper - 1), deeper, depth)
        return torch.from_numpy(depth / (self.feather + 1)).float()[None]


def _is_clear(counts: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Whether the square of `radius` around each pixel (H, W) counts nothing. `counts` (H+1, W+1) is a summed-area
    table.
    """
    height, width = radius.shape
    y, x = (axis.astype(np.int32) for axis in np.ogrid[:height, :width])
    top, bottom = np.maximum(y - radius, 0), np.minimum(y + radius + 1, height)
    left, right = np.maximum(x - radius, 0), np.minimum(x + radius + 1, width)
    inner: np.ndarray = counts[bottom, right] - counts[top, right] - counts[bottom, left] + counts[top, left]
    return inner == 0


def make_canvas(
    image: Image.Image,
    mask: Image.Image | None,
    requested: tuple[int | None, int | None],
    native: Size,
    factor: int,
    threshold: int,
    padding: int | None = None,
    feather: int = 0,
    filled: bool = False,
    doubles: bool = False,
    cut: bool = False,
) -> Canvas:
    """The canvas of an RGB image and its mask of the same size.

    `requested` is a (height, width); None stands for the side of the image, floored to a multiple of `factor`.
    `threshold` is the darkest grey that is repainted.
    With `padding` the window is the box around the repainted region. It is enlarged by that many pixels on every side,
    then to the proportions of the size, and None stands for the side of `native`. It is `filled` as diffusers does it.
    `doubles` is that of a canvas without padding, `cut` of one with padding.
    """
    whole = (0, 0, *image.size)
    if padding is not None and mask is not None:
        size = requested[0] or native[0], requested[1] or native[1]
        own = image.height, image.width
        repainted = (mask if filled else blacken(mask, threshold)).getbbox() or whole
        box = grow_box(repainted, padding, size, own) if filled else _window(repainted, padding, size, whole)
        return Canvas(image, mask, box, size, own, threshold, feather, filled, cut=cut)
    size = requested[0] or image.height // factor * factor, requested[1] or image.width // factor * factor
    if 0 in size:
        raise ArgumentError(
            f"the image is {image.width} x {image.height}, less than {factor} pixels a side; "
            "give width and height to enlarge it"
        )
    own = image.height, image.width
    result_size = own if mask is not None and requested == (None, None) else size
    return Canvas(image, mask, whole, size, result_size, threshold, feather, doubles=doubles)


def _window(box: Box, padding: int, size: Size, whole: Box) -> Box:
    """The box enlarged by `padding` and then to the proportions of `size` as far as the image allows."""
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


def fit_image(image: Image.Image, mask: Image.Image | None, rule: str) -> tuple[Image.Image, Image.Image | None]:
    """An image and its mask at a size that another tool works at, where sides are no multiples of 8: `cut` from the
    middle, or bicubic with sides of multiples of 64 (`floor_64`); else as they are.
    """
    width, height = image.size
    if rule == "cut" and min(width, height) >= 8:
        left, top = width % 8 // 2, height % 8 // 2
        box = left, top, left + width // 8 * 8, top + height // 8 * 8
        return image.crop(box), None if mask is None else mask.crop(box)
    if rule == "floor_64" and min(width, height) >= 64:
        size = width // 64 * 64, height // 64 * 64
        resized = [each and each.resize(size, Image.Resampling.BICUBIC) for each in (image, mask)]
        return resized[0] or image, resized[1]
    return image, mask


def extend(
    image: Image.Image, mask: Image.Image | None, borders: tuple[int, int, int, int]
) -> tuple[Image.Image, Image.Image]:
    """Outpainting: a larger image whose (left, top, right, bottom) borders repeat its edge, and the mask that repaints
    these borders in addition to `mask`.
    """
    left, top, right, bottom = borders
    width, height = left + image.width + right, top + image.height + bottom
    if width * height > MOST_PIXELS:
        raise ArgumentError(
            f"outpaint makes the image {width} x {height}; expected at most {MOST_PIXELS} pixels, give smaller borders"
        )
    grown = np.pad(np.asarray(image), ((top, bottom), (left, right), (0, 0)), mode="edge")
    larger = Image.new("L", (width, height), 255)
    larger.paste(mask or Image.new("L", image.size, 0), (left, top))
    return Image.fromarray(grown), larger
