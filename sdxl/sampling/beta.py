"""Quantiles of the beta distribution, in NumPy alone."""

from __future__ import annotations

from math import lgamma

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def beta_quantiles(shares: Array, alpha: float, beta: float) -> Array:
    """Where the distribution function of Beta(alpha, beta) has the values `shares` (0 to 1), within 1e-12."""
    low, high = np.zeros_like(shares), np.ones_like(shares)
    for _ in range(60):  # bisection, down to the last bit
        middle = (low + high) / 2
        below = _distribution(middle, alpha, beta) < shares
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(shares >= 1, 1.0, np.where(shares <= 0, 0.0, (low + high) / 2))


def _distribution(x: Array, alpha: float, beta: float) -> Array:
    """The regularised incomplete beta function, by its continued fraction (Press et al., Numerical Recipes, section
    6.4; Lentz's method) from the side on which that converges fast.
    """
    turned = x > (alpha + 1) / (alpha + beta + 2)
    z = np.clip(np.where(turned, 1 - x, x), 1e-300, 1 - 1e-16)
    a, b = np.where(turned, beta, alpha), np.where(turned, alpha, beta)
    front = lgamma(alpha + beta) - lgamma(alpha) - lgamma(beta) + a * np.log(z) + b * np.log1p(-z)
    c, d = np.ones_like(z), 1 / (1 - (a + b) * z / (a + 1))
    total = d
    for m in range(1, 500):
        even = m * (b - m) * z / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * z / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            c, d = 1 + term / c, 1 / (1 + term * d)
            total = total * c * d
        if np.abs(c * d - 1).max() < 1e-15:
            break
    part = np.exp(front) * total / a
    return np.where(turned, 1 - part, part)
