"""What the output of a network means: the clean guess that follows from it, for each prediction type."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Point:
    """A call of the denoiser: x (B, C, H, W) at noise level `sigma`. The network sees x * `scale`, and its output
    stands for the clean guess x * `skip` + output * `out`. `memory` is what a guider keeps from call to call of a run.
    """

    x: Tensor
    sigma: float
    scale: float
    skip: float
    out: float
    memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def denoised(self, output: Tensor) -> Tensor:
        """The clean guess of an output (B, C, H, W) of the network."""
        return self.x * self.skip + output * self.out

    def v(self, output: Tensor) -> Tensor:
        """v (Salimans & Ho 2022, arXiv 2202.00512) of the clean guess of an output."""
        return (self.x * self.scale**2 - self.denoised(output)) / (self.sigma * self.scale)

    def of_v(self, v: Tensor) -> Tensor:
        """The output of the network whose guess has that v."""
        guess = self.x * self.scale**2 - v * (self.sigma * self.scale)
        return (guess - self.x * self.skip) / self.out


def make_point(
    x: Tensor, sigma: float, prediction: str, sigma_data: float = 1.0, memory: dict[str, Any] | None = None
) -> Point:
    """The point of a network that was trained on latents of the standard deviation `sigma_data`."""
    scale = 1 / math.sqrt(sigma**2 + sigma_data**2)
    skip, out = _coefficients(sigma, prediction, scale, sigma_data)
    return Point(x, sigma, scale, skip, out, {} if memory is None else memory)


def _coefficients(sigma: float, prediction: str, scale: float, sigma_data: float) -> tuple[float, float]:
    if prediction == "epsilon":
        return 1.0, -sigma
    if prediction == "sample":  # x0, as SDXL-Lightning's model of one step
        return 0.0, 1.0
    # EDM's F (Karras et al. 2022, arXiv 2206.00364, table 1) is -v (Salimans & Ho 2022, arXiv 2202.00512, appendix D)
    out = sigma * scale * sigma_data
    return sigma_data**2 * scale**2, out if prediction == "edm" else -out
