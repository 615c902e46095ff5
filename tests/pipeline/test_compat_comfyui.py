"""`compat="comfyui"`: whole runs within 5e-5 of ComfyUI's rules restated in float64, in `tests/comfyui.py`."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import comfyui
import pytest
import tiny
import torch
from PIL import Image, ImageFilter

import sdxl

pytestmark = pytest.mark.filterwarnings("ignore:Should have t[ab]")  # of torchsde
TOLERANCE = 5e-5
PROMPT, NEGATIVE = "A mecha robot in a favela", "a photo of a dog"
LATENT: dict[str, Any] = {"output": "latent", "progress": False}
COMMON: dict[str, Any] = {"negative_prompt": NEGATIVE, "seed": 5, "compat": "comfyui", **LATENT}
IDS = (64, 64, 0, 0, 64, 64)
SHAPE = (1, 4, 8, 8)


def quick(values: Iterable[Any], *few: Any) -> list[Any]:
    """All values, of which only a few are not slow."""
    return [value if value in few else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="module")
def model(reference_pipe: Any) -> comfyui.Model:
    return comfyui.Model(reference_pipe)


def run(
    model: comfyui.Model,
    sampler: str = "euler",
    schedule: str = "normal",
    steps: int = 5,
    seed: int = 5,
    shape: Sequence[int] = SHAPE,
    z: torch.Tensor | None = None,
    strength: float = 1.0,
    mask: torch.Tensor | None = None,
    step_noise: Any = comfyui.on_a_card,
    cfg: float = 5.0,
    positive: comfyui.Segments = ((PROMPT, 1.0),),
    negative: comfyui.Segments = ((NEGATIVE, 1.0),),
    layer: int = -2,
    ids: Sequence[float] = IDS,
    known: torch.Tensor | None = None,
    **more: Any,
) -> torch.Tensor:
    """A KSampler of the restated rules."""
    denoise = model.denoiser(model.encode(positive, layer), model.encode(negative, layer), cfg, ids, **more)
    noise = comfyui.first_noise(seed, shape)
    z = torch.zeros(tuple(shape), dtype=torch.float64) if z is None else z
    if mask is not None:
        denoise = comfyui.masked(denoise, z, noise if known is None else known, mask)
    sigmas = comfyui.sigmas_of(model.table, schedule, sampler, steps, strength)
    of_steps = comfyui.tree(seed, shape, sigmas) if sampler in comfyui.SDE else step_noise(seed, shape)
    x = comfyui.start(model.table, z, noise, sigmas[0])
    return comfyui.sample(denoise, sampler, sigmas, x, of_steps)


def ours(pipe: sdxl.Pipeline, prompt: Any = PROMPT, **arguments: Any) -> torch.Tensor:
    size = {} if "image" in arguments else {"width": 64, "height": 64}
    images = pipe(prompt, **COMMON | size | {"steps": 5} | arguments).images
    assert isinstance(images, torch.Tensor)
    return images


# ---- schedules and samplers


@pytest.mark.parametrize("steps", [5, 7, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("schedule", comfyui.SCHEDULES)
def test_schedules_to_the_last_bit(schedule: str, steps: int, tiny_pipe: sdxl.Pipeline) -> None:
    """float32, and more steps than asked for with ddim_uniform where they do not divide 1000."""
    table = comfyui.Table()
    for sampler in ("euler", "dpm_2", "uni_pc", "ddim"):
        expected = comfyui.sigmas_of(table, schedule, sampler, steps)
        request = sdxl.Request("a", compat="comfyui", sampler=sampler, schedule=schedule, steps=steps, seed=1)
        plan = tiny_pipe.plan(request)
        assert list(plan.sigmas) == expected
        assert list(plan.schedule.timesteps) == [table.network_timestep(sigma) for sigma in expected[:-1]]


def test_one_step_of_kl_optimal_is_a_number(tiny_pipe: sdxl.Pipeline) -> None:
    """ComfyUI divides by the steps but one, and its only step is NaN."""
    schedule = tiny_pipe.plan(sdxl.Request("a", steps=1, schedule="kl_optimal", compat="comfyui")).schedule
    assert schedule.sigmas == pytest.approx((float(schedule.table.sigmas[-1]), 0.0))


@pytest.mark.parametrize("schedule", quick(comfyui.SCHEDULES, "normal"))
def test_schedules(schedule: str, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """Whole timesteps, the nearest in log sigma; the scale of the first noise."""
    expected = run(model, "euler", schedule, 6)
    assert error(ours(tiny_pipe, sampler="euler", schedule=schedule, steps=6), expected) < TOLERANCE


# exactly between two timesteps, where the last bit decides, lies the middle of dpm_2_ancestral's steps on normal
@pytest.mark.parametrize("sampler", quick(comfyui.SAMPLERS, "dpmpp_sde", "uni_pc", "uni_pc_bh2", "lms", "dpm_2"))
def test_samplers(sampler: str, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """The discarded sigma, UniPC's end and order, the last step of lms, ddim without an end of its own; step noise of a
    card, and Brownian trees of the run's own sigmas.
    """
    cfg = 5.0
    expected = run(model, sampler, "karras", 6, cfg=cfg)
    assert error(ours(tiny_pipe, sampler=sampler, schedule="karras", steps=6), expected) < TOLERANCE


def test_ddim_ends_at_zero_on_schedules_of_others_too(tiny_pipe: sdxl.Pipeline) -> None:
    for compat in ("comfyui", None):
        request = sdxl.Request(PROMPT, sampler="ddim", schedule="trailing", steps=3, compat=compat)
        assert (tiny_pipe.plan(request).schedule.sigmas[-1] == 0) == (compat == "comfyui")


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("sampler", ["uni_pc", "uni_pc_bh2", "lms", "dpm_2", "dpmpp_3m_sde"])
def test_few_steps(sampler: str, steps: int, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    expected = run(model, sampler, "simple", steps)
    assert error(ours(tiny_pipe, sampler=sampler, schedule="simple", steps=steps), expected) < TOLERANCE


@pytest.mark.parametrize("seed", quick([5, 2**64 - 2], 2**64 - 2))
@pytest.mark.parametrize("sampler", quick(["euler_ancestral", "lcm"], "euler_ancestral"))
def test_step_noise_of_a_card_and_of_a_cpu(
    sampler: str, seed: int, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any
) -> None:
    """One member of the conventions chooses; seeds go up to 2^64 - 1."""
    kinds: dict[str, Any] = {
        "comfyui": comfyui.on_a_card,
        "comfyui,step_noise=cpu": lambda seed, shape: comfyui.on_a_cpu(seed + 1, shape),
        "comfyui,step_noise=cpu_again": comfyui.on_a_cpu,
    }
    for compat, step_noise in kinds.items():
        expected = run(model, sampler, seed=seed, step_noise=step_noise)
        assert error(ours(tiny_pipe, sampler=sampler, seed=seed, compat=compat), expected) < TOLERANCE


def test_a_tree_of_a_card(tiny_pipe: sdxl.Pipeline) -> None:
    """As the samplers whose names end in _gpu draw it: other noise, the same law."""
    own = {"sampler": "dpmpp_2m_sde", "schedule": "karras"}
    images = [ours(tiny_pipe, compat=compat, **own) for compat in ("comfyui", "comfyui,tree_noise=philox")]
    assert not torch.equal(*images)
    assert 0.5 < float(images[1].std() / images[0].std()) < 2


@pytest.mark.parametrize("sampler", quick(["euler", "euler_ancestral", "dpmpp_2m_sde"], "dpmpp_2m_sde"))
def test_one_generator_for_a_batch(sampler: str, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    expected = run(model, sampler, "karras", shape=(3, 4, 8, 8))
    result = tiny_pipe(PROMPT, num_images=3, steps=5, width=64, height=64, sampler=sampler, schedule="karras", **COMMON)
    assert error(result.images, expected) < TOLERANCE
    for number in range(3):  # each is replayed alone from its record
        again = tiny_pipe(**result.parameters[number]["request"], **LATENT)
        assert error(again.images, expected[number : number + 1]) < TOLERANCE


# ---- text


def test_no_negative_prompt_is_the_empty_text(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    expected = run(model, negative=[("", 1.0)])
    for negative in (None, ""):
        assert error(ours(tiny_pipe, negative_prompt=negative), expected) < TOLERANCE


@pytest.mark.parametrize("cfg", quick([0.0, 0.5, 1.0, 1.5], 0.5))
def test_low_guidance(cfg: float, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """Both passes run for every scale but 1."""
    if cfg == 1:
        with pytest.warns(sdxl.SDXLWarning, match="turns guidance off"):
            images = ours(tiny_pipe, guidance_scale=cfg)
    else:
        images = ours(tiny_pipe, guidance_scale=cfg)
    assert error(images, run(model, cfg=cfg)) < TOLERANCE


@pytest.mark.filterwarnings("ignore:the prompts have syntax")
@pytest.mark.parametrize(
    ("prompt", "segments"),
    [
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("a (red (cat:0.5):1.5)", [("a ", 1.0), ("red ", 1.5), ("cat", 0.5)]),
        ("a ((red)) [cat] \\(dog\\)", [("a ", 1.0), ("red", 1.1 * 1.1), (" [cat] (dog)", 1.0)]),
    ],
)
def test_weights(
    prompt: str, segments: comfyui.Segments, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any
) -> None:
    expected = run(model, positive=segments)
    assert error(ours(tiny_pipe, prompt), expected) < TOLERANCE


def test_long_prompts(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """In chunks: a short part of one weight is not cut; the shorter context is repeated to a common length, which
    changes no attention.
    """
    long = [("a red cat of the dog " * 14 + "a a", 1.0), ("the red cat in the style", 1.2), (" photo", 1.0)]
    text = f"{long[0][0]}({long[1][0]}:1.2){long[2][0]}"
    expected = run(model, positive=long)
    assert error(ours(tiny_pipe, text), expected) < TOLERANCE


@pytest.mark.parametrize("clip_skip", quick([1, 2], 1))
def test_clip_skip(clip_skip: int, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """Of both prompts and both encoders."""
    expected = run(model, layer=-2 - clip_skip)
    assert error(ours(tiny_pipe, clip_skip=clip_skip), expected) < TOLERANCE


def test_sizes(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """As given; the negative prompt has its own."""
    expected = run(model, ids=(200, 300, 3, 5, 100, 150), negative_ids=(90, 80, 3, 5, 70, 60))
    given = {"original_size": (200, 300), "crop_top_left": (3, 5), "target_size": (100, 150)}
    negative = {"negative_original_size": (90, 80), "negative_target_size": (70, 60)}
    assert error(ours(tiny_pipe, **given, **negative), expected) < TOLERANCE


def test_rescale_acts_on_v(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    expected = run(model, rescale=0.7)
    assert error(ours(tiny_pipe, guidance_rescale=0.7), expected) < TOLERANCE
    assert error(ours(tiny_pipe, guidance_rescale=0.7, compat="comfyui,rescale=output"), expected) > 1e-3


# ---- images


@pytest.mark.parametrize("strength", quick([0.3, 0.55, 1.0], 0.55, 1.0))
@pytest.mark.parametrize("sampler", quick(["euler", "euler_ancestral", "dpmpp_2m_sde", "uni_pc", "dpm_2"], "euler"))
def test_image_to_image(
    sampler: str, strength: float, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any
) -> None:
    """n steps of int(n / denoise); the mean of the posterior; at denoise 1 the image is in the start too."""
    image = tiny.picture(1, 64, 64)
    z = model.encode_image(comfyui.pixels_of(image))
    expected = run(model, sampler, "karras", z=z, strength=strength)
    images = ours(tiny_pipe, image=image, strength=strength, sampler=sampler, schedule="karras")
    assert error(images, expected) < TOLERANCE


def test_an_image_of_odd_size_is_cut_and_its_alpha_dropped(
    tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any
) -> None:
    image = tiny.picture(3, 71, 66)
    image.putalpha(tiny.mask(1, 71, 66))
    z = model.encode_image(comfyui.pixels_of(image.convert("RGB"))[:, :, 1:65, 3:67])
    expected = run(model, z=z, strength=0.6)
    assert error(ours(tiny_pipe, image=image, strength=0.6), expected) < TOLERANCE


def test_the_default_strength_is_1(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    image = tiny.picture(1, 64, 64)
    expected = run(model, z=model.encode_image(comfyui.pixels_of(image)))
    assert error(ours(tiny_pipe, image=image), expected) < TOLERANCE


MASKS = {"hard": tiny.mask(1), "soft": tiny.mask(2).filter(ImageFilter.GaussianBlur(5))}


@pytest.mark.parametrize("strength", quick([0.6, 1.0], 1.0))
@pytest.mark.parametrize("sampler", quick(["euler", "euler_ancestral", "ddim", "heun", "uni_pc"], "ddim", "euler"))
@pytest.mark.parametrize("kind", quick(MASKS, "soft"))
def test_noise_masks(
    kind: str, sampler: str, strength: float, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any
) -> None:
    """Bilinear, blended in the input and the output of each call, at denoise 1 too; ddim's known part has noise of its
    own.
    """
    image, mask = tiny.picture(1, 64, 64), MASKS[kind]
    z = model.encode_image(comfyui.pixels_of(image))
    known = comfyui.first_noise(6, SHAPE) if sampler == "ddim" else None
    grey = comfyui.to_latents(comfyui.pixels_of(mask))
    expected = run(model, sampler, z=z, strength=strength, mask=grey, known=known)
    images = ours(tiny_pipe, image=image, mask=mask, strength=strength, sampler=sampler)
    assert error(images, expected) < TOLERANCE


def test_nothing_is_pasted_and_pixels_are_cut_off(tiny_pipe: sdxl.Pipeline, model: comfyui.Model) -> None:
    image, mask = tiny.picture(1, 96, 64), tiny.mask(1, 96, 64)
    z = model.encode_image(comfyui.pixels_of(image))
    grey = comfyui.to_latents(comfyui.pixels_of(mask))
    expected = (
        model.decode(run(model, z=z, shape=z.shape, strength=0.6, mask=grey, ids=(64, 96, 0, 0, 64, 96)))[0] * 255
    )
    result = tiny_pipe(PROMPT, image=image, mask=mask, strength=0.6, steps=5, **COMMON | {"output": "pil"}).images[0]
    pixels = comfyui.pixels_of(result)[0] * 255
    near = (expected - expected.round()).abs() < 0.01  # where float32 may decide
    assert torch.equal(pixels.round()[~near], expected.floor()[~near])
    assert not torch.equal(pixels.round()[~near], expected.round()[~near])


@pytest.mark.parametrize("strength", quick([0.6, 1.0], 0.6))
@pytest.mark.parametrize("kind", quick(MASKS, "soft"))
def test_9_channels(kind: str, strength: float, inpainting_pipe: sdxl.Pipeline, error: Any) -> None:
    """The mask rounded, the mean latents of the image with grey in the hole, from the image with noise, and blended as
    well.
    """
    own = comfyui.Model(tiny.inpainting(9))
    image, mask = tiny.picture(1, 64, 64), MASKS[kind]
    pixels, grey = comfyui.pixels_of(image), comfyui.pixels_of(mask)
    kept = 1 - grey.round()
    channels = torch.cat([comfyui.to_latents(grey).round(), own.encode_image((pixels - 0.5) * kept + 0.5)], dim=1)
    z = own.encode_image(pixels)
    expected = run(own, z=z, strength=strength, mask=comfyui.to_latents(grey), channels=channels)
    images = ours(inpainting_pipe, image=image, mask=mask, strength=strength)
    assert error(images, expected) < TOLERANCE


def test_the_hole_is_grey_and_the_mask_grows(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """As ComfyUI's "VAE Encode (for Inpainting)" does before the mask becomes a noise mask."""
    image, mask = tiny.picture(1, 64, 64), MASKS["soft"]
    hole = comfyui.pixels_of(mask).round()
    z = model.encode_image((comfyui.pixels_of(image) - 0.5) * (1 - hole) + 0.5)
    grown = torch.nn.functional.conv2d(hole[None, None], torch.ones(1, 1, 6, 6, dtype=torch.float64), padding=3)
    grown = grown[0, 0, :64, :64].clamp(0, 1).round()
    expected = run(model, z=z, mask=comfyui.to_latents(grown))
    images = ours(tiny_pipe, image=image, mask=mask, compat="comfyui,hole=grey,grow_mask=6")
    assert error(images, expected) < TOLERANCE


