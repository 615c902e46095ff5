"""Gaussian blur of images, in float32 and without the shortcuts of PIL's, which is three box blurs."""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError

_MOST = 100.0  # a wider one costs seconds, and leaves nothing of an image


def gaussian_blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Pixels (H, W, C) blurred by a Gaussian of that many pixels, cut off at four sigmas, the image mirrored at its
    border; unchanged for 0. Raises `ArgumentError`.
    """
    if not 0 <= sigma <= _MOST:
        raise ArgumentError(f"sigma is {sigma:g}; expected 0 to {_MOST:g} pixels. Try a smaller one")
    if sigma == 0:
        return pixels
    radius = max(round(4 * sigma), 1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    x = pixels.astype(np.float32)
    for axis in (0, 1):
        lines = x.swapaxes(0, axis)
        around = np.pad(lines, ((radius, radius), (0, 0), (0, 0)), mode="reflect")
        blurred = np.zeros_like(lines)
        for n, weight in enumerate(weights):
            blurred += weight * around[n : n + len(lines)]
        x = blurred.swapaxes(0, axis)
    return x
