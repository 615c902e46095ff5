"""Image to image, inpainting and the refiner against diffusers' pipelines: final latents within 1e-4, before anything
is pasted back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import sdxl

TOLERANCE = 1e-4
PROMPT = "A mecha robot in a favela in expressionist style"
LATENT: dict[str, Any] = {"output": "latent", "progress": False}
SAMPLERS = [
    ("euler", "leading", 0.0),
    ("euler_ancestral", "leading", 0.0),
    ("ddim", "leading", 0.0),
    ("ddim", "leading", 1.0),
    ("dpmpp_2m", "karras", 0.0),
]
SLOW = pytest.mark.slow
EVERY_SAMPLER = [
    pytest.param(each, marks=() if each[0] in ("euler_ancestral", "dpmpp_2m") else SLOW) for each in SAMPLERS
]
PROMPTS, NEGATIVES, SEEDS = [PROMPT, "a red cat"], ["dog", "photo"], [3, 99]


@pytest.fixture(scope="module")
def image_pipe(reference_pipe: Any) -> Any:
    import diffusers

    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(**reference_pipe.components, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def inpaint_pipe() -> Any:
    return tiny.inpainting()


@pytest.fixture(scope="module")
def inpaint_pipe_9() -> Any:
    return tiny.inpainting(9)


@pytest.fixture(scope="module")
def tiny_pipe_9(inpaint_pipe_9: Any, tmp_path_factory: pytest.TempPathFactory) -> sdxl.Pipeline:
    folder = tmp_path_factory.mktemp("tiny") / "inpainting"
    inpaint_pipe_9.save_pretrained(folder)
    return sdxl.Pipeline.from_pretrained(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def refiner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "refiner"
    tiny.save_refiner(folder)
    return folder


@pytest.fixture(scope="module")
def refiner_pipe() -> Any:
    return tiny.refiner()


def reference(pipe: Any, sampler: tuple[str, str, float], generators: list[Any], **arguments: Any) -> torch.Tensor:
    old, pipe.scheduler = pipe.scheduler, tiny.scheduler(*sampler[:2])
    more = {"eta": sampler[2]} if sampler[0] == "ddim" else {}
    try:
        return pipe(generator=generators, output_type="latent", **arguments, **more).images
    finally:
        pipe.scheduler = old


def ours(sampler: tuple[str, str, float]) -> dict[str, Any]:
    return {"sampler": sampler[0], "schedule": sampler[1]} | ({"eta": sampler[2]} if sampler[0] == "ddim" else {})


# ---- image to image --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=str)
@pytest.mark.parametrize("strength", [pytest.param(0.3, marks=SLOW), 0.6, pytest.param(1.0, marks=SLOW)])
def test_image_to_image(
    sampler: tuple[str, str, float], strength: float, image_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any
) -> None:
    picture = tiny.picture(1, 88, 56)
    expected = reference(
        image_pipe,
        sampler,
        tiny.generators([5]),
        prompt=PROMPT,
        image=picture,
        strength=strength,
        num_inference_steps=10,
        guidance_scale=5.0,
    )
    result = tiny_pipe(PROMPT, image=picture, strength=strength, steps=10, seed=5, **ours(sampler), **LATENT)
    assert error(result.images, expected) < TOLERANCE


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=str)
def test_image_to_image_batches(
    sampler: tuple[str, str, float], image_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any
) -> None:
    pictures = [tiny.picture(1, 48, 72), tiny.picture(2, 48, 72)]
    expected = reference(
        image_pipe,
        sampler,
        tiny.generators(SEEDS),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        image=pictures,
        strength=0.5,
        num_inference_steps=8,
        guidance_scale=4.0,
    )
    result = tiny_pipe(
        PROMPTS,
        negative_prompt=NEGATIVES,
        image=pictures,
        strength=0.5,
        steps=8,
        guidance_scale=4.0,
        seed=SEEDS,
        **ours(sampler),
        **LATENT,
    )
    assert error(result.images, expected) < TOLERANCE


@pytest.mark.parametrize("size", [(77, 91), (64, 33)])
def test_image_to_image_of_odd_sizes(
    size: tuple[int, int], image_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any
) -> None:
    """Floored to multiples of 8 with the Lanczos filter."""
    sampler, picture = SAMPLERS[0], tiny.picture(4, *size)
    theirs = {"prompt": PROMPT, "image": picture, "strength": 0.5, "num_inference_steps": 6, "guidance_scale": 5.0}
    expected = reference(image_pipe, sampler, tiny.generators([5]), **theirs)
    result = tiny_pipe(PROMPT, image=picture, strength=0.5, steps=6, seed=5, **LATENT)
    assert error(result.images, expected) < TOLERANCE


def test_image_to_image_from_latents(image_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    latents = torch.randn(2, 4, 7, 9, generator=torch.Generator().manual_seed(1))
    theirs = {"prompt": PROMPTS, "image": latents, "strength": 0.6, "num_inference_steps": 6, "guidance_scale": 1.0}
    expected = reference(image_pipe, SAMPLERS[1], tiny.generators(SEEDS), **theirs)
    result = tiny_pipe(
        PROMPTS, image=latents, strength=0.6, steps=6, guidance_scale=1.0, seed=SEEDS, **ours(SAMPLERS[1]), **LATENT
    )
    assert error(result.images, expected) < TOLERANCE


# ---- inpainting ------------------------------------------------------------------------------------------------------


def check_inpainting(
    reference_pipe: Any,
    pipe: sdxl.Pipeline,
    sampler: tuple[str, str, float],
    strength: float,
    guidance: float,
    error: Any,
) -> None:
    pictures = [tiny.picture(1, 88, 56), tiny.picture(2, 88, 56)]
    masks = [tiny.mask(1, 88, 56), tiny.mask(2, 88, 56)]
    expected = reference(
        reference_pipe,
        sampler,
        tiny.generators(SEEDS),
        prompt=PROMPTS,
        image=pictures,
        mask_image=masks,
        height=56,
        width=88,
        strength=strength,
        num_inference_steps=9,
        guidance_scale=guidance,
    )
    result = pipe(
        PROMPTS,
        image=pictures,
        mask=masks,
        strength=strength,
        steps=9,
        guidance_scale=guidance,
        seed=SEEDS,
        **ours(sampler),
        **LATENT,
    )
    assert error(result.images, expected) < TOLERANCE


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=str)
@pytest.mark.parametrize(
    ("strength", "guidance"), [(0.6, 5.0), pytest.param(1.0, 5.0, marks=SLOW), pytest.param(0.6, 1.0, marks=SLOW)]
)
def test_inpainting_with_4_channels(
    sampler: tuple[str, str, float],
    strength: float,
    guidance: float,
    inpaint_pipe: Any,
    tiny_pipe: sdxl.Pipeline,
    error: Any,
) -> None:
    check_inpainting(inpaint_pipe, tiny_pipe, sampler, strength, guidance, error)


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=str)
@pytest.mark.parametrize(
    ("strength", "guidance"), [(0.6, 5.0), pytest.param(1.0, 5.0, marks=SLOW), pytest.param(1.0, 1.0, marks=SLOW)]
)
def test_inpainting_with_9_channels(
    sampler: tuple[str, str, float],
    strength: float,
    guidance: float,
    inpaint_pipe_9: Any,
    tiny_pipe_9: sdxl.Pipeline,
    error: Any,
) -> None:
    check_inpainting(inpaint_pipe_9, tiny_pipe_9, sampler, strength, guidance, error)


def test_inpainting_of_latents(inpaint_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """Nothing is drawn for encoding, since nothing is encoded."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = {"prompt": PROMPT, "image": latents, "mask_image": tiny.mask(1), "height": 64, "width": 64}
    expected = reference(
        inpaint_pipe, SAMPLERS[1], tiny.generators([7]), strength=0.6, num_inference_steps=6, guidance_scale=5, **theirs
    )
    result = tiny_pipe(
        PROMPT, image=latents, mask=tiny.mask(1), strength=0.6, steps=6, seed=7, **ours(SAMPLERS[1]), **LATENT
    )
    assert error(result.images, expected) < TOLERANCE


