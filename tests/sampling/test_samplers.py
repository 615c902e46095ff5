"""Schedules against published numbers and diffusers; samplers against a denoiser whose solution is known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from sdxl.errors import ArgumentError
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.sampling.sampler import Step
from sdxl.sampling.samplers import SAMPLERS
from sdxl.sampling.schedule import make_schedule, noise_table
from sdxl.sampling.schedules import SCHEDULES

CONFIG = ScheduleConfig()

# timesteps at the start and end, first three and last two sigmas, for 20 steps
PUBLISHED = {
    "trailing": ((999, 949, 899, 99, 49), (14.6146, 10.9042, 8.3028, 0.3417, 0.2230)),
    "leading": ((951, 901, 851, 51, 1), (11.0283, 8.3907, 6.5064, 0.2281, 0.0413)),
    "linspace": ((999, 946.42, 893.84, 52.58, 0), (14.6146, 10.7468, 8.0815, 0.2322, 0.0292)),
    "sgm": ((999, 949, 899, 99, 49), (14.6146, 10.9042, 8.3028, 0.3417, 0.2230)),
    "karras": ((999, 962, 921, 2, 0), (14.6146, 11.7254, 9.3402, 0.0485, 0.0292)),
    "exponential": ((999, 942.9, 881.9, 0.9, 0), (14.6146, 10.5363, 7.5961, 0.0405, 0.0292)),
}


def test_noise_table() -> None:
    table = noise_table(CONFIG).sigmas
    assert table[0] == pytest.approx(0.029167, abs=1e-6)
    assert table[-1] == pytest.approx(14.614641, abs=1e-5)


def test_zero_terminal_snr() -> None:
    assert noise_table(ScheduleConfig(zero_terminal_snr=True)).sigmas[-1] == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_published_schedules(name: str) -> None:
    schedule = make_schedule(CONFIG, name, 20, "euler")
    timesteps, sigmas = PUBLISHED[name]
    assert len(schedule.sigmas) == 21
    assert schedule.sigmas[-1] == 0
    chosen = [0, 1, 2, 18, 19]
    assert [schedule.timesteps[i] for i in chosen] == pytest.approx(timesteps, abs=0.05)
    assert [schedule.sigmas[i] for i in chosen] == pytest.approx(sigmas, abs=6e-5)


def test_every_count_of_steps() -> None:
    for name in SCHEDULES:
        for steps in [*range(1, 130), 333, 998, 999, 1000]:
            if name == "leading" and steps == 1000:
                continue
            schedule = make_schedule(CONFIG, name, steps, "euler")
            assert len(schedule.timesteps) == steps
            assert all(a > b for a, b in pairwise(schedule.sigmas)), (name, steps)
            assert 0 <= min(schedule.timesteps) <= max(schedule.timesteps) <= 999


@pytest.mark.parametrize(("name", "steps"), [("leading", 1000), ("trailing", 1001), ("karras", 0)])
def test_steps_out_of_range(name: str, steps: int) -> None:
    with pytest.raises(ArgumentError, match=f"steps is {steps}; with the {name} schedule"):
        make_schedule(CONFIG, name, steps, "euler")


def test_trailing_rounds_half_to_even() -> None:
    assert make_schedule(CONFIG, "trailing", 16, "euler").timesteps[1] == 937  # 1000 - 62.5 = 937.5 -> 938 - 1
    assert make_schedule(CONFIG, "trailing", 16, "euler").timesteps[3] == 811  # 812.5 -> 812 - 1


def test_a_single_step() -> None:
    """diffusers starts a single linspace step at timestep 0, where there is nothing to denoise; we start at 999."""
    assert make_schedule(CONFIG, "linspace", 1, "euler").timesteps == (999,)
    assert make_schedule(CONFIG, "leading", 1, "euler").timesteps == (1,)


def test_start_and_end_scales() -> None:
    for sampler in SAMPLERS:
        for name in SCHEDULES:
            schedule = make_schedule(CONFIG, name, 8, sampler)
            first = schedule.sigmas[0]
            bare = sampler in ("euler", "euler_ancestral", "heun") and name in ("linspace", "trailing")
            assert schedule.start_scale == (first if bare else math.sqrt(1 + first**2))
            low = noise_table(CONFIG).sigmas[0] if sampler == "ddim" else 0
            assert schedule.end_scale == 1 / math.sqrt(1 + low**2)


@pytest.mark.parametrize("name", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [2, 8, 20, 50])
def test_sigmas_equal_diffusers(name: str, steps: int, error: Any) -> None:
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing=name, steps_offset=1
    )
    reference.set_timesteps(steps)
    schedule = make_schedule(CONFIG, name, steps, "euler")
    assert error(torch.tensor(schedule.sigmas), reference.sigmas) < 1e-6  # diffusers' table is float32
    assert error(torch.tensor(schedule.timesteps), reference.timesteps) < 1e-6


# ---- a denoiser with a known solution: data that is normal with deviation S has D(x) = x S^2 / (S^2 + sigma^2), and x
# moves along sqrt(S^2 + sigma^2)

DEVIATION = 0.7


def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return x * (DEVIATION**2 / (DEVIATION**2 + sigma**2))


def solution_error(sampler: str, steps: int) -> float:
    sigmas = np.exp(np.linspace(math.log(10.0), math.log(0.1), steps + 1)).tolist()
    x = torch.tensor([[[[math.sqrt(DEVIATION**2 + sigmas[0] ** 2)]]]], dtype=torch.float64)
    last = list(SAMPLERS[sampler](denoise, x, sigmas, lambda *_: torch.zeros_like(x)))[-1]
    return abs(float(last.x) - math.sqrt(DEVIATION**2 + sigmas[-1] ** 2))


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence(sampler: str, order: int) -> None:
    errors = [solution_error(sampler, steps) for steps in (100, 200, 400)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(measured - order) < 0.1 for measured in orders), orders


def run(sampler: Any, sigmas: list[float], **arguments: Any) -> list[Step]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64) * sigmas[0]

    def wavy(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.sin(x) / (1 + sigma)

    draw = lambda *_: torch.randn(x.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return list(sampler(wavy, x, sigmas, draw, **arguments))


SIGMAS = [14.0, 7.0, 3.0, 1.0, 0.3, 0.0]


def test_ddim_is_euler() -> None:
    assert torch.equal(run(SAMPLERS["ddim"], SIGMAS)[-1].x, run(SAMPLERS["euler"], SIGMAS)[-1].x)
    ancestral = run(SAMPLERS["euler_ancestral"], SIGMAS)[-1].x
    assert torch.allclose(run(SAMPLERS["ddim"], SIGMAS, eta=1.0)[-1].x, ancestral, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_slices_compose(sampler: str) -> None:
    whole = run(SAMPLERS[sampler], SIGMAS)
    head = run(SAMPLERS[sampler], SIGMAS[:3])
    assert torch.equal(head[-1].x, whole[1].x)
    assert whole[1].sigma == 3.0


def test_ancestral_noise_has_the_right_variance() -> None:
    """Pure noise stays pure noise: with D = 0 the variance follows sigma^2 for every eta."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, generator=generator, dtype=torch.float64) * 10

    def draw(sigma: float, to: float) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    for eta in (0.0, 0.4, 1.0):
        steps = SAMPLERS["ddim"](lambda x, sigma: torch.zeros_like(x), x, [10.0, 4.0, 2.0], draw, eta=eta)
        last = list(steps)[-1]
        assert float(last.x.std()) == pytest.approx(2.0, rel=0.01)
