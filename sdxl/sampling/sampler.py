"""What a sampler is: a generator of steps over a list of sigmas, and a record of all that is known about it.

A sampler knows the model only as `denoised = denoise(x, sigma)`. Imports no torch, so that names and options of the
samplers can be listed without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

    from .schedules import NoiseLevels


class Denoiser(Protocol):
    """Guesses z from x = z + sigma * noise, (B, C, H, W)."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor: ...


class PairDenoiser(Denoiser, Protocol):
    """A denoiser that also tells apart what guidance has combined."""

    def pair(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The guess, and the one for the negative prompt alone; the same twice where guidance is off."""
        ...


class Noise(Protocol):
    """Standard normal noise of x's shape for the step from `sigma` to `to`: new at each call, or the part of a path
    over the noise levels that lies between them.
    """

    def __call__(self, sigma: float, to: float) -> Tensor: ...


@dataclass(frozen=True)
class Step:
    """The state after a step: `x` at noise level `sigma`, and the guess `denoised` that led there."""

    x: Tensor
    denoised: Tensor
    sigma: float


Run = Callable[..., Iterator[Step]]
"""A generator function (denoise, x, sigmas, noise, **options): one `Step` for each pair of neighbours in `sigmas`."""


@dataclass(frozen=True)
class Scheduler:
    """diffusers' class for a sampler: the values of its config that the sampler supports (`fixed`), the defaults of the
    class where they differ from those of other classes, and our schedule, if the class has only one.
    """

    name: str
    fixed: Mapping[str, object] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    schedule: str | None = None


SDXL_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
"""The defaults of those classes of diffusers that were made for latents."""


@dataclass(frozen=True)
class Sampler:
    """A sampler, callable as its generator function.

    `options` are its keyword arguments with their defaults; one named `noise` says which noise it takes ("tree" or
    "fresh"), and is its caller's. `calls` counts calls of the denoiser in a step. `a1111` is AUTOMATIC1111's name, and
    `automatic` the schedule that it takes there by itself; `names` are ComfyUI's and k-diffusion's where they differ
    from ours. diffusers starts some samplers at noise * sigma in place of noise * sqrt(1 + sigma^2), on the schedules
    that `starts_at_sigma` names. Where `ends_at_zero` is false, the last sigma is that of timestep 0. A sampler
    `with_pair` needs a `PairDenoiser`, one `with_levels` the model's noise levels as its argument `levels`.
    """

    run: Run
    a1111: str | None = None
    diffusers: Scheduler | None = None
    options: Mapping[str, float | str] = field(default_factory=dict)
    starts_at_sigma: tuple[str, ...] = ()
    ends_at_zero: bool = True
    calls: int = 1
    names: tuple[str, ...] = ()
    automatic: str = "linspace"
    with_pair: bool = False
    with_levels: bool = False

    def __call__(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigmas: Sequence[float],
        noise: Noise,
        levels: NoiseLevels | None = None,
        **options: Any,
    ) -> Iterator[Step]:
        """The steps from x at sigmas[0] to sigmas[-1]. Raises `ArgumentError` for an option that it does not have."""
        if unknown := [name for name in options if name not in self.options]:
            known = ", ".join(self.options) or "none"
            raise ArgumentError(f"{unknown[0]} is not an option of this sampler; its options: {known}")
        more = {"levels": levels} if self.with_levels else {}
        return self.run(denoise, x, sigmas, noise, **options, **more)

    def start_scale(self, sigma: float, schedule: str) -> float:
        """The factor of the first noise, for a list that starts at `sigma`."""
        return sigma if schedule in self.starts_at_sigma else math.sqrt(1 + sigma**2)


class SamplerTable(dict[str, Sampler]):
    """Samplers by name. A bare generator function that is put in becomes a record with neutral traits."""

    def __setitem__(self, name: str, sampler: Sampler | Run) -> None:
        super().__setitem__(name, sampler if isinstance(sampler, Sampler) else Sampler(sampler))


def split(sigma: float, to: float, eta: float) -> tuple[float, float]:
    """The step from `sigma` to `to` as one down to a lower level, and the noise that leads up from there: both sigmas.

    The noise has the variance eta^2 to^2 (sigma^2 - to^2) / sigma^2; eta 1 is ancestral sampling (k-diffusion).
    """
    up = eta * to * math.sqrt(max(sigma**2 - to**2, 0.0)) / sigma
    return math.sqrt(max(to**2 - up**2, 0.0)), up


def euler_step(
    x: Tensor, denoised: Tensor, sigma: float, to: float, eta: float, noise: Noise, s_noise: float = 1.0
) -> Tensor:
    """From `sigma` down to `to` along (x - denoised) / sigma, with the share `eta` of the noise drawn again.

    eta 0 is Euler's method, 1 is ancestral sampling; on VP-scaled latents it is DDIM (Song et al. 2020,
    arXiv 2010.02502, equation 12).
    """
    down, up = split(sigma, to, eta)
    x = denoised + (x - denoised) * (down / sigma)
    return x + noise(sigma, to) * (up * s_noise) if eta else x


CHURN = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}
"""The options of `churn` with their defaults."""


def churn(
    x: Tensor,
    sigma: float,
    steps: int,
    noise: Noise,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    draws_always: bool = False,
) -> tuple[Tensor, float]:
    """x with more noise, and its new sigma, before one of `steps` steps (Karras et al. 2022, arXiv 2206.00364,
    algorithm 2). Where it adds nothing, it draws nothing, or noise that is not used if it `draws_always`.
    """
    gamma = min(s_churn / steps, math.sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 0.0
    if not gamma:
        if draws_always:
            noise(sigma, sigma)
        return x, sigma
    raised = sigma * (1 + gamma)
    return x + noise(raised, sigma) * (s_noise * math.sqrt(raised**2 - sigma**2)), raised
