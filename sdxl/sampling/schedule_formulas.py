"""What a schedule's name stands for in other tools, where that differs from ours: a function for each tool, which
gives None where it does not.

ComfyUI and AUTOMATIC1111 compute in float32. Noise of a Brownian path depends on the last bit of a sigma, which is why
these formulas keep to their operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.schedule_config import ScheduleConfig
from .beta import beta_quantiles
from .schedule import LCM_STRIDE, NoiseTable

Array = NDArray[np.float64]
Formula = Callable[..., "tuple[Sequence[float], Sequence[float] | None] | None"]
"""(table, name, steps, sampler, spacing, options) to all sigmas, the last one too, and the timesteps where they are
stated.
"""


def _floats(table: NoiseTable) -> Tensor:
    return torch.from_numpy(table.sigmas).float()


def _log_linear(table: NoiseTable, timesteps: Tensor) -> list[float]:
    """Sigmas at float32 timesteps, between the logarithms of the table's."""
    logs = torch.from_numpy(np.log(table.sigmas)).float()
    low, high, part = timesteps.floor().long(), timesteps.ceil().long(), timesteps.frac()
    return ((1 - part) * logs[low] + part * logs[high]).exp().tolist()


def _every(table: NoiseTable, steps: int) -> list[float]:
    """Every (N // steps)-th timestep from 1 on, falling: more than `steps` where they do not divide N."""
    sigmas = _floats(table).tolist()
    return sigmas[1 :: max(len(sigmas) // steps, 1)][::-1]


def _karras(low: float, high: float, steps: int, rho: float) -> list[float]:
    ramp = torch.linspace(0, 1, steps, dtype=torch.float32)
    top, bottom = high ** (1 / rho), low ** (1 / rho)
    return ((top + ramp * (bottom - top)) ** rho).tolist()


def _exponential(low: float, high: float, steps: int) -> list[float]:
    return torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float32).exp().tolist()


def _beta(shares: Array, options: Mapping[str, Any]) -> Array:
    """The quantiles of the beta distribution that the options choose."""
    return beta_quantiles(shares, float(options.get("alpha", 0.6)), float(options.get("beta", 0.6)))


def _k_diffusion(table: NoiseTable, name: str, steps: int, options: Mapping[str, Any]) -> list[float] | None:
    """What ComfyUI and AUTOMATIC1111 have in common: the sigmas at which the steps begin."""
    sigmas = _floats(table)
    low, high, last = float(sigmas[0]), float(sigmas[-1]), len(sigmas) - 1
    if name == "karras":
        return _karras(low, high, steps, float(options.get("rho", 7)))
    if name == "exponential":
        return _exponential(low, high, steps)
    if name == "linspace":
        return _log_linear(table, torch.linspace(last, 0, steps, dtype=torch.float32))
    if name == "sgm_uniform":
        return _log_linear(table, torch.linspace(last, 0, steps + 1, dtype=torch.float32)[:-1])
    if name == "leading":
        return _every(table, steps)
    if name == "simple":
        return [float(sigmas[-(1 + int(k * (len(sigmas) / steps)))]) for k in range(steps)]
    return None


def comfyui(
    table: NoiseTable, name: str, steps: int, sampler: str, spacing: str, options: Mapping[str, Any]
) -> tuple[list[float], None] | None:
    """ComfyUI's sigmas."""
    sigmas = _k_diffusion(table, name, steps, options)
    if name == "beta":
        shares = 1 - np.linspace(0, 1, steps, endpoint=False)
        places = np.rint(_beta(shares, options) * (len(table.sigmas) - 1))
        sigmas = [float(_floats(table)[int(place)]) for place in dict.fromkeys(places)]
    elif name == "kl_optimal":
        low, high = (math.atan(float(sigma)) for sigma in _floats(table)[[0, -1]])
        part = torch.arange(steps, dtype=torch.float) / max(steps - 1, 1)  # ComfyUI's one step is NaN
        sigmas = (part * low + (1 - part) * high).tan().tolist()
    return None if sigmas is None else ([*sigmas, 0.0], None)


# Sabour et al. 2024 (arXiv 2404.14507), for SDXL in 10 steps, as AUTOMATIC1111 rounds them
_AYS = 14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029


def a1111(
    table: NoiseTable, name: str, steps: int, sampler: str, spacing: str, options: Mapping[str, Any]
) -> tuple[list[float], None] | None:
    """AUTOMATIC1111's sigmas."""
    if sampler == "lcm":
        table = replace(table, sigmas=table.sigmas[LCM_STRIDE - 1 :: LCM_STRIDE])
    sigmas = _k_diffusion(table, name, steps, options)
    low, high = float(_floats(table)[0]), float(_floats(table)[-1])
    if name == "beta":
        sigmas = (low + _beta(1 - np.linspace(0, 1, steps), options) * (high - low)).tolist()
    elif name == "align_your_steps":
        places = np.linspace(0, len(_AYS) - 1, steps)
        sigmas = np.exp(np.interp(places, np.arange(len(_AYS)), np.log(_AYS))).tolist()
    elif name == "kl_optimal":  # without a last 0: noise is left in the image
        part = torch.arange(steps + 1, dtype=torch.float) / steps
        return (part * math.atan(low) + (1 - part) * math.atan(high)).tan().tolist(), None
    if sigmas is None:
        return None
    if sampler == "ddim" and name == "leading" and len(sigmas) > 1:  # its loop leaves the last timestep, 1, out
        return sigmas, None
    final = float(table.sigmas[0]) if sampler == "ddim" else 0.0
    return [*(float(np.float32(sigma)) for sigma in sigmas), final], None


_MULTISTEP = ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "res_multistep", "uni_pc", "uni_pc_bh2")
_ROUNDED = ("dpm_2", "dpm_2_ancestral")  # whose karras has whole timesteps


