"""Canny's edges (1986, "A computational approach to edge detection"), as OpenCV finds them: Sobel's gradients, their L1
norm, non-maximum suppression along four directions, and hysteresis.
"""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError
from .gaussian import gaussian_blur

_TANGENT = 13573  # of 22.5 degrees, times 2^15: OpenCV's whole numbers, so that the same pixels are chosen
_MOST = 2040  # the largest L1 norm of Sobel's gradients


def canny_edges(pixels: np.ndarray, low: float, high: float, sigma: float = 0.0) -> np.ndarray:
    """The edges (H, W) of 8-bit pixels (H, W, C), True where there is one.

    An edge is a maximum of the L1 norm of the gradient above `high`, or one above `low` that is connected to it. A
    pixel of several channels has the gradient of that with the largest norm. The pixels are blurred first where `sigma`
    is not 0. Raises `ArgumentError`.
    """
    if not 0 <= low <= high <= _MOST:
        raise ArgumentError(
            f"canny's thresholds are {low:g} and {high:g}; expected 0 <= low <= high <= {_MOST}. Try 100 and 200"
        )
    dx, dy = _gradients(np.rint(gaussian_blur(pixels, sigma)).astype(np.int16))
    norm = np.pad(np.abs(dx) + np.abs(dy), 1)  # nothing is larger outside of the image
    thin = _maxima(norm, dx, dy, int(low))
    strong = norm.ravel()[thin] > int(high)
    edges = np.zeros(norm.shape, bool)
    edges.ravel()[thin[_connected(norm.shape, thin, strong)]] = True
    return edges[1:-1, 1:-1]


def _gradients(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's (H, W) in x and y, of the channel with the largest L1 norm, the first of several."""
    height, width = pixels.shape[:2]
    around = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    tall = around[:height] + 2 * around[1:-1] + around[2:]
    wide = around[:, :width] + 2 * around[:, 1:-1] + around[:, 2:]
    dx, dy = tall[:, 2:] - tall[:, :width], wide[2:] - wide[:height]
    if pixels.shape[2] == 1:
        return dx[..., 0], dy[..., 0]
    channel = np.argmax(np.abs(dx) + np.abs(dy), axis=2, keepdims=True)
    return np.take_along_axis(dx, channel, 2)[..., 0], np.take_along_axis(dy, channel, 2)[..., 0]


def _maxima(norm: np.ndarray, dx: np.ndarray, dy: np.ndarray, low: int) -> np.ndarray:
    """The places, in the padded norm (H+2, W+2), of pixels above `low` that are maxima across their edge."""
    flat, stride = norm.ravel(), norm.shape[1]
    places = np.flatnonzero(flat > low)
    inside = (places // stride - 1) * (stride - 2) + places % stride - 1
    gx, gy = dx.ravel()[inside].astype(np.int32), dy.ravel()[inside].astype(np.int32)
    x, y = np.abs(gx) * _TANGENT, np.abs(gy) << 15
    flat_edge, steep_edge = y < x, y > x + (np.abs(gx) << 16)  # the tangent of 67.5 degrees is that of 22.5 plus 2
    diagonal = np.where((gx ^ gy) < 0, stride - 1, stride + 1)
    step = np.where(flat_edge, 1, np.where(steep_edge, stride, diagonal))
    value, before, after = flat[places], flat[places - step], flat[places + step]
    # of two equal neighbours the first is the edge, but on diagonals neither is
    above = np.where(flat_edge | steep_edge, value >= after, value > after)
    return places[(value > before) & above]


def _connected(shape: tuple[int, ...], places: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """Whether each of `places` hangs together with a strong one, over sides and corners."""
    number = np.full(shape, -1, np.int64)
    number.ravel()[places] = np.arange(len(places))
    pairs = []
    for step in (1, shape[1] - 1, shape[1], shape[1] + 1):
        other = number.ravel()[places + step]
        pairs.append(np.stack([np.flatnonzero(other >= 0), other[other >= 0]]))
    first, second = np.concatenate(pairs, axis=1)
    root = _components(len(places), first, second)
    reached = np.zeros(len(places), bool)
    reached[root[strong]] = True
    return reached[root]


def _components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smallest number of the component of each of `count` nodes, whose edges lead from `first` to `second`.

    Each round joins the roots at both ends of an edge, then lets all nodes point to their root (Shiloach & Vishkin
    1982): few rounds, however long a line is.
    """
    root = np.arange(count)
    while len(first):
        a, b = root[first], root[second]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root, shorter := root[root]):
            root = shorter
        apart = root[first] != root[second]
        first, second = first[apart], second[apart]
    return root