# ---- the refiner -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=str)
def test_refiner_alone(sampler: tuple[str, str, float], refiner_pipe: Any, refiner_folder: Path, error: Any) -> None:
    pictures = [tiny.picture(1, 72, 56), tiny.picture(2, 72, 56)]
    pipe = sdxl.Pipeline.from_pretrained(refiner_folder, dtype="float32", device="cpu")
    for more in ({}, {"aesthetic_score": 3.0, "negative_aesthetic_score": 5.5, "negative_prompt": NEGATIVES}):
        expected = reference(
            refiner_pipe,
            sampler,
            tiny.generators(SEEDS),
            prompt=PROMPTS,
            image=pictures,
            strength=0.5,
            num_inference_steps=8,
            guidance_scale=5.0,
            **more,
        )
        result = pipe(PROMPTS, image=pictures, strength=0.5, steps=8, seed=SEEDS, **ours(sampler), **more, **LATENT)
        assert error(result.images, expected) < TOLERANCE


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=str)
@pytest.mark.parametrize("offload", ["none", pytest.param("stage", marks=SLOW), pytest.param("block", marks=SLOW)])
def test_base_and_refiner(
    sampler: tuple[str, str, float],
    offload: Any,
    reference_pipe: Any,
    refiner_pipe: Any,
    tiny_folder: Path,
    refiner_folder: Path,
    error: Any,
) -> None:
    """The base runs the first 80 % of the schedule, the refiner the rest; the generators go on across the hand-off."""
    generators = tiny.generators(SEEDS)
    common = {"prompt": PROMPTS, "negative_prompt": NEGATIVES, "num_inference_steps": 15, "guidance_scale": 5.0}
    latents = reference(reference_pipe, sampler, generators, denoising_end=0.8, height=56, width=72, **common)
    expected = reference(refiner_pipe, sampler, generators, image=latents, denoising_start=0.8, **common)
    pipe = sdxl.Pipeline.from_pretrained(
        tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu", offload=offload
    )
    result = pipe(
        PROMPTS, negative_prompt=NEGATIVES, steps=15, height=56, width=72, seed=SEEDS, **ours(sampler), **LATENT
    )
    assert error(result.images, expected) < TOLERANCE