def diffusers(
    table: NoiseTable, name: str, steps: int, sampler: str, spacing: str, options: Mapping[str, Any]
) -> tuple[list[float], list[float]] | None:
    """Sigmas and timesteps of diffusers' schedulers. `spacing` is that of the model's own config."""
    if sampler in ("ddim", "lcm", "tcd"):
        return None
    multistep = sampler in _MULTISTEP
    if name in ("leading", "linspace", "trailing"):
        spaced = _spaced(table, name, steps, multistep)
        return [*table.sigma(spaced), 0.0], spaced
    low, high = table.sigmas[0], table.sigmas[-1]
    if not multistep:
        high, low = table.sigma(_spaced(table, spacing, steps, False))[[0, -1]]
    ramp = np.linspace(0, 1, steps)
    if name == "karras":
        rho = float(options.get("rho", 7))
        sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    elif name == "exponential":
        sigmas = np.exp(np.log(high) + ramp * (np.log(low) - np.log(high)))
    elif name == "beta":
        sigmas = low + _beta(1 - ramp, options) * (high - low)
    else:
        return None
    timesteps = table.timestep(sigmas)
    if name == "karras" and (multistep or sampler in _ROUNDED):
        timesteps = timesteps.round()
    elif multistep:
        timesteps = np.floor(timesteps - 1e-6).clip(0)  # in their float32 the highest falls short of a whole timestep
    return [*map(float, np.asarray(sigmas, np.float32)), 0.0], [*map(float, timesteps)]


def _spaced(table: NoiseTable, name: str, steps: int, multistep: bool) -> list[float]:
    """diffusers' timesteps of a spacing; its multistep solvers take one more and leave the lowest out."""
    total, points = len(table.sigmas), steps + multistep
    if name == "linspace":
        found = np.linspace(0, total - 1, points)[::-1][:steps]
        return [*map(float, found.round() if multistep else found)]
    if name == "leading":
        each = total // points
        return [float((points - 1 - k) * each + table.steps_offset) for k in range(steps)]
    return [float(round(total - k * total / steps) - 1) for k in range(steps)]


def float32_table(config: ScheduleConfig, last_alpha: float) -> NoiseTable:
    """The noise levels that a model was trained on as diffusers computes them, in float32: the lowest ones differ by
    4e-5.
    """
    ends, is_root = (config.beta_start, config.beta_end), config.beta_schedule == "scaled_linear"
    begin, end = (each**0.5 if is_root else each for each in ends)
    betas = torch.linspace(begin, end, config.train_steps, dtype=torch.float32)
    alphas = 1 - (betas**2 if is_root else betas)
    if config.zero_terminal_snr:
        root = alphas.cumprod(0).sqrt()
        shifted = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
        alphas = 1 - (1 - torch.cat([shifted[:1], shifted[1:] / shifted[:-1]]))
    products = alphas.cumprod(0)
    if config.zero_terminal_snr:
        products[-1] = last_alpha
    return NoiseTable((((1 - products) / products) ** 0.5).double().numpy(), config.steps_offset)


def of_float32_alphas(table: NoiseTable) -> NoiseTable:
    """A model's noise levels, computed from its alphas in float32 as k-diffusion does it."""
    alphas = torch.from_numpy(1 / (1 + table.sigmas**2)).float()
    return replace(table, sigmas=(((1 - alphas) / alphas) ** 0.5).double().numpy())


def float32_levels(sigmas: Sequence[float], r: float, round_trip: bool) -> dict[float, float]:
    """The noise levels between some float32 sigmas at which dpmpp_sde asks for noise, as k-diffusion computes them in
    float32, by ours in float64. With a `round_trip` through the logarithm the sigmas too, as k-diffusion's own.
    """
    found: dict[float, float] = {}
    times = -torch.tensor(sigmas, dtype=torch.float32).log()
    for i, (sigma, to) in enumerate(pairwise(sigmas)):
        if to > 0:
            middle = times[i] + r * (times[i + 1] - times[i])
            found[sigma ** (1 - r) * to**r] = float((-middle).exp())
        if round_trip:
            found[sigma] = min(float((-times[i]).exp()), sigmas[0])
    return found


FORMULAS: Mapping[str, Formula] = {"comfyui": comfyui, "a1111": a1111, "diffusers": diffusers}
"""The formulas of each tool."""
