"""Schedules against published numbers and diffusers; samplers against a denoiser whose solution is known."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from sdxl.errors import ArgumentError
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.sampling.brownian import BrownianPath
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


# those whose class in diffusers starts at noise * sigma there
AT_SIGMA = ("euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "lms", "dpmpp_sde")


def test_noise_table() -> None:
    table = noise_table(CONFIG).sigmas
    assert table[0] == pytest.approx(0.029167, abs=1e-6)
    assert table[-1] == pytest.approx(14.614641, abs=1e-5)


def test_zero_terminal_snr() -> None:
    assert noise_table(ScheduleConfig(zero_terminal_snr=True)).sigmas[-1] == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize("name", PUBLISHED)
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
        few = [1, 2, 3, 9, 31, 149]
        for steps in [*(few if name == "beta" else range(1, 130)), 150, 333, 998, 999, 1000]:
            if steps > SCHEDULES[name].most(noise_table(CONFIG)):
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
            bare = sampler in AT_SIGMA and name in ("linspace", "trailing")
            assert schedule.start_scale == (first if bare else math.sqrt(1 + first**2))
            low = noise_table(CONFIG).sigmas[0] if sampler in ("ddim", "tcd") else 0
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


@dataclass(frozen=True)
class Alone:
    """A made-up denoiser without guidance: the guess for the negative prompt is the same."""

    denoise: Any

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.denoise(x, sigma)

    def pair(self, x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        return self(x, sigma), self(x, sigma)


def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return x * (DEVIATION**2 / (DEVIATION**2 + sigma**2))


def solution_error(sampler: str, steps: int) -> float:
    sigmas = np.exp(np.linspace(math.log(10.0), math.log(0.1), steps + 1)).tolist()
    x = torch.tensor([[[[math.sqrt(DEVIATION**2 + sigmas[0] ** 2)]]]], dtype=torch.float64)
    options = {"eta": 0.0} if "eta" in SAMPLERS[sampler].options else {}
    last = list(SAMPLERS[sampler](Alone(denoise), x, sigmas, lambda *_: torch.zeros_like(x), **options))[-1]
    return abs(float(last.x) - math.sqrt(DEVIATION**2 + sigmas[-1] ** 2))


# multistep methods settle at 2, since their first step is Euler's
ORDERS = {
    **dict.fromkeys(("euler", "ddim", "euler_ancestral", "euler_cfg_pp", "euler_ancestral_cfg_pp"), 1),
    **dict.fromkeys(("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2m", "dpmpp_2s_ancestral", "dpmpp_sde"), 2),
    **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "lms"), 2),
    **dict.fromkeys(("uni_pc", "uni_pc_bh2"), 3),  # of order 2, whose corrector adds one, in the first step too
    **dict.fromkeys(("res_multistep", "res_multistep_ancestral"), 2),
}


def test_every_sampler_has_an_order() -> None:
    """The samplers of consistency models follow no equation."""
    assert {*ORDERS} == {*SAMPLERS} - {"lcm", "tcd"}


@pytest.mark.parametrize(("sampler", "order"), ORDERS.items())
def test_order_of_convergence(sampler: str, order: int) -> None:
    errors = [solution_error(sampler, steps) for steps in (100, 200, 400)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    starts = sampler in ("lms", "dpmpp_3m_sde")  # those of higher order come down to 2 slowly
    assert all(-0.1 < measured - order < (1.0 if starts else 0.1) for measured in orders), orders


def run(sampler: Any, sigmas: list[float], **arguments: Any) -> list[Step]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64) * sigmas[0]

    def wavy(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.sin(x) / (1 + sigma)

    draw = lambda *_: torch.randn(x.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return list(sampler(Alone(wavy), x, sigmas, draw, levels=noise_table(CONFIG), **arguments))


SIGMAS = [14.0, 7.0, 3.0, 1.0, 0.3, 0.0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_defaults_of_a_record_are_those_of_its_function(name: str) -> None:
    """A call, a PNG and the page take the record's. Churn and the kind of noise act outside of the function."""
    parameters = inspect.signature(SAMPLERS[name].run).parameters
    options = {option: value for option, value in SAMPLERS[name].options.items() if option != "noise"}
    own = {option: value for option, value in options.items() if option in parameters}
    assert own == {option: parameters[option].default for option in own}


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


# ---- samplers that are the same


def same(one: str, two: str, sigmas: list[float] = SIGMAS, **options: dict[str, Any]) -> float:
    """The largest difference of the results."""
    x, y = (run(SAMPLERS[name], sigmas, **options.get(name, {}))[-1].x for name in (one, two))
    return float((x - y).abs().max())


