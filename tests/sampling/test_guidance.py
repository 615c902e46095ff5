"""Guidance: the interval of noise levels within which it acts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sdxl
from sdxl.errors import ArgumentError
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.sampling.denoiser import make_denoiser
from sdxl.sampling.guidance import Guidance
from sdxl.sampling.schedule import Schedule, noise_table


def test_guidance_acts_within_its_interval_only() -> None:
    seen: list[tuple[tuple[str, ...], int]] = []

    def network(branches: tuple[str, ...], sigma: float) -> Any:
        def run(x: torch.Tensor, t: float) -> torch.Tensor:
            seen.append((branches, len(x)))
            return torch.zeros_like(x)

        return run

    schedule = Schedule((8.0, 4.0, 1.0, 0.0), (900.0, 500.0, 100.0), 8.0, noise_table(ScheduleConfig()))
    guidance = Guidance(5.0, interval=(2.0, 6.0))
    denoise = make_denoiser(network, schedule, "epsilon", guidance, torch.float32)
    for sigma in schedule.sigmas[:-1]:
        denoise(torch.zeros(2, 4, 8, 8), sigma)
    alone = ("positive",), 2
    assert seen == [alone, (("negative", "positive"), 4), alone]


def test_an_interval_of_everything_changes_nothing(tiny_pipe: sdxl.Pipeline) -> None:
    settings: Any = {"steps": 3, "seed": 1, "output": "latent", "progress": False}
    plain, whole, none, unguided = (
        tiny_pipe("a cat", **settings, **more).images
        for more in (
            {},
            {"guidance_interval": (0, 100)},
            {"guidance_interval": (90, 100)},
            {"guidance_scale": 1.0},
        )
    )
    assert torch.equal(plain, whole)  # type: ignore[arg-type]
    assert torch.equal(none, unguided)  # type: ignore[arg-type]
    assert not torch.equal(plain, none)  # type: ignore[arg-type]


@pytest.mark.parametrize("interval", [(5, 1), (1,), (-1, 2), "ab", (0, float("nan"))])
def test_a_wrong_interval_is_refused(interval: Any) -> None:
    with pytest.raises(ArgumentError, match="guidance_interval is"):
        sdxl.Request("a cat", guidance_interval=interval)
