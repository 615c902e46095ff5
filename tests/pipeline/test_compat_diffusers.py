"""`compat="diffusers"`: equal to diffusers within 1e-4 where our own conventions differ on purpose, case by case."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from PIL import Image, ImageFilter

import sdxl

TOLERANCE = 1e-4
PROMPT = "A mecha robot in a favela in expressionist style"
LONG = "a red cat in the favela of a robot photo " * 12
LATENT: dict[str, Any] = {"output": "latent", "progress": False}
SIZE = {"height": 64, "width": 64}


@pytest.fixture(scope="module")
def image_pipe(reference_pipe: Any) -> Any:
    import diffusers

    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(**reference_pipe.components, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def inpaint_pipe() -> Any:
    return tiny.inpainting()


def reference(pipe: Any, which: Any, generator: Any, **arguments: Any) -> torch.Tensor:
    old, pipe.scheduler = pipe.scheduler, which
    try:
        images: torch.Tensor = pipe(generator=generator, output_type="latent", **arguments).images
        return images
    finally:
        pipe.scheduler = old


def scheduler(sampler: str, schedule: str) -> Any:
    """diffusers' scheduler: karras, exponential and beta over the spacing `leading`."""
    if schedule in ("leading", "trailing", "linspace"):
        return tiny.scheduler(sampler, schedule)
    return tiny.scheduler(sampler, "leading", **{f"use_{schedule}_sigmas": True})


RELATIVES = ("euler", "heun", "lms", "dpm_2", "dpm_2_ancestral")
MULTISTEP = ("dpmpp_2m", "uni_pc_bh2")
SCHEDULES = [
    *((sampler, schedule, 6) for sampler in (*RELATIVES, *MULTISTEP) for schedule in ("karras", "exponential")),
    *((sampler, "beta", 6) for sampler in ("euler", "heun", "dpmpp_2m", "uni_pc_bh2")),
    *((sampler, schedule, 7) for sampler in MULTISTEP for schedule in ("leading", "linspace")),
    ("dpmpp_2m_sde", "karras", 5),
    ("dpmpp_2m_sde_heun", "leading", 5),
    ("euler", "linspace", 1),
]
QUICK = [
    *(("euler", "karras", 6), ("euler", "linspace", 1), ("dpmpp_2m", "exponential", 6), ("dpmpp_2m", "leading", 7)),
    *(("dpm_2_ancestral", "karras", 6), ("dpmpp_2m_sde", "karras", 5)),
]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize(
    ("sampler", "schedule", "steps"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in SCHEDULES],
)
def test_schedules(
    sampler: str, schedule: str, steps: int, reference_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any
) -> None:
    """The range of karras, exponential and beta; one more point for DPM++ and UniPC; truncated timesteps; one step of
    linspace; fresh noise.
    """
    pytest.importorskip("scipy")
    own = {"sampler": sampler, "schedule": schedule, "steps": steps, "seed": 5, **SIZE, **LATENT}
    expected = reference(
        reference_pipe,
        scheduler(sampler, schedule),
        tiny.generators([5]),
        prompt=PROMPT,
        num_inference_steps=steps,
        **SIZE,
    )
    assert error(tiny_pipe(PROMPT, compat="diffusers", **own).images, expected) < TOLERANCE
    other = tiny_pipe(PROMPT, **own).images
    if (sampler, schedule) not in (("dpmpp_2m", "karras"), ("uni_pc_bh2", "karras")):
        assert error(other, expected) > 10 * TOLERANCE, "nothing differs, so the case proves nothing"