@pytest.mark.parametrize("sigmas", [SIGMAS, SIGMAS[:-1], SIGMAS[-2:]], ids=["whole", "above zero", "one step"])
def test_samplers_that_are_the_same(sigmas: list[float]) -> None:
    still: dict[str, Any] = {"eta": 0.0}
    assert same("dpmpp_2m_sde", "dpmpp_2m", sigmas, dpmpp_2m_sde=still) < 1e-12
    assert same("dpmpp_sde", "dpmpp_2s_ancestral", sigmas, dpmpp_sde=still, dpmpp_2s_ancestral=still) < 1e-12
    assert same("euler_ancestral", "euler", sigmas, euler_ancestral=still) < 1e-12
    assert same("euler_cfg_pp", "euler", sigmas) < 1e-12
    assert same("euler_ancestral_cfg_pp", "euler_ancestral", sigmas) < 1e-12
    assert same("dpm_2_ancestral", "dpm_2", sigmas, dpm_2_ancestral=still) < 1e-12
    assert same("res_multistep", "dpmpp_2m_sde_heun", sigmas, dpmpp_2m_sde_heun=still) < 1e-12
    assert same("res_multistep", "res_multistep_ancestral", sigmas, res_multistep_ancestral=still) < 1e-12
    assert same("dpmpp_2m_sde", "dpmpp_2m_sde_heun", SIGMAS) > 1e-3


def test_tcd_of_all_noise_is_lcm_but_for_its_end() -> None:
    """Where all noise is drawn again the step goes down to timestep 0, whose sigma is 0.029 and not 0."""
    sigmas = [float(level) for level in noise_table(CONFIG).sigmas[[999, 749, 499, 249, 0]]]
    last = run(SAMPLERS["tcd"], sigmas, eta=1.0)[-1].x
    assert 1e-5 < (last - run(SAMPLERS["lcm"], [*sigmas[:-1], 0.0])[-1].x).abs().max() < 0.15
    still = run(SAMPLERS["tcd"], sigmas, eta=0.0)[-1].x
    assert torch.equal(still, run(SAMPLERS["ddim"], sigmas)[-1].x)


