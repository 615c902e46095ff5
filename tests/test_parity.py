"""The whole image against diffusers' pipeline: same weights, prompt and noise; final latents within 1e-4."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from deep import deep_folder, deep_pipe, deep_reference  # noqa: F401  fixtures
from PIL import Image

import sdxl
from sdxl.sampling.sampler import Denoiser, Noise, Step
from sdxl.sampling.samplers import SAMPLERS

TOLERANCE = 1e-4
PROMPT = "A mecha robot in a favela in expressionist style"
ARGUMENTS: dict[str, Any] = {"num_inference_steps": "steps", "guidance_scale": "guidance_scale"}


def reference(pipe: Any, which: Any, seeds: list[int], **arguments: Any) -> torch.Tensor:
    old, pipe.scheduler = pipe.scheduler, which
    try:
        return pipe(generator=tiny.generators(seeds), output_type="latent", **arguments).images
    finally:
        pipe.scheduler = old


SPACED = [(s, spacing) for s in ("euler", "euler_ancestral", "heun") for spacing in ("leading", "trailing", "linspace")]
CASES = [
    *((*pair, steps, 0.0) for pair in SPACED for steps in (1, 5, 28) if not (steps == 1 and pair[1] == "linspace")),
    *(("ddim", "leading", steps, eta) for steps in (1, 5, 30) for eta in (0.0, 0.5, 1.0)),
    *(("ddim", "trailing", steps, eta) for steps in (8, 20) for eta in (0.0, 1.0)),
    *(
        (sampler, schedule, steps, 0.0)
        for sampler in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "res_multistep", "uni_pc_bh2")
        for schedule in ("karras", "trailing")
        for steps in (1, 6, 20)
    ),
    *(
        (sampler, schedule, steps, 0.0)
        for sampler in ("dpm_2", "dpm_2_ancestral", "lms")
        for schedule in ("leading", "trailing", "linspace")
        for steps in (5, 20)
    ),
    *(("lcm", "lcm", steps, 0.0) for steps in (1, 2, 4, 8)),
    *(("tcd", "lcm", steps, eta) for steps in (1, 4, 8) for eta in (0.0, 0.3, 1.0)),
]


def is_quick(sampler: str, schedule: str, steps: int) -> bool:
    """Few steps, on one schedule of each sampler and all of euler."""
    few = 10 if sampler in ("euler", "euler_ancestral", "heun", "ddim", "dpmpp_2m") else 7
    return steps < few and (sampler == "euler" or schedule in ("leading", "karras", "lcm"))


@pytest.mark.parametrize(
    ("sampler", "schedule", "steps", "eta"),
    [case if is_quick(*case[:3]) else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_samplers(
    sampler: str, schedule: str, steps: int, eta: float, reference_pipe: Any, tiny_pipe: Any, error: Any
) -> None:
    if sampler == "lms":
        pytest.importorskip("scipy")  # for diffusers' scheduler
    ours: dict[str, Any] = {"compat": {"samplers": "diffusers"}} if sampler == "lms" else {}  # its last step
    which = tiny.scheduler(sampler, schedule)
    more = {"eta": eta} if sampler in ("ddim", "tcd") else {}
    ours |= more
    if "noise" in SAMPLERS[sampler].options:
        ours["sampler_options"] = {"noise": "fresh"}  # diffusers draws new noise at each step
    expected = reference(
        reference_pipe, which, [5], prompt=PROMPT, num_inference_steps=steps, height=64, width=64, **more
    )
    result = tiny_pipe(
        PROMPT, sampler=sampler, schedule=schedule, steps=steps, seed=5, output="latent", progress=False, **ours
    )
    assert error(result.images, expected) < TOLERANCE


def dpm_2(denoise: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """DPM-Solver-2 (Karras et al. 2022, algorithm 2, without churn): it looks at noise levels between the steps'."""
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        slope, middle = (x - denoised) / sigma, math.sqrt(sigma * to)
        if to:
            guess = x + slope * (middle - sigma)
            slope = (guess - denoise(guess, middle)) / middle
        x = x + slope * (to - sigma)
        yield Step(x, denoised, to)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of diffusers' scheduler
