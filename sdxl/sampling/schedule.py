"""A schedule for a model, a sampler and a number of steps: the sigmas, and the UNet's timestep at each.

Sigma is the clock; tables are float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ArgumentError, brief
from ..models.schedule_config import ScheduleConfig
from .samplers import SAMPLERS
from .schedules import SCHEDULES
from .settings import CUSTOM, Value

Array = NDArray[np.float64]
LCM_STRIDE = 20
"""Timesteps between two that LCM was trained on, of which the last is the last one."""


@dataclass(frozen=True)
class NoiseTable:
    """The sigma of each training timestep, ascending (Karras et al. 2022, arXiv 2206.00364, table 1: VP in sigma
    space). With `edm` noise levels, evenly spaced in log sigma; the network's timestep is then another one.

    `rounding` says which timestep the network gets at a noise level: a `fractional` one, or the `nearest` in log sigma,
    with `lcm` of those that LCM was trained on. With `quantized` it is that of the nearest sigma, which also takes the
    place of the noise level.
    """

    sigmas: Array = field(repr=False, compare=False)
    steps_offset: int = 0
    edm: bool = False
    rounding: str = "fractional"

    def sigma(self, timesteps: Sequence[float]) -> Array:
        """The noise levels at timesteps, linear between whole ones."""
        return np.interp(timesteps, np.arange(len(self.sigmas)), self.sigmas)

    def timestep(self, sigmas: Sequence[float] | Array) -> Array:
        """The timesteps at noise levels, linear between the logarithms of the training's, as in k-diffusion."""
        return np.interp(np.log(sigmas), np.log(self.sigmas), np.arange(len(self.sigmas)))

    def network_timestep(self, sigma: float) -> float:
        """The network's input at any noise level: its timestep; of EDM ln(sigma) / 4."""
        sigma = max(sigma, float(self.sigmas[0]))
        if self.edm:
            return math.log(sigma) / 4
        if self.rounding == "nearest":
            return self._nearest(sigma)
        if self.rounding == "lcm":
            logs = np.log(self.sigmas[LCM_STRIDE - 1 :: LCM_STRIDE])
            return float(np.abs(logs - math.log(sigma)).argmin() * LCM_STRIDE + LCM_STRIDE - 1)
        if self.rounding == "quantized":
            return float(self.nearest(sigma))
        return float(np.interp(math.log(sigma), np.log(self.sigmas), np.arange(len(self.sigmas))))

    def nearest(self, sigma: float) -> int:
        """The whole timestep whose noise level is nearest."""
        return int(np.abs(self.sigmas - sigma).argmin())

    def level(self, sigma: float) -> float:
        """The noise level at which the network is called for one of x."""
        return float(self.sigmas[int(self.network_timestep(sigma))]) if self.rounding == "quantized" else sigma

    def _nearest(self, sigma: float) -> float:
        """In float32, as ComfyUI: some schedules have timesteps half way between two. Of two the lower one."""
        logs = torch.from_numpy(np.log(self.sigmas)).float()
        return float((torch.tensor(sigma, dtype=torch.float32).log() - logs).abs().argmin())


@dataclass(frozen=True)
class Schedule:
    """The n+1 noise levels of n steps, the UNet's timestep at the first n, and the scale of the start noise. If it
    `scales_end`, a last level above 0 scales the last x down.
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    start_scale: float
    table: NoiseTable = field(repr=False, compare=False)
    scales_end: bool = True

    @property
    def end_scale(self) -> float:
        """The factor of the last x: below 1 where the last sigma is not 0 (ddim ends at the sigma of timestep 0)."""
        return 1 / math.sqrt(1 + self.sigmas[-1] ** 2) if self.scales_end else 1.0

    def timestep(self, sigma: float) -> float:
        """The UNet's timestep at a noise level: at one of the first n its own, at any other by interpolation."""
        if sigma in self.sigmas[:-1]:
            return self.timesteps[self.sigmas.index(sigma)]
        return self.table.network_timestep(sigma)


LAST_ALPHA = 2.0**-24
"""The last alpha with zero terminal SNR, as in diffusers: sigma 4096."""


def noise_table(config: ScheduleConfig, last_alpha: float = LAST_ALPHA) -> NoiseTable:
    """The noise levels that a model was trained on."""
    if config.edm is not None:
        sigmas = np.geomspace(config.edm.sigma_min, config.edm.sigma_max, config.train_steps)
        return NoiseTable(sigmas, config.steps_offset, edm=True)
    if config.beta_schedule == "scaled_linear":
        betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.train_steps) ** 2
    else:
        betas = np.linspace(config.beta_start, config.beta_end, config.train_steps)
    alphas_cumprod = np.cumprod(1 - betas)
    if config.zero_terminal_snr:
        alphas_cumprod = _zero_terminal_snr(alphas_cumprod, last_alpha)
    return NoiseTable(np.asarray(np.sqrt((1 - alphas_cumprod) / alphas_cumprod)), config.steps_offset)