def test_differential_diffusion(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """Repainted where the mask is at least the part of the timesteps that is left."""
    image, mask = tiny.picture(1, 64, 64), MASKS["soft"]
    z = model.encode_image(comfyui.pixels_of(image))
    sigmas = comfyui.sigmas_of(model.table, "normal", "euler", 6)
    begin, end = model.table.network_timestep(sigmas[0]), model.table.network_timestep(max(sigmas[-1], model.table.low))
    noise = comfyui.first_noise(5, SHAPE)
    denoise = comfyui.masked(
        model.denoiser(model.encode([(PROMPT, 1.0)]), model.encode([(NEGATIVE, 1.0)]), 5.0, IDS),
        z,
        noise,
        comfyui.to_latents(comfyui.pixels_of(mask)),
        lambda sigma: (model.table.network_timestep(sigma) - end) / (begin - end),
    )
    expected = comfyui.euler(denoise, comfyui.start(model.table, z, noise, sigmas[0]), sigmas, lambda s, t: noise)
    images = ours(tiny_pipe, image=image, mask=mask, steps=6, compat="comfyui,grey=timesteps")
    assert error(images, expected) < TOLERANCE


# ---- the model


@pytest.mark.parametrize(
    "sampler", quick(["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc"], "euler_ancestral")
)
def test_hand_over_to_the_refiner(
    sampler: str, model: comfyui.Model, tiny_folder: Path, refiner_folder: Path, error: Any
) -> None:
    """At a step, without new noise; the second sampler begins anew, and so does its noise."""
    refiner = comfyui.Model(tiny.refiner())
    sigmas = comfyui.sigmas_of(model.table, "normal", sampler, 8)
    parts = sigmas[:6], sigmas[5:]
    noise = comfyui.first_noise(5, SHAPE)
    positive, negative = ([(PROMPT, 1.0)], [(NEGATIVE, 1.0)])
    x = comfyui.start(model.table, torch.zeros(SHAPE, dtype=torch.float64), noise, sigmas[0])
    of_steps = [
        comfyui.tree(5, SHAPE, part) if sampler in comfyui.SDE else comfyui.on_a_card(5, SHAPE) for part in parts
    ]
    x = comfyui.sample(
        model.denoiser(model.encode(positive), model.encode(negative), 5.0, IDS), sampler, parts[0], x, of_steps[0]
    )
    second = refiner.denoiser(
        refiner.encode(positive), refiner.encode(negative), 5.0, (64, 64, 0, 0, 6.0), negative_ids=(64, 64, 0, 0, 2.5)
    )
    expected = comfyui.sample(second, sampler, parts[1], x, of_steps[1])
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    images = ours(pipe, sampler=sampler, steps=8, refine_at=5 / 8)
    assert error(images, expected) < TOLERANCE


def test_zero_terminal_snr(tiny_folder: Path, reference_pipe: Any, tmp_path: Path, error: Any) -> None:
    """The last sigma is 4518.8. float32 loses digits there, so the bound is wider."""
    shutil.copytree(tiny_folder, tmp_path / "v")
    config = tmp_path / "v/scheduler/scheduler_config.json"
    change = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    pipe = sdxl.Pipeline.from_pretrained(tmp_path / "v", dtype="float32", device="cpu")
    own = comfyui.Model(reference_pipe, "v", zero_snr=True)
    assert math.isclose(own.table.high, 4518.76, rel_tol=1e-5)
    expected = run(own, "euler", "sgm_uniform")
    assert error(ours(pipe, schedule="sgm_uniform", guidance_rescale=0.0), expected) < 4 * TOLERANCE


def test_a_latent_of_its_own_size(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    expected = run(model, shape=(1, 4, 5, 11), ids=(40, 88, 0, 0, 40, 88))
    assert error(ours(tiny_pipe, width=88, height=40), expected) < TOLERANCE


def test_given_arguments_win(tiny_pipe: sdxl.Pipeline) -> None:
    request = sdxl.Request("a (b)", compat="comfyui", prompt_syntax="plain", long_prompt="truncate", schedule="karras")
    assert (request.prompt_syntax, request.long_prompt) == ("plain", "truncate")
    plan = tiny_pipe.plan(request)
    assert plan.request.schedule == "karras"
    assert sdxl.Request("a (b)", compat="comfyui").prompt_syntax == "comfyui"
    image = Image.new("RGB", (64, 64))
    assert tiny_pipe.plan(sdxl.Request("a", image=image, strength=0.5, compat="comfyui")).request.strength == 0.5