@pytest.mark.parametrize(
    ("sampler", "more"),
    [("lcm", {}), ("tcd", {}), pytest.param("tcd", {"eta": 0.3}, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_class_of_one_schedule(
    sampler: str, more: dict[str, Any], reference_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any
) -> None:
    """Its timesteps are no option of the class, so a caller of diffusers names none."""
    which, generators = tiny.scheduler(sampler, "lcm"), tiny.generators([5])
    expected = reference(reference_pipe, which, generators, prompt=PROMPT, num_inference_steps=3, **SIZE, **more)
    own = {"sampler": type(which).__name__, "compat": "diffusers", "steps": 3, "seed": 5, **SIZE, **LATENT, **more}
    assert error(tiny_pipe(PROMPT, **own).images, expected) < TOLERANCE


@pytest.fixture(scope="module")
def trailing_pipe(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> sdxl.Pipeline:
    """The tiny model with another spacing in its scheduler's config."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("tiny") / "trailing")
    tiny.scheduler("euler", "trailing").save_pretrained(folder / "scheduler")
    return sdxl.Pipeline.from_pretrained(folder, dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("sampler", "levels"),
    [("euler", "karras"), ("heun", "timesteps"), pytest.param("euler", "sigmas", marks=pytest.mark.slow)],
)
def test_the_models_own_spacing_decides_the_first_scale(
    sampler: str, levels: str, reference_pipe: Any, trailing_pipe: sdxl.Pipeline, error: Any
) -> None:
    """That of noise under karras and lists, whose first sigma is small here, where the two scales differ most."""
    given: dict[str, Any] = {"timesteps": [300, 200, 100]} if levels == "timesteps" else {"sigmas": [0.5, 0.2, 0.0]}
    config = {"use_karras_sigmas": True} if levels == "karras" else {}
    theirs = {"num_inference_steps": 3} if levels == "karras" else given
    own = {"schedule": "karras", "steps": 3} if levels == "karras" else given
    generators = tiny.generators([5])
    expected = reference(
        reference_pipe, tiny.scheduler(sampler, "trailing", **config), generators, prompt=PROMPT, **SIZE, **theirs
    )
    own |= {"sampler": sampler, "seed": 5, **SIZE, **LATENT}
    assert error(trailing_pipe(PROMPT, compat="diffusers", **own).images, expected) < TOLERANCE
    assert error(trailing_pipe(PROMPT, **own).images, expected) > 10 * TOLERANCE


@pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning")  # of torchsde, by a rounding
@pytest.mark.parametrize("schedule", ["karras", pytest.param("leading", marks=pytest.mark.slow)])
def test_dpmpp_sde_by_the_seed_of_its_scheduler(
    schedule: str, reference_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any
) -> None:
    """The path of `noise_sampler_seed` is that of our seed, at the same levels to the last bit of float32."""
    pytest.importorskip("torchsde")
    diffusers = pytest.importorskip("diffusers")
    config = {**tiny.SCHEDULER, "use_karras_sigmas": schedule == "karras", "noise_sampler_seed": 5}
    which, generators = diffusers.DPMSolverSDEScheduler(**config), tiny.generators([5])
    expected = reference(reference_pipe, which, generators, prompt=PROMPT, num_inference_steps=5, **SIZE)
    own = {"sampler": "dpmpp_sde", "schedule": schedule, "steps": 5, "seed": 5, **SIZE, **LATENT}
    assert error(tiny_pipe(PROMPT, compat="diffusers", **own).images, expected) < TOLERANCE / 10


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_eta_acts_on_ddim_and_tcd_alone(eta: float, reference_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    which, generators = tiny.scheduler("euler_ancestral", "leading"), tiny.generators([5])
    expected = reference(reference_pipe, which, generators, prompt=PROMPT, num_inference_steps=3, eta=eta, **SIZE)
    own = {"sampler": "euler_ancestral", "schedule": "leading", "steps": 3, "seed": 5, "eta": eta, **SIZE, **LATENT}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = tiny_pipe(PROMPT, compat="diffusers", **own)
        assert error(result.images, expected) < TOLERANCE
        assert "eta has no effect" in str(caught.pop().message)
        recorded = result.parameters[0]["request"]
        tiny_pipe.plan(sdxl.Request(**recorded))
    assert recorded["eta"] == 1
    assert not caught, "a record says what acted"


NEGATIVE: dict[str, Any] = {"negative_original_size": (128, 64), "negative_target_size": (96, 32)}
TEXTS: dict[str, dict[str, Any]] = {
    "a long prompt is cut off": {"prompt": LONG},
    "clip_skip of the positive prompt alone": {"clip_skip": 1, "negative_prompt": "dog"},
    "one negative size is ignored": {"negative_original_size": (128, 64)},
    "a negative crop without sizes is ignored": {"negative_crops_coords_top_left": (7, 9)},
    "the negative crop is 0,0 beside both sizes": NEGATIVE | {"crops_coords_top_left": (32, 64)},
    'prompt_2 of "" is the prompt': {"prompt_2": ""},
    "negative_prompt_2 alone": {"negative_prompt_2": "a photo of a dog"},
    'negative_prompt_2 of "" is the negative prompt': {"negative_prompt": "dog", "negative_prompt_2": ""},
    "prompt_2 of other length": {"prompt": "a cat", "prompt_2": LONG},
}


def ours(arguments: dict[str, Any]) -> dict[str, Any]:
    """diffusers' arguments under our names."""
    names = {
        "crops_coords_top_left": "crop_top_left",
        "negative_crops_coords_top_left": "negative_crop_top_left",
        "num_images_per_prompt": "num_images",
        "num_inference_steps": "steps",
        "mask_image": "mask",
    }
    return {names.get(name, name): value for name, value in arguments.items()}


@pytest.mark.filterwarnings("ignore::sdxl.errors.SDXLWarning")
@pytest.mark.parametrize("case", TEXTS)
def test_text_and_sizes(case: str, reference_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    theirs: dict[str, Any] = {"prompt": PROMPT, "num_inference_steps": 4} | TEXTS[case] | SIZE
    expected = reference(reference_pipe, tiny.scheduler("euler", "leading"), tiny.generators([5]), **theirs)
    result = tiny_pipe(**ours(theirs), seed=5, compat="diffusers", **LATENT)
    assert error(result.images, expected) < TOLERANCE
    assert error(tiny_pipe(**ours(theirs), seed=5, **LATENT).images, expected) > 10 * TOLERANCE


def soft_mask(seed: int, width: int, height: int) -> Image.Image:
    return tiny.mask(seed, width, height).filter(ImageFilter.GaussianBlur(6))


IMAGES: dict[str, dict[str, Any]] = {
    "a grey mask is black and white": {"mask_image": soft_mask(1, 88, 56)},
    "a grey mask of another size too": {"image": tiny.picture(1, 110, 83), "mask_image": soft_mask(2, 110, 83)},
    "one posterior for a batch": {"num_images_per_prompt": 2, "seed": [3, 99]},
    "one generator for a batch": {"num_images_per_prompt": 3, "seed": 4},
    "given latents are all of the start": {"latents": torch.randn(1, 4, 7, 11, generator=tiny.generators([1])[0])},
    "no negative crop": NEGATIVE | {"negative_crops_coords_top_left": (7, 9), "crops_coords_top_left": (3, 5)},
    "strength 0.9999 by default": {"strength": None},
}


@pytest.mark.filterwarnings("ignore::sdxl.errors.SDXLWarning")
@pytest.mark.parametrize("case", IMAGES)
def test_inpainting(case: str, inpaint_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    arguments = {"image": tiny.picture(1, 88, 56), "mask_image": tiny.mask(1, 88, 56), "strength": 0.7, "seed": 5}
    arguments |= {"height": 56, "width": 88, "prompt": PROMPT, "num_inference_steps": 6, "guidance_scale": 5.0}
    arguments |= IMAGES[case]
    arguments = {name: value for name, value in arguments.items() if value is not None}
    seed: Any = arguments.pop("seed")
    generator = tiny.generators(seed) if isinstance(seed, list) else tiny.generators([seed])[0]
    expected = reference(inpaint_pipe, tiny.scheduler("euler_ancestral", "leading"), generator, **arguments)
    mine = ours(arguments) | {"seed": seed, "sampler": "euler_ancestral", **LATENT}
    assert error(tiny_pipe(**mine, compat="diffusers").images, expected) < TOLERANCE
    assert error(tiny_pipe(**mine).images, expected) > 10 * TOLERANCE


@pytest.mark.parametrize("case", ["a grey mask is black and white", "one posterior for a batch"])
def test_inpainting_with_9_channels(case: str, inpainting_pipe: sdxl.Pipeline, error: Any) -> None:
    arguments = {"image": tiny.picture(1, 88, 56), "mask_image": tiny.mask(1, 88, 56), "strength": 0.7, "seed": [5]}
    arguments |= {"height": 56, "width": 88, "prompt": PROMPT, "num_inference_steps": 6, "guidance_scale": 5.0}
    arguments |= IMAGES[case]
    seed: Any = arguments.pop("seed")
    expected = reference(tiny.inpainting(9), tiny.scheduler("euler", "leading"), tiny.generators(seed), **arguments)
    result = inpainting_pipe(**ours(arguments), seed=seed, schedule="leading", compat="diffusers", **LATENT)
    assert error(result.images, expected) < TOLERANCE


@pytest.mark.parametrize("sampler", ["euler_ancestral", pytest.param("dpmpp_2m_sde", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["text", "image"])
def test_one_generator_for_a_batch(
    sampler: str, task: str, reference_pipe: Any, image_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any
) -> None:
    arguments: dict[str, Any] = {"prompt": PROMPT, "num_images_per_prompt": 3, "num_inference_steps": 5}
    arguments |= SIZE if task == "text" else {"image": tiny.picture(1, 64, 64), "strength": 0.7}
    pipe = reference_pipe if task == "text" else image_pipe
    which = tiny.scheduler(sampler, "trailing")
    expected = reference(pipe, which, tiny.generators([4])[0], guidance_scale=5.0, **arguments)
    mine = ours(arguments) | {"seed": 4, "sampler": sampler, "schedule": "trailing", **LATENT}
    result = tiny_pipe(**mine, compat="diffusers")
    assert error(result.images, expected) < TOLERANCE
    assert result.seeds == [4, 4, 4]


def test_the_refiners_negative_crop(reference_pipe: Any, tiny_folder: Path, refiner_folder: Path, error: Any) -> None:
    """0,0 unless it is given, whatever the positive one is."""
    common: dict[str, Any] = {"prompt": PROMPT, "num_inference_steps": 10, "guidance_scale": 5.0}
    common |= {"crops_coords_top_left": (32, 64), "original_size": (200, 300)}
    which, generators = tiny.scheduler("euler", "leading"), tiny.generators([5])
    latents = reference(reference_pipe, which, generators, denoising_end=0.6, **SIZE, **common)
    expected = reference(
        tiny.refiner(), tiny.scheduler("euler", "leading"), generators, image=latents, denoising_start=0.6, **common
    )
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    mine = ours(common) | {"seed": 5, "refine_at": 0.6, **SIZE, **LATENT}
    assert error(pipe(**mine, compat="diffusers").images, expected) < TOLERANCE
    assert error(pipe(**mine).images, expected) > 10 * TOLERANCE


@pytest.mark.parametrize("sampler", ["dpmpp_2m", pytest.param("ddim", marks=pytest.mark.slow)])
def test_given_latents_at_a_lower_level(sampler: str, inpaint_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """The schedulers that keep the variance of their latents have no scale of the whole schedule's first sigma."""
    arguments: dict[str, Any] = {"image": tiny.picture(1), "mask_image": tiny.mask(1), "strength": 0.5, **SIZE}
    arguments |= {"latents": torch.randn(1, 4, 8, 8, generator=tiny.generators([1])[0]), "prompt": PROMPT}
    arguments |= {"num_inference_steps": 6, "guidance_scale": 5.0}
    which, generators = tiny.scheduler(sampler, "leading"), tiny.generators([5])
    expected = reference(inpaint_pipe, which, generators, **arguments)
    mine = ours(arguments) | {"seed": 5, "sampler": sampler, **LATENT}
    assert error(tiny_pipe(**mine, compat="diffusers").images, expected) < TOLERANCE


def test_nothing_is_pasted_back(inpaint_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """The whole result has gone through the VAE, in the size of the work."""
    arguments: dict[str, Any] = {"image": tiny.picture(1, 90, 61), "mask_image": tiny.mask(1, 90, 61)}
    arguments |= {"prompt": PROMPT, "num_inference_steps": 4, "strength": 0.6, "guidance_scale": 5.0}
    inpaint_pipe.scheduler = tiny.scheduler("euler", "leading")
    expected = inpaint_pipe(generator=tiny.generators([5]), output_type="pt", height=56, width=88, **arguments).images
    result = tiny_pipe(
        **ours(arguments), height=56, width=88, seed=5, compat="diffusers", output="tensor", progress=False
    )
    assert error(result.images, expected) < TOLERANCE


@pytest.mark.parametrize("seed", [4, [4, 9]])
@pytest.mark.parametrize("task", ["text", "inpainting"])
def test_an_image_of_a_batch_is_replayed_alone(
    task: str, seed: Any, tiny_pipe: sdxl.Pipeline, error: Any, make_request: Callable[[Any, int], dict[str, Any]]
) -> None:
    sources: dict[str, Any] = {"image": tiny.picture(1, 64, 64), "mask": tiny.mask(1)} if task == "inpainting" else SIZE
    batch = tiny_pipe(
        PROMPT, num_images=2, seed=seed, sampler="euler_ancestral", steps=3, compat="diffusers", **sources, **LATENT
    )
    for number in range(2):
        again = tiny_pipe(**make_request(batch, number), **(sources if task == "inpainting" else {}), **LATENT)
        assert error(again.images, batch.images[number : number + 1]) < 1e-5


@pytest.fixture
def make_request() -> Callable[[Any, int], dict[str, Any]]:
    """The recorded arguments of an image, without its sources."""

    def make(result: Any, number: int) -> dict[str, Any]:
        request = result.parameters[number]["request"]
        return {name: value for name, value in request.items() if name not in ("image", "mask", "latents")}

    return make


def test_a_posterior_of_another_image_for_several(tiny_pipe: sdxl.Pipeline) -> None:
    """As the record of an image of a batch says it, and here for two images at once."""
    given: dict[str, Any] = {
        "image": tiny.picture(1),
        "mask": tiny.mask(1),
        "steps": 3,
        "strength": 0.7,
        "compat": {"profile": "diffusers", "posterior_seed": 5},
        "output": "tensor",
        "progress": False,
    }
    both = tiny_pipe(["a cat", "a dog"], seed=[3, 99], **given).images
    for row, prompt, seed in zip(both, ("a cat", "a dog"), (3, 99), strict=True):
        torch.testing.assert_close(row, tiny_pipe(prompt, seed=seed, **given).images[0], rtol=0, atol=1e-5)
