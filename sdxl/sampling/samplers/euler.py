"""Euler's method, plain and ancestral (Karras et al. 2022, arXiv 2206.00364; k-diffusion's names), and DDIM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..sampler import CHURN, Denoiser, Noise, Sampler, Scheduler, Step, churn, euler_step

if TYPE_CHECKING:
    from torch import Tensor


def _churned(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, **churning: Any) -> Iterator[Step]:
    """First order, deterministic without churn."""
    for sigma, to in pairwise(sigmas):
        x, raised = churn(x, sigma, len(sigmas) - 1, noise, **churning)
        denoised = denoise(x, raised)
        x = euler_step(x, denoised, raised, to, 0.0, noise)
        yield Step(x, denoised, to)


def _euler(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 0.0,
    s_noise: float = 1.0,
    draws_last: bool = True,
) -> Iterator[Step]:
    """First order, deterministic at `eta` 0. With `eta` every step draws noise, that to sigma 0 if it `draws_last`."""
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = euler_step(x, denoised, sigma, to, eta if to or draws_last else 0.0, noise, s_noise)
        yield Step(x, denoised, to)


euler = Sampler(
    _churned,
    a1111="Euler",
    diffusers=Scheduler(
        "EulerDiscreteScheduler",
        fixed={
            "final_sigmas_type": "zero",
            "interpolation_type": "linear",
            "sigma_max": None,
            "sigma_min": None,
            "timestep_type": "discrete",
        },
    ),
    options=CHURN,
    names=("k_euler",),
    starts_at_sigma=("linspace", "trailing"),
)

# all of the noise is drawn again at every step; DDPM (Ho et al. 2020, arXiv 2006.11239) is the same
euler_ancestral = Sampler(
    partial(_euler, eta=1.0),
    a1111="Euler a",
    diffusers=Scheduler("EulerAncestralDiscreteScheduler"),
    options={"eta": 1.0, "s_noise": 1.0},
    names=("k_euler_a", "ddpm", "DDPMScheduler"),
    starts_at_sigma=("linspace", "trailing"),
)

# DDIM (Song et al. 2020, arXiv 2010.02502) is Euler's step over a list that ends at the sigma of timestep 0, whose
# result is scaled back by 1 / sqrt(1 + sigma^2). eta 1 draws as much noise as DDPM.
ddim = Sampler(
    _euler,
    a1111="DDIM",
    diffusers=Scheduler(
        "DDIMScheduler",
        fixed={"clip_sample": False, "thresholding": False},
        defaults={"clip_sample": True, "set_alpha_to_one": True, "timestep_spacing": "leading"},
    ),
    options={"eta": 0.0},
    ends_at_zero=False,
    automatic="leading",
)
