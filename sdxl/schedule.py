"""Noise schedules: which noise levels (sigmas) a sampler visits, and which timestep the UNet is told at each.

x = z + sigma * noise. Sigma is the clock; tables are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ScheduleConfig
from .errors import ArgumentError

Array = NDArray[np.float64]

SPACINGS = ("leading", "trailing", "sgm", "linspace", "karras", "exponential")

# diffusers starts these samplers, on these spacings, from latents * sigma and not latents * sqrt(1 + sigma^2)
_UNPADDED_SAMPLERS = ("euler", "euler_ancestral", "heun")
_UNPADDED_SPACINGS = ("linspace", "trailing")


@dataclass(frozen=True)
class Schedule:
    """The n+1 noise levels of n steps, the UNet's timestep at the first n, and the scale of the start noise; `table` is
    the sigma of every training timestep.
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    start_scale: float
    table: Array = field(repr=False, compare=False)

    @property
    def end_scale(self) -> float:
        """What the last x is multiplied by: below 1 where the last sigma is not 0 (ddim ends at sigma(0))."""
        return 1 / math.sqrt(1 + self.sigmas[-1] ** 2)

    def timestep(self, sigma: float) -> float:
        """The UNet's timestep at a noise level: at one of the first n its own, at any other by interpolation over the
        logarithms of the training's, as k-diffusion does it.
        """
        if sigma in self.sigmas[:-1]:
            return self.timesteps[self.sigmas.index(sigma)]
        levels = np.log(self.table)
        return float(np.interp(math.log(max(sigma, self.table[0])), levels, np.arange(len(levels))))


def noise_table(config: ScheduleConfig) -> Array:
    """Sigma of each training timestep, ascending (Karras et al. 2022, arXiv 2206.00364, table 1: VP in sigma space)."""
    if config.beta_schedule == "scaled_linear":
        betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.train_steps) ** 2
    else:
        betas = np.linspace(config.beta_start, config.beta_end, config.train_steps)
    alphas_cumprod = np.cumprod(1 - betas)
    if config.zero_terminal_snr:
        alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
    return np.asarray(np.sqrt((1 - alphas_cumprod) / alphas_cumprod))


def _zero_terminal_snr(alphas_cumprod: Array) -> Array:
    """Shift and scale to no signal at the end (Lin et al. 2023, arXiv 2305.08891, algorithm 1).

    The last sigma would be infinite; like diffusers we stop at 2^-24, sigma 4096.
    """
    root = np.sqrt(alphas_cumprod)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    root[-1] = 2**-12
    return np.asarray(root**2)


def make_schedule(config: ScheduleConfig, spacing: str, steps: int, sampler: str) -> Schedule:
    """The schedule of `steps` steps in one of `SPACINGS`; a spacing gives every sampler the same sigmas."""
    table = noise_table(config)
    sigmas, timesteps = _spaced(config, table, spacing, steps)
    final = float(table[0]) if sampler == "ddim" and not config.final_alpha_one else 0.0
    unpadded = sampler in _UNPADDED_SAMPLERS and spacing in _UNPADDED_SPACINGS
    start_scale = sigmas[0] if unpadded else math.sqrt(1 + sigmas[0] ** 2)
    return Schedule((*map(float, sigmas), final), tuple(map(float, timesteps)), float(start_scale), table)


def _spaced(config: ScheduleConfig, table: Array, spacing: str, steps: int) -> tuple[Any, Array]:
    total = config.train_steps
    if spacing not in SPACINGS:
        raise ArgumentError(f"schedule is {spacing!r}; it must be one of {', '.join(SPACINGS)}")
    most = total - config.steps_offset if spacing == "leading" else total
    if not 1 <= steps <= most:
        raise ArgumentError(f"steps is {steps}; with the {spacing} schedule it must be 1 to {most}")
    if spacing in ("karras", "exponential"):
        rho = np.linspace(1, 0, steps) if steps > 1 else np.ones(1)
        if spacing == "karras":  # Karras et al. 2022, equation 5, rho = 7
            low, high = table[0] ** (1 / 7), table[-1] ** (1 / 7)
            sigmas = (low + rho * (high - low)) ** 7
        else:
            sigmas = np.exp(np.log(table[0]) + rho * (np.log(table[-1]) - np.log(table[0])))
        timesteps = np.interp(np.log(sigmas), np.log(table), np.arange(total))
        return sigmas, np.round(timesteps) if spacing == "karras" else timesteps
    timesteps = _timesteps(total, spacing, steps, config.steps_offset)
    return np.interp(timesteps, np.arange(total), table), timesteps


def _timesteps(total: int, spacing: str, steps: int, offset: int) -> Array:
    k = np.arange(steps)
    if spacing == "leading":
        return np.asarray((steps - 1 - k) * (total // steps) + offset, dtype=np.float64)
    if spacing == "trailing":
        return np.asarray(np.round(total - k * total / steps) - 1)
    if spacing == "sgm":
        return np.asarray(np.trunc((total - 1) - k * (total - 1) / steps))
    return np.asarray((total - 1) * (1 - k / max(steps - 1, 1)))