@pytest.mark.parametrize("steps", [1, 4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("guidance_scale", [pytest.param(1.0, marks=pytest.mark.slow), 5.0])
def test_a_sampler_of_ones_own(
    steps: int,
    guidance_scale: float,
    reference_pipe: Any,
    tiny_pipe: Any,
    error: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """It may ask for noise levels that are not in the schedule."""
    import diffusers

    monkeypatch.setitem(SAMPLERS, "dpm_2", dpm_2)
    which = diffusers.KDPM2DiscreteScheduler(**tiny.SCHEDULER)
    settings = {"prompt": PROMPT, "guidance_scale": guidance_scale}
    expected = reference(reference_pipe, which, [5], num_inference_steps=steps, height=64, width=64, **settings)
    own = {"sampler": "dpm_2", "schedule": "leading", "steps": steps, "seed": 5, "progress": False}
    result = tiny_pipe(**settings, **own, output="latent")
    assert error(result.images, expected) < TOLERANCE
    picture, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    repainted = tiny_pipe("cat", image=picture, mask=mask, **own)
    assert repainted.images[0].crop((0, 0, 64, 16)).getcolors() == [(64 * 16, (255, 0, 0))]
    sdxl.save_png(repainted.images[0], tmp_path / "p.png", repainted.parameters[0])
    with Image.open(tmp_path / "p.png") as image:
        assert "Sampler: dpm_2, " in image.text["parameters"]


def test_v_prediction_with_zero_terminal_snr(reference_pipe: Any, tiny_folder: Any, tmp_path: Any, error: Any) -> None:
    import shutil

    import sdxl

    which = tiny.scheduler("euler", "trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    shutil.copytree(tiny_folder, tmp_path / "v")
    which.save_pretrained(tmp_path / "v/scheduler")
    pipe = sdxl.Pipeline.from_pretrained(tmp_path / "v", dtype="float32", device="cpu")
    for steps in (1, 5):
        expected = reference(
            reference_pipe,
            which,
            [5],
            prompt=PROMPT,
            num_inference_steps=steps,
            height=64,
            width=64,
            guidance_rescale=0.7,
        )
        result = pipe(PROMPT, steps=steps, seed=5, output="latent", guidance_rescale=0.7, progress=False)
        assert error(result.images, expected) < TOLERANCE


SIZES: dict[str, Any] = {"original_size": (512, 768), "crop": (32, 64), "target": (256, 128)}
POSITIVE: dict[str, Any] = {"original_size": (512, 768), "target_size": (256, 128)}
NEGATIVE: dict[str, Any] = {"negative_original_size": (128, 64), "negative_target_size": (96, 32)}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"height": 40, "width": 88}, {}),
        ({"height": 104, "width": 56}, {}),
        ({"negative_prompt": "dog"}, {}),
        ({"negative_prompt": ""}, {}),
        ({"negative_prompt": "dog", "negative_prompt_2": "photo!"}, {}),
        ({"prompt_2": "a red cat!"}, {}),
        ({"guidance_scale": 1.0}, {}),
        ({"guidance_scale": 12.0, "guidance_rescale": 0.7}, {}),
        (POSITIVE | {"crops_coords_top_left": (32, 64)}, POSITIVE | {"crop_top_left": (32, 64)}),
        (
            POSITIVE | NEGATIVE | {"crops_coords_top_left": (32, 64), "negative_crops_coords_top_left": (7, 9)},
            POSITIVE | NEGATIVE | {"crop_top_left": (32, 64), "negative_crop_top_left": (7, 9)},
        ),
        ({"clip_skip": 1}, {}),
    ],
    ids=[
        "wide",
        "tall",
        "negative prompt",
        "empty negative prompt",
        "two negative prompts",
        "prompt_2",
        "no guidance",
        "guidance_rescale",
        "sizes",
        "negative sizes",
        "clip_skip",
    ],
)
def test_arguments(
    theirs: dict[str, Any], ours: dict[str, Any], reference_pipe: Any, tiny_pipe: Any, error: Any
) -> None:
    theirs = {"height": 64, "width": 64} | theirs
    ours = ours or theirs
    ours = {"height": theirs["height"], "width": theirs["width"]} | ours
    which = tiny.scheduler("euler", "leading")
    expected = reference(reference_pipe, which, [5], prompt=PROMPT, num_inference_steps=4, **theirs)
    result = tiny_pipe(PROMPT, steps=4, seed=5, output="latent", progress=False, **ours)
    assert error(result.images, expected) < TOLERANCE


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m"])
def test_batches(sampler: str, reference_pipe: Any, tiny_pipe: Any, error: Any) -> None:
    prompts, negatives, seeds = [PROMPT, "a red cat"], ["dog", "photo"], [3, 99, 4, 7]
    expected = reference(
        reference_pipe,
        tiny.scheduler(sampler, "karras" if sampler == "dpmpp_2m" else "leading"),
        seeds,
        prompt=prompts,
        negative_prompt=negatives,
        num_images_per_prompt=2,
        num_inference_steps=6,
        height=64,
        width=48,
    )
    result = tiny_pipe(
        prompts,
        negative_prompt=negatives,
        num_images=2,
        seed=seeds,
        steps=6,
        sampler=sampler,
        schedule="karras" if sampler == "dpmpp_2m" else "leading",
        height=64,
        width=48,
        output="latent",
        progress=False,
    )
    assert error(result.images, expected) < TOLERANCE


def test_latents_and_pixels(reference_pipe: Any, tiny_pipe: Any, error: Any) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = reference_pipe(PROMPT, latents=latents.clone(), num_inference_steps=4, output_type="pt").images
    result = tiny_pipe(PROMPT, latents=latents, steps=4, output="tensor", progress=False)
    assert error(result.images, expected) < TOLERANCE
