"""Schedules against their formulas, computed here in float64, and against published numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sdxl.errors import ArgumentError
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.sampling.beta import beta_quantiles
from sdxl.sampling.schedule import (
    LAST_ALPHA,
    make_schedule,
    noise_table,
    schedule_of_sigmas,
    schedule_of_timesteps,
)
from sdxl.sampling.schedule_formulas import float32_table
from sdxl.sampling.schedules import SCHEDULES

CONFIG = ScheduleConfig()
COUNTS = (1, 2, 5, 10, 20, 30)
LEVELS = np.array(
    [math.sqrt(1 / a - 1) for a in np.cumprod([1 - b * b for b in np.linspace(0.00085**0.5, 0.012**0.5, 1000)])]
)
LOW, HIGH = float(LEVELS[0]), float(LEVELS[-1])
AYS: tuple[float, ...] = (14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141)
AYS += (0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582)


def at(t: float) -> float:
    """The noise level at a timestep, between logarithms."""
    low = min(int(t), 998)
    return math.exp(math.log(LEVELS[low]) * (low + 1 - t) + math.log(LEVELS[low + 1]) * (t - low))


def whole(timesteps: list[float]) -> list[float]:
    return [float(LEVELS[int(t)]) for t in timesteps]


def ramp(n: int) -> list[float]:
    return [i / max(n - 1, 1) for i in range(n)]


def quantile(share: float) -> float:
    """Of Beta(0.6, 0.6), by the integral of its density in sin^2, which has no poles at the ends worth mentioning."""
    angles = np.linspace(0, math.pi / 2, 200_001)
    middles = (angles[1:] + angles[:-1]) / 2
    density = (np.sin(middles) * np.cos(middles)) ** 0.2
    total = np.concatenate([[0], np.cumsum(density)])
    return float(np.sin(np.interp(share, total / total[-1], angles)) ** 2)


def ays(n: int) -> list[float]:
    places = [10 * i / n for i in range(n)]
    logs = [math.log(each) for each in AYS]
    return [math.exp(logs[int(p)] + (p - int(p)) * (logs[min(int(p) + 1, 10)] - logs[int(p)])) for p in places]


FORMULAS: dict[str, Callable[[int], list[float]]] = {
    "leading": lambda n: whole([(n - 1 - i) * (1000 // n) + 1 for i in range(n)]),
    "trailing": lambda n: whole([round(1000 - i * 1000 / n) - 1 for i in range(n)]),
    "sgm": lambda n: whole([int(999 - i * 999 / n) for i in range(n)]),
    "sgm_uniform": lambda n: [at(999 - 999 * i / n) for i in range(n)],
    "simple": lambda n: whole([999 - int(i * 1000 / n) for i in range(n)]),
    "karras": lambda n: [(HIGH ** (1 / 7) + u * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7 for u in ramp(n)],
    "exponential": lambda n: [HIGH ** (1 - u) * LOW**u for u in ramp(n)],
    "beta": lambda n: whole([round(quantile(1 - i / n) * 999) for i in range(n)]),
    "align_your_steps": ays,
    "kl_optimal": lambda n: [math.tan((1 - u) * math.atan(HIGH) + u * math.atan(LOW)) for u in ramp(n)],
    "lcm": lambda n: whole([(50 - i * 50 // n) * 20 - 1 for i in range(n)]),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("steps", COUNTS)
def test_schedules_equal_their_formulas(name: str, steps: int) -> None:
    schedule = make_schedule(CONFIG, name, steps, "euler")
    assert schedule.sigmas == pytest.approx((*FORMULAS[name](steps), 0), rel=1e-9, abs=1e-12)
    expected = [float(np.interp(math.log(s), np.log(LEVELS), np.arange(1000))) for s in schedule.sigmas[:-1]]
    tolerance = 0.5 if name == "karras" else 1e-6  # whole timesteps
    assert schedule.timesteps == pytest.approx(expected, abs=tolerance)


def test_linspace_is_comfyuis_normal_nearly() -> None:
    """ComfyUI takes fractions between the logarithms of the levels, diffusers between the levels."""
    for steps in COUNTS[1:]:
        expected = [at(999 * (1 - u)) for u in ramp(steps)]
        assert make_schedule(CONFIG, "linspace", steps, "euler").sigmas[:-1] == pytest.approx(expected, rel=4e-5)


# as ComfyUI prints them for 5 steps
FIVE = {
    "linspace": (14.6146, 4.0861, 1.6156, 0.6951, 0.0292),
    "simple": (14.6146, 5.0878, 2.2765, 1.1606, 0.5693),
    "sgm_uniform": (14.6146, 5.0924, 2.2797, 1.1629, 0.5712),
    "karras": (14.6146, 4.7965, 1.2741, 0.2479, 0.0292),
    "exponential": (14.6146, 3.0890, 0.6529, 0.1380, 0.0292),
    "beta": (14.6146, 7.3718, 2.6152, 1.0273, 0.3955),
    "kl_optimal": (14.6146, 2.1427, 0.9616, 0.4198, 0.0292),
    "align_your_steps": (14.6146, 3.7682, 1.3405, 0.5551, 0.2332),
}


@pytest.mark.parametrize("name", FIVE)
def test_five_steps_as_comfyui_has_them(name: str) -> None:
    assert make_schedule(CONFIG, name, 5, "euler").sigmas == pytest.approx((*FIVE[name], 0), abs=1e-4)


def test_align_your_steps_is_the_published_list() -> None:
    assert make_schedule(CONFIG, "align_your_steps", 10, "euler").sigmas == pytest.approx((*AYS[:-1], 0), rel=1e-12)


def test_lcm_timesteps_are_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    for steps in (1, 2, 3, 4, 7, 8, 25, 50):
        reference = diffusers.LCMScheduler()
        reference.set_timesteps(steps)
        assert make_schedule(CONFIG, "lcm", steps, "lcm").timesteps == tuple(map(float, reference.timesteps))
    with pytest.raises(ArgumentError, match="steps is 51; with the lcm schedule it must be 1 to 50"):
        make_schedule(CONFIG, "lcm", 51, "lcm")


def test_karras_rho_and_the_parameters_of_beta() -> None:
    even = make_schedule(CONFIG, "karras", 5, "euler", {"rho": 1})
    assert even.sigmas[:-1] == pytest.approx(np.linspace(HIGH, LOW, 5))
    uniform = make_schedule(CONFIG, "beta", 5, "euler", {"alpha": 1, "beta": 1})
    assert uniform.timesteps == pytest.approx([999, 799, 599, 400, 200])


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (2.0, 0.7), (20.0, 40.0)])
def test_quantiles_of_beta(alpha: float, beta: float) -> None:
    """Against a sum of the density: half of it lies below the median, and so on."""
    shares = np.array([0.1, 0.5, 0.93])
    angles = (np.arange(500_000) + 0.5) * (math.pi / 2 / 500_000)
    x = np.sin(angles) ** 2
    density = np.exp((2 * alpha - 1) * np.log(np.sin(angles)) + (2 * beta - 1) * np.log(np.cos(angles)))
    found = [float(density[x < each].sum() / density.sum()) for each in beta_quantiles(shares, alpha, beta)]
    assert found == pytest.approx(shares, abs=1e-5)
    assert beta_quantiles(np.array([0.0, 1.0]), alpha, beta).tolist() == [0, 1]


def test_quantiles_of_beta_are_scipys() -> None:
    special = pytest.importorskip("scipy.special")
    shares = np.linspace(0, 1, 101)
    for alpha, beta in ((0.6, 0.6), (0.5, 2.0), (30.0, 7.0)):
        assert np.abs(beta_quantiles(shares, alpha, beta) - special.betaincinv(alpha, beta, shares)).max() < 1e-12


# ---- lists of the caller's own ---------------------------------------------------------------------------------------


def test_a_list_of_sigmas() -> None:
    given = make_schedule(CONFIG, "sgm_uniform", 6, "euler")
    own = schedule_of_sigmas(CONFIG, given.sigmas, "euler")
    assert own.sigmas == given.sigmas
    assert own.timesteps == pytest.approx(given.timesteps, abs=1e-9)
    assert own.start_scale == math.sqrt(1 + given.sigmas[0] ** 2)


def test_a_list_of_timesteps() -> None:
    given = make_schedule(CONFIG, "trailing", 4, "ddim")
    own = schedule_of_timesteps(CONFIG, given.timesteps, "ddim")
    assert (own.sigmas, own.timesteps, own.start_scale) == (given.sigmas, given.timesteps, given.start_scale)
    with pytest.raises(ArgumentError, match="timesteps begin at 1000; the model has 0 to 999"):
        schedule_of_timesteps(CONFIG, (1000, 5), "euler")
    with pytest.raises(ArgumentError, match="timesteps end at 0, where ddim ends"):
        schedule_of_timesteps(CONFIG, (500, 0), "ddim")
    assert schedule_of_timesteps(CONFIG, (500, 0), "euler").sigmas[-1] == 0


def test_every_schedule_is_tested() -> None:
    assert set(SCHEDULES) == {*FORMULAS, "linspace"}


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("betas", ["scaled_linear", "linear"])
def test_the_table_of_diffusers_to_the_last_bit(zero_snr: bool, betas: str) -> None:
    """Its Brownian noise depends on that; it computes in float32."""
    diffusers = pytest.importorskip("diffusers")
    config: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": betas}
    reference = diffusers.EulerDiscreteScheduler(**config, rescale_betas_zero_snr=zero_snr)
    own = float32_table(ScheduleConfig(**config, zero_terminal_snr=zero_snr), LAST_ALPHA).sigmas
    assert own[::-1].tolist() == reference.sigmas[:-1].double().tolist()
    exact = noise_table(ScheduleConfig(**config, zero_terminal_snr=zero_snr)).sigmas
    assert 1e-6 < abs(own / exact - 1).max() < 1e-4
