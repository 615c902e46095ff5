"""`compat="sgm"`: Stability's formulas restated in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import comfyui
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import sdxl
from sdxl.sampling.guidance import NEGATIVE

TOLERANCE = 5e-5
PROMPT = "A mecha robot in a favela"
LATENT: dict[str, Any] = {"output": "latent", "progress": False}
SIZE = {"width": 64, "height": 64}
IDS = (64, 64, 0, 0, 64, 64)


@pytest.fixture(scope="module")
def model(reference_pipe: Any) -> comfyui.Model:
    return comfyui.Model(reference_pipe)


def levels() -> np.ndarray:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    return np.asarray(np.sqrt((1 - alphas) / alphas))


def discretized(steps: int) -> list[float]:
    """LegacyDDPMDiscretization: the fractions of evenly spaced timesteps from 999 on are cut off; 0 at the end."""
    timesteps = np.linspace(999, 0, steps, endpoint=False).astype(int)
    return [*levels()[timesteps], 0.0]


def denoiser(model: comfyui.Model, cfg: float) -> comfyui.Denoise:
    """DiscreteDenoiser: the nearest level takes the place of sigma. The negative prompt is zeros."""
    text = model.encode([(PROMPT, 1.0)])
    plain = model.denoiser(text, (torch.zeros_like(text[0]), torch.zeros_like(text[1])), cfg, IDS)
    table = levels()
    return lambda x, sigma: plain(x, float(table[np.abs(table - sigma).argmin()]))


@pytest.mark.parametrize("steps", [5, 7, 28])
def test_the_discretization(steps: int, tiny_pipe: sdxl.Pipeline) -> None:
    plan = tiny_pipe.plan(sdxl.Request(PROMPT, compat="sgm", steps=steps, seed=1))
    assert np.allclose(plan.sigmas, discretized(steps), rtol=1e-12)
    assert list(plan.schedule.timesteps) == list(np.linspace(999, 0, steps, endpoint=False).astype(int))


@pytest.mark.parametrize("cfg", [0.5, 5.0])
@pytest.mark.parametrize("schedule", [None, "karras"])
def test_text_to_image(
    schedule: str | None, cfg: float, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any
) -> None:
    """One draw for the batch, times sqrt(1 + sigma^2); the noise level is the nearest of the table."""
    table = levels()
    low, high = table[0] ** (1 / 7), table[-1] ** (1 / 7)
    sigmas = discretized(6) if schedule is None else [*(high + np.linspace(0, 1, 6) * (low - high)) ** 7, 0.0]
    x = comfyui.first_noise(5, (2, 4, 8, 8)) * math.sqrt(1 + sigmas[0] ** 2)
    expected = comfyui.euler(denoiser(model, cfg), x, sigmas, lambda s, t: x)
    own = {"steps": 6, "seed": 5, "num_images": 2, "guidance_scale": cfg, "schedule": schedule, "compat": "sgm"}
    assert error(tiny_pipe(PROMPT, negative_prompt="", **own, **SIZE, **LATENT).images, expected) < TOLERANCE


def lms(denoise: comfyui.Denoise, x: torch.Tensor, sigmas: list[float]) -> torch.Tensor:
    """LinearMultistepSampler of order 4: Lagrange's polynomial through the last slopes, to sigma 0 too."""
    slopes: list[torch.Tensor] = []
    for i, to in enumerate(sigmas[1:]):
        slopes = [(x - denoise(x, sigmas[i])) / sigmas[i], *slopes][:4]
        nodes = [sigmas[i - k] for k in range(len(slopes))]
        for k, slope in enumerate(slopes):
            others = [node for n, node in enumerate(nodes) if n != k]
            whole = np.poly1d(others, r=True).integ()
            share = (whole(to) - whole(nodes[0])) / math.prod(nodes[k] - node for node in others)
            x = x + slope * share
    return x


def test_linear_multistep(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    sigmas = discretized(6)
    x = comfyui.first_noise(5, (1, 4, 8, 8)) * math.sqrt(1 + sigmas[0] ** 2)
    expected = lms(denoiser(model, 5.0), x, sigmas)
    own = {"steps": 6, "seed": 5, "sampler": "lms", "compat": "sgm", "negative_prompt": ""}
    assert error(tiny_pipe(PROMPT, **own, **SIZE, **LATENT).images, expected) < TOLERANCE


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.75])
def test_image_to_image(strength: float, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """The last int(strength (n + 1)) sigmas; a sample of the posterior, then the noise, from one generator."""
    image = tiny.picture(1, 64, 64)
    sigmas = discretized(8)[-int(strength * 9) :]
    generator = torch.Generator().manual_seed(5)
    first, noise = (torch.randn(1, 4, 8, 8, generator=generator).double() for _ in range(2))
    with torch.no_grad():
        posterior = model.vae.encode(comfyui.pixels_of(image) * 2 - 1).latent_dist
    z = 0.13025 * (posterior.mean + posterior.std * first)
    expected = comfyui.euler(denoiser(model, 5.0), z + noise * sigmas[0], sigmas, lambda s, t: noise)
    own = {"steps": 8, "seed": 5, "strength": strength, "compat": "sgm"}
    assert error(tiny_pipe(PROMPT, image=image, **own, **LATENT).images, expected) < TOLERANCE


def test_sizes_of_images(tiny_pipe: sdxl.Pipeline) -> None:
    """Floored to multiples of 64, with PIL's bicubic filter; transparent parts as their colour says."""
    image = tiny.picture(2, 150, 90)
    image.putalpha(40)
    plan = tiny_pipe.plan(sdxl.Request(PROMPT, image=image, compat="sgm", seed=1, steps=4))
    expected = np.asarray(image.convert("RGB").resize((128, 64), Image.Resampling.BICUBIC))
    assert plan.size == (64, 128)
    assert np.array_equal(np.asarray(plan.canvases[0].image), expected)
    assert plan.request.strength == 0.75


@pytest.mark.parametrize("steps", [15, 20, 50])
@pytest.mark.parametrize("refine_at", [0.6, 0.8, 0.85])
def test_the_hand_over(steps: int, refine_at: float, tiny_folder: Path, refiner_folder: Path) -> None:
    """The refiner has the last int(strength (n + 1)) sigmas, the base all down to the first of them."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    plan = pipe.plan(sdxl.Request(PROMPT, compat="sgm", steps=steps, refine_at=refine_at, seed=1))
    kept = int((1 - refine_at) * (steps + 1))
    parts = dict(plan.expert_sigmas())
    assert np.allclose(parts[1], discretized(steps)[-kept:], rtol=1e-12)
    assert np.allclose(parts[0], discretized(steps)[: steps + 2 - kept], rtol=1e-12)


@pytest.mark.filterwarnings("ignore::sdxl.errors.SDXLWarning")  # of what is cut off
def test_texts(tiny_folder: Path, refiner_folder: Path) -> None:
    """An empty negative prompt is zeros for the base, and encoded for the refiner; a long prompt is cut off."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    plan = pipe.plan(sdxl.Request(PROMPT + " cat" * 100, negative_prompt="", compat="sgm", seed=1))
    base, refiner = (expert.encode(plan, (NEGATIVE, "positive")) for expert in pipe.experts)
    assert base[NEGATIVE].is_zero
    assert refiner[NEGATIVE].context.any()
    assert base["positive"].context.shape[1] == 77