def _zero_terminal_snr(alphas_cumprod: Array, last_alpha: float) -> Array:
    """Shift and scale to no signal at the end (Lin et al. 2023, arXiv 2305.08891, algorithm 1), but `last_alpha`: the
    last sigma would be infinite.
    """
    root = np.sqrt(alphas_cumprod)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alphas = np.asarray(root**2)
    alphas[-1] = last_alpha
    return alphas


def make_schedule(
    config: ScheduleConfig,
    schedule: str,
    steps: int,
    sampler: str,
    options: Mapping[str, Value] | None = None,
    table: NoiseTable | None = None,
) -> Schedule:
    """The schedule of `steps` steps; `schedule` and `sampler` are names in their tables, `options` those of the
    schedule. A schedule gives every sampler the same sigmas. `table` is the config's if none is given. Raises
    `ArgumentError`.
    """
    if schedule not in SCHEDULES:
        raise ArgumentError(f"schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}")
    if sampler not in SAMPLERS:
        raise ArgumentError(f"sampler is {sampler!r}; it must be one of {', '.join(SAMPLERS)}")
    table, record, choose = table or noise_table(config), SAMPLERS[sampler], SCHEDULES[schedule]
    most = choose.most(table)
    if not 1 <= steps <= most:
        raise ArgumentError(f"steps is {steps}; with the {schedule} schedule it must be 1 to {most}")
    sigmas, timesteps = _checked(schedule, choose(table, steps, **(options or {})), steps)
    if table.edm:
        timesteps = _edm_timesteps(table, sigmas)
    start_scale = record.start_scale(sigmas[0], schedule)
    return Schedule((*sigmas, _final(config, table, sampler)), tuple(timesteps), start_scale, table)


def _checked(name: str, given: Any, steps: int) -> tuple[list[float], list[float]]:
    """The sigmas and timesteps of a schedule, which may be a user's own."""
    wanted = f"expected {steps} falling sigmas above 0 and as many timesteps; the last sigma is the sampler's"
    try:
        sigmas, timesteps = ([float(each) for each in numbers] for numbers in given)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"schedule {name} gives {brief(given)}; {wanted}") from error
    if not len(sigmas) == len(timesteps) == steps:
        raise ArgumentError(f"schedule {name} gives {len(sigmas)} sigmas and {len(timesteps)} timesteps; {wanted}")
    falls = all(sigma > to for sigma, to in pairwise([math.inf, *sigmas, 0.0]))
    if not falls or not all(map(math.isfinite, timesteps)):
        raise ArgumentError(
            f"schedule {name} gives the sigmas {brief(sigmas)} and timesteps {brief(timesteps)}; {wanted}"
        )
    return sigmas, timesteps


def schedule_of_sigmas(
    config: ScheduleConfig, sigmas: Sequence[float], sampler: str, table: NoiseTable | None = None
) -> Schedule:
    """The schedule over given noise levels, falling; the last one is where the result is."""
    table = table or noise_table(config)
    begins = np.array(sigmas[:-1], dtype=np.float64)
    timesteps = _edm_timesteps(table, begins) if table.edm else table.timestep(begins)
    start_scale = SAMPLERS[sampler].start_scale(sigmas[0], CUSTOM)
    return Schedule(tuple(sigmas), tuple(map(float, timesteps)), start_scale, table)


def schedule_of_timesteps(
    config: ScheduleConfig, timesteps: Sequence[float], sampler: str, table: NoiseTable | None = None
) -> Schedule:
    """The schedule that begins its steps at given timesteps, falling. Raises `ArgumentError`."""
    table = table or noise_table(config)
    if timesteps[0] > (last := len(table.sigmas) - 1):
        raise ArgumentError(f"timesteps begin at {timesteps[0]:g}; the model has 0 to {last}. Try {last}")
    sigmas = (*map(float, table.sigma(timesteps)), _final(config, table, sampler))
    if sigmas[-2] <= sigmas[-1]:
        raise ArgumentError(f"timesteps end at 0, where {sampler} ends; leave the 0 out")
    inputs = _edm_timesteps(table, sigmas[:-1]) if table.edm else timesteps
    return Schedule(sigmas, tuple(inputs), SAMPLERS[sampler].start_scale(sigmas[0], CUSTOM), table)


def _edm_timesteps(table: NoiseTable, sigmas: Iterable[float]) -> list[float]:
    return [table.network_timestep(float(sigma)) for sigma in sigmas]


def _final(config: ScheduleConfig, table: NoiseTable, sampler: str) -> float:
    """The last noise level of a sampler."""
    return 0.0 if SAMPLERS[sampler].ends_at_zero or config.final_alpha_one else float(table.sigmas[0])