def test_tcd_without_eta_is_ddim_between_timesteps_too() -> None:
    """A schedule such as karras has sigmas between those of two timesteps, where nothing may be drawn either."""
    assert torch.equal(run(SAMPLERS["tcd"], SIGMAS, eta=0.0)[-1].x, run(SAMPLERS["ddim"], SIGMAS)[-1].x)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_to_zero_is_the_guess(sampler: str) -> None:
    step = run(SAMPLERS[sampler], [2.0, 0.0])[-1]
    assert (step.x - step.denoised).abs().max() < 1e-12


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_calls_of_the_denoiser(sampler: str) -> None:
    """One for each step; the samplers of two calls save one at the step to sigma 0."""
    seen: list[float] = []

    def counted(x: torch.Tensor, sigma: float) -> torch.Tensor:
        seen.append(sigma)
        return denoise(x, sigma)

    class Counted(Alone):
        def pair(self, x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
            return (self(x, sigma),) * 2  # type: ignore[return-value]

    record, x = SAMPLERS[sampler], torch.ones(1, 1, 2, 2, dtype=torch.float64)
    list(record(Counted(counted), x, SIGMAS, lambda *_: torch.ones_like(x), levels=noise_table(CONFIG)))
    assert len(seen) == record.calls * (len(SIGMAS) - 2) + 1


# ---- noise

DRAWING = [name for name, record in SAMPLERS.items() if record.options.get("eta") or name == "lcm"]


@pytest.mark.parametrize("sampler", [name for name in DRAWING if name not in ("lcm", "tcd", "euler_cfg_pp")])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_marginals_of_a_gaussian(sampler: str, eta: float) -> None:
    """Samples of N(0.3, S^2 + sigma^2) stay that while sigma falls: mean and deviation of 10,000."""
    generator, mean, count = torch.Generator().manual_seed(1), 0.3, 10_000
    sigmas = [*np.exp(np.linspace(math.log(10.0), math.log(0.05), 150)).tolist(), 0.0]

    def exact(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return mean + (x - mean) * (DEVIATION**2 / (DEVIATION**2 + sigma**2))

    def draw(*_: float) -> torch.Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    x = mean + draw() * math.sqrt(DEVIATION**2 + sigmas[0] ** 2)
    for step in SAMPLERS[sampler](Alone(exact), x, sigmas, draw, eta=eta):
        if step.sigma in (sigmas[60], sigmas[-2]):
            wide = math.sqrt(DEVIATION**2 + step.sigma**2)
            assert float(step.x.mean()) == pytest.approx(mean, abs=4 * wide / count**0.5)
            tolerance = (
                0.07 if sampler.startswith("euler") else 0.04
            )  # Euler's own error, and 4 deviations of the estimate
            assert float(step.x.std()) == pytest.approx(wide, rel=tolerance)


def test_every_drawing_sampler_draws() -> None:
    """s_noise 0 takes all noise away that eta adds."""
    for sampler in DRAWING:
        if "s_noise" in SAMPLERS[sampler].options:
            plain = run(SAMPLERS[sampler], SIGMAS)[-1].x
            assert not torch.equal(run(SAMPLERS[sampler], SIGMAS, s_noise=0.0)[-1].x, plain), sampler


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2"])
def test_churn_stays_within_its_limits(sampler: str) -> None:
    plain = run(SAMPLERS[sampler], SIGMAS)[-1].x
    churned = run(SAMPLERS[sampler], SIGMAS, s_churn=3.0)[-1].x
    assert not torch.equal(plain, churned)
    assert torch.equal(run(SAMPLERS[sampler], SIGMAS, s_churn=3.0, s_tmin=20.0)[-1].x, plain)
    assert torch.equal(run(SAMPLERS[sampler], SIGMAS, s_churn=3.0, s_tmax=0.1)[-1].x, plain)
    part = run(SAMPLERS[sampler], SIGMAS, s_churn=3.0, s_tmin=2.0, s_tmax=8.0)
    assert torch.equal(part[0].x, run(SAMPLERS[sampler], SIGMAS)[0].x)
    assert not torch.equal(part[1].x, run(SAMPLERS[sampler], SIGMAS)[1].x)


# ---- the path


def karras(steps: int) -> list[float]:
    return [*make_schedule(CONFIG, "karras", steps, "euler").sigmas]


def path(seed: int = 5, low: float = karras(5)[-2], high: float = karras(5)[0]) -> BrownianPath:
    return BrownianPath(seed, low, high, (4, 6, 6))


def test_noise_over_an_interval_does_not_depend_on_the_steps_between() -> None:
    begin, end = karras(10)[2], karras(10)[7]
    whole = path()(begin, end) * math.sqrt(begin - end)
    for steps in (10, 20, 40):
        levels = [s for s in karras(steps) if end < s < begin]
        own = path()
        parts = [own(s, t) * math.sqrt(s - t) for s, t in pairwise([begin, *levels, end])]
        assert (sum(parts) - whole).abs().max() < 2e-6


def test_a_path_is_standard_normal_and_independent_over_disjoint_intervals() -> None:
    own = BrownianPath(1, 0.03, 14.6, (100, 100))
    noises = [own(s, t) for s, t in pairwise([14.6, 9.0, 3.0, 0.5, 0.03])]
    for i, one in enumerate(noises):
        assert abs(float(one.mean())) < 0.04
        assert float(one.std()) == pytest.approx(1, abs=0.03)
        assert one.dtype == torch.float32
        for other in noises[:i]:
            assert abs(float((one * other).mean())) < 0.05
    assert torch.equal(own(9.0, 3.0), noises[1])
    assert not torch.equal(path(6)(9.0, 3.0), path(5)(9.0, 3.0))


def test_a_path_has_its_limits() -> None:
    own = path(low=0.5, high=9.0)
    with pytest.raises(ArgumentError, match=r"noise for sigma 12\.0 is asked for; expected 0\.5 to 9\.0"):
        own(12.0, 3.0)
    assert own(3.0, 3.0 - 1e-9).isfinite().all()


@pytest.mark.parametrize(("schedule", "steps"), [("karras", 10), ("karras", 25), ("exponential", 30), ("trailing", 7)])
@pytest.mark.filterwarnings("ignore:Should have")
def test_a_path_is_torchsdes(schedule: str, steps: int, error: Any) -> None:
    torchsde = pytest.importorskip("torchsde")
    sigmas = torch.tensor(make_schedule(CONFIG, schedule, steps, "euler").sigmas)[:-1]
    for seed in (0, 2**63 - 1):
        tree = torchsde.BrownianTree(sigmas[-1], torch.zeros(4, 6, 6), sigmas[0], entropy=seed)
        own = path(seed, float(sigmas[-1]), float(sigmas[0]))
        for s, t in pairwise(sigmas):
            assert error(own(float(s), float(t)), -tree(t, s) / (s - t).sqrt()) < 2e-6
