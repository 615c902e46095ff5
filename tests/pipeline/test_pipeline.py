"""The pipeline's own rules: seeds, batches, results, arguments."""

from __future__ import annotations

import json
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sdxl
from sdxl.errors import ArgumentError, NonFiniteError, SDXLWarning
from sdxl.images.image import open_picture
from sdxl.pipeline.network_loading import load as load_network
from sdxl.runtime import device
from sdxl.runtime.placement import Placement

QUICK: dict[str, Any] = {"steps": 3, "progress": False}
LATENT: dict[str, Any] = QUICK | {"output": "latent"}

# The matrix library sums in another order for another batch size. Measured over all samplers, 3 and 20 steps,
# float32: at most 1.8e-6 of the largest value.
BATCH_BOUND = 2e-5


def test_same_arguments_same_picture(tiny_pipe: sdxl.Pipeline) -> None:
    for sampler in ("euler_ancestral", "ddim", "dpmpp_2m"):
        arguments = {"sampler": sampler, "seed": 4, "eta": 1.0 if sampler == "ddim" else 0.0} | LATENT
        assert torch.equal(tiny_pipe("cat", **arguments).images, tiny_pipe("cat", **arguments).images)


def test_alone_and_in_a_batch(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    arguments = {"sampler": "euler_ancestral"} | LATENT
    batch = tiny_pipe(["cat", "dog"], num_images=2, seed=10, **arguments)
    assert batch.seeds == [10, 11, 12, 13]
    for i, (prompt, seed) in enumerate(zip(["cat", "cat", "dog", "dog"], batch.seeds, strict=True)):
        alone = tiny_pipe(prompt, seed=seed, **arguments)
        assert error(batch.images[i : i + 1], alone.images) < BATCH_BOUND


def test_noise_is_the_same_alone_and_in_a_batch() -> None:
    from sdxl.pipeline.generators import seeded
    from sdxl.pipeline.noise import Noise, TorchSource

    sources = ([TorchSource(each) for each in seeded(seeds)] for seeds in ([3, 7], [7]))
    batch, alone = (Noise(each, len(each), (4, 8, 8), torch.device("cpu")) for each in sources)
    for _ in range(3):
        assert torch.equal(batch.draw()[1:], alone.draw())


def test_given_latents_are_the_start(tiny_pipe: sdxl.Pipeline) -> None:
    start = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(6))
    given = tiny_pipe("cat", latents=start, seed=6, **LATENT)
    drawn = tiny_pipe("cat", seed=6, **LATENT)
    assert torch.equal(given.images, drawn.images)


def test_negative_sizes_in_a_batch(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """Where diffusers mixes up the rows of a batch: every image of a batch equals the one made alone."""
    arguments = {"negative_original_size": (16, 24), "negative_target_size": (8, 8), "seed": 1} | LATENT
    batch = tiny_pipe("cat", num_images=2, **arguments)
    alone = tiny_pipe("cat", **arguments)
    assert error(batch.images[:1], alone.images) < BATCH_BOUND
    plain = tiny_pipe("cat", **({"seed": 1} | LATENT))
    assert error(plain.images, alone.images) > 1e-4, "the negative sizes matter"
    # one given alone: the others take the positive values
    one = tiny_pipe("cat", negative_crop_top_left=(3, 5), **({"seed": 1} | LATENT))
    rest = {"negative_original_size": (64, 64), "negative_target_size": (64, 64)}
    same = tiny_pipe("cat", negative_crop_top_left=(3, 5), **(rest | {"seed": 1} | LATENT))
    assert torch.equal(one.images, same.images)


def test_clip_skip_takes_both_branches(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    arguments = {"negative_prompt": "dog", "seed": 1, "guidance_scale": 7.0} | LATENT
    expert = tiny_pipe.experts[0]
    first = expert.condition(tiny_pipe.plan(sdxl.Request("cat", negative_prompt="dog", clip_skip=1)))
    again = expert.condition(tiny_pipe.plan(sdxl.Request("dog", negative_prompt="cat", clip_skip=1)))
    assert torch.equal(first["negative"].context, again["positive"].context), "the negative is encoded as the positive"
    assert error(tiny_pipe("cat", clip_skip=1, **arguments).images, tiny_pipe("cat", **arguments).images) > 1e-4
    assert first["positive"].context.shape == (1, 77, 48)


def test_no_negative_means_zeros(tiny_pipe: sdxl.Pipeline) -> None:
    for text, zero in ((None, True), ("", False)):
        plan = tiny_pipe.plan(sdxl.Request("cat", negative_prompt=text))
        negative = tiny_pipe.experts[0].condition(plan)["negative"]
        pooled = negative.vector[:, :32]
        assert (not negative.context.any() and not pooled.any()) is zero


def test_steps(tiny_pipe: sdxl.Pipeline) -> None:
    steps = list(tiny_pipe.steps("cat", seed=1, steps=4, sampler="ddim"))
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert {step.total for step in steps} == {4}
    assert [step.sigma for step in steps] == sorted((step.sigma for step in steps), reverse=True)
    result = tiny_pipe("cat", seed=1, steps=4, sampler="ddim", output="latent", progress=False)
    assert torch.equal(steps[-1].latents, result.images)
    assert tiny_pipe.decode(steps[0].denoised).shape == (1, 3, 64, 64)


def test_help_shows_the_arguments() -> None:
    import inspect

    shown = inspect.signature(sdxl.Pipeline.__call__).parameters
    assert shown["num_images"].default == 1 and shown["steps"].default is None
    assert shown["guidance_scale"].default is None
    assert {"output", "seed", "negative_target_size", "latents"} <= set(shown)


def test_outputs(tiny_pipe: sdxl.Pipeline) -> None:
    kinds = {kind: tiny_pipe("cat", seed=1, output=kind, **QUICK).images for kind in ("pil", "tensor", "latent")}
    assert kinds["pil"][0].size == (64, 64)
    assert kinds["tensor"].dtype == kinds["latent"].dtype == torch.float32
    assert 0 <= kinds["tensor"].min() <= kinds["tensor"].max() <= 1
    assert torch.equal(tiny_pipe.decode(kinds["latent"]), kinds["tensor"])
    pixels = torch.tensor(list(kinds["pil"][0].get_flattened_data())).reshape(64, 64, 3).permute(2, 0, 1)
    assert torch.equal(pixels, (kinds["tensor"][0] * 255).round().long())


def test_parameters_make_the_picture_again(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    result = tiny_pipe(["cat", "dog"], prompt_2=["red", "photo"], height=40, width=48, **LATENT)
    assert all(0 <= seed < 2**32 for seed in result.seeds)
    request = dict(result.parameters[1]["request"])
    again = tiny_pipe(request.pop("prompt"), output="latent", progress=False, **request)
    assert error(again.images, result.images[1:]) < BATCH_BOUND


def test_nan_is_an_error(tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    pipe.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the UNet of the base model gave NaN"):
        pipe("cat", **QUICK)
    pipe.unet.conv_out.bias.fill_(0)
    pipe.vae.decoder.conv_out.bias.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="the VAE's decoder gave NaN"):
        pipe("cat", **QUICK)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(dtype: str, tiny_folder: Path, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype=dtype, device="cpu")
    ours = pipe("a red cat", seed=1, **LATENT).images
    assert error(ours, tiny_pipe("a red cat", seed=1, **LATENT).images) < 0.05


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 1001}, "width is 1001; it must be a multiple of 8: try 1000"),
        ({"height": 0}, "height is 0"),
        ({"steps": 0}, "steps is 0; it must be a whole number from 1 to 1000000"),
        ({"steps": 2000}, "steps is 2000; with the leading schedule it must be 1 to 999"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"sampler": "plms"}, "sampler is 'plms', which is left out on purpose. Try lms"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; it must be one of leading"),
        ({"eta": 0.5}, "eta is 0.5 but the sampler is euler; eta belongs to "),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_rescale": 2.0}, "guidance_rescale is 2.0"),
        ({"seed": [1, 2]}, "seed has 2 entries for 1 images"),
        ({"seed": -1}, "seed is -1"),
        ({"num_images": 0}, "num_images is 0"),
        ({"clip_skip": 3}, "clip_skip is 3; with text encoders of 3 layers it is at most 2"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 texts for 1 prompts"),
        ({"original_size": (0, 5)}, "original_size is (0, 5)"),
        ({"crop_top_left": (1,)}, "crop_top_left is (1,); it must be two whole numbers of at least 0"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, "latents have shape [2, 4, 8, 8]; they must be [1, 4, 8, 8]"),
        ({"width": 80000, "height": 80000}, "80000 x 80000 is more than"),
        ({"stepz": 3}, "stepz is not an argument; perhaps steps is meant"),
        ({"negative_prompt": np.zeros((4, 4))}, "it must be a text or a list of texts"),
        ({"sampler": np.zeros((4, 4))}, "it must be one of ddim, dpm_2"),
        ({"qqq": 3}, "qqq is not an argument; there are aesthetic_score, clip_skip, "),
        ({"guidance_scale": 10**400}, "guidance_scale is 1000000"),
        ({"guidance_scale": 1e38}, "it must be a number from 0 to 1000"),
        ({"original_size": (10**400, 1)}, "it must be two whole numbers of at least 1"),
        ({"aesthetic_score": 10**400}, "it must be a number from 0 to 100"),
        ({"seed": 2**64 - 1, "num_images": 2}, "the seeds of the next images are the next numbers"),
        ({"image": b"x" * 10**6}, "image is b'xxx"),
        ({"image": np.zeros((512, 512, 3))}, "give a PIL image, a path, a list of these, or a tensor"),
        ({"image": Image.new("RGB", (0, 10)), "outpaint": (8, 8, 8, 8)}, "image is 0 x 10 and has no pixels"),
        ({"image": torch.zeros(0, 4, 8, 8)}, "image has shape [0, 4, 8, 8]"),
        ({"output": "jpeg"}, "output is 'jpeg'"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_bad_arguments(arguments: dict[str, Any], sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(ArgumentError) as caught:
        tiny_pipe("cat", progress=False, **arguments)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_second_negative_prompt_alone_counts(tiny_pipe: sdxl.Pipeline) -> None:
    alone, both, neither = (
        tiny_pipe("cat", seed=1, **LATENT, **more).images
        for more in ({"negative_prompt_2": "dog"}, {"negative_prompt": "", "negative_prompt_2": "dog"}, {})
    )
    assert torch.equal(alone, both)
    assert not torch.equal(alone, neither)


def test_numpy_numbers_are_numbers(tiny_pipe: sdxl.Pipeline) -> None:
    plain: dict[str, Any] = {"seed": 3, "steps": 2, "height": 64, "guidance_scale": 4.0, "crop_top_left": (8, 16)}
    numpys = {
        "seed": np.int64(3),
        "steps": np.int32(2),
        "height": np.int64(64),
        "guidance_scale": np.float32(4),
        "crop_top_left": tuple(np.array([8, 16])),
    }
    results = [tiny_pipe("cat", output="latent", progress=False, **each) for each in (plain, numpys)]
    assert torch.equal(*(result.images for result in results))
    assert json.dumps(results[0].parameters) == json.dumps(results[1].parameters)


@pytest.mark.parametrize("offload", ["none", "block"])
def test_what_the_vae_cannot_take(offload: Any, tiny_folder: Path) -> None:
    """The same sentence, whether it would work on the whole or in strips."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload=offload)
    pixels = (
        "cat",
        torch.rand(3, 64, 64),
        torch.rand(1, 3, 68, 64),
        torch.rand(1, 4, 64, 64),
        torch.rand(0, 3, 64, 64),
    )
    for value in (*pixels, torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.full((1, 3, 64, 64), torch.nan)):
        with pytest.raises(ArgumentError, match=r"^pixels "):
            pipe.encode(value)
    for value in (
        "cat",
        torch.rand(4, 8, 8),
        torch.rand(1, 5, 8, 8),
        torch.rand(0, 4, 8, 8),
        torch.full((1, 4, 8, 8), torch.nan),
    ):
        with pytest.raises(ArgumentError, match=r"^latents "):
            pipe.decode(value)


def test_noise_of_a_posterior_has_the_shape_of_the_latents(tiny_pipe: sdxl.Pipeline) -> None:
    pixels = torch.rand(2, 3, 64, 48)
    for noise in (
        torch.randn(3, 4, 8, 6),
        torch.randn(2, 4, 6, 8),
        torch.randn(2, 3, 8, 6),
        torch.zeros(2, 4, 8, 6).int(),
        1,
    ):
        with pytest.raises(
            ArgumentError, match=r"noise is .*; expected standard normal numbers, a tensor \[2, 4, 8, 6\]"
        ):
            tiny_pipe.encode(pixels, noise)  # type: ignore[arg-type]
    one, several = torch.randn(2, 4, 8, 6), torch.randn(5, 4, 8, 6)
    assert tiny_pipe.encode(pixels, one).shape == one.shape
    assert tiny_pipe.encode(pixels[:1], several).shape == several.shape


def test_pixels_in_another_range_give_a_warning(tiny_pipe: sdxl.Pipeline) -> None:
    pixels = torch.rand(1, 3, 64, 64)
    tiny_pipe.encode(pixels * 1.1 - 0.05)  # as a bicubic filter leaves them
    for value in (pixels * 255, pixels * 2 - 1):
        with pytest.warns(SDXLWarning, match=r"pixels have values from .* to .*, and 0\.\.1 is expected"):
            tiny_pipe.encode(value)


def test_a_photo_of_many_times_the_size_gives_a_warning(tiny_pipe: sdxl.Pipeline) -> None:
    photo = Image.new("RGB", (240, 160))
    with pytest.warns(SDXLWarning, match="worked on at its own 240 x 160, 9 times the size that the model"):
        tiny_pipe.plan(sdxl.Request("cat", image=photo))
    tiny_pipe.plan(sdxl.Request("cat", image=photo, width=64, height=64))


def test_the_vae_is_read_once_for_all_pictures(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload="stage")
    loads, load = [], pipe.residency.model.vae._load
    monkeypatch.setattr(pipe.residency.model.vae, "_load", lambda: loads.append(1) or load())
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    pipe(["cat"] * 3, image=pictures, steps=4, progress=False)
    assert len(loads) == 2, "to encode and to decode"
    monkeypatch.setattr("sdxl.pipeline.latents.check_finite", lambda *_: 1 / 0)
    for work in (lambda: pipe.encode(torch.rand(1, 3, 64, 64)), lambda: pipe.decode(torch.zeros(1, 4, 8, 8))):
        with pytest.raises(ZeroDivisionError):
            work()
        assert pipe.residency.model.vae._loaded is None


def test_threads_leave_the_process_as_it_was(tiny_folder: Path, tmp_path: Path) -> None:
    """Neither torch's threads nor the filters of warnings change for good."""
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    threads, filters = torch.get_num_threads(), list(warnings.filters)
    for _ in range(3):
        device._measure.cache_clear()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: device.choose_dtype(None, torch.device("cpu")), range(8)))
            list(pool.map(lambda _: open_picture(tmp_path / "p.png"), range(40)))
            assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {threads}
    assert warnings.filters == filters


def test_refiner_loads(tmp_path: Path) -> None:
    import tiny

    tiny.save_refiner(tmp_path)
    sdxl.convert(tmp_path, tmp_path / "refiner.safetensors")
    for path in (tmp_path, tmp_path / "refiner.safetensors"):
        pipe = sdxl.Pipeline.from_pretrained(path, dtype="float32", device="cpu")
        assert pipe.info.config.kind == "refiner"
        assert not pipe.info.zero_negative
        with pytest.raises(ArgumentError, match="this model is an SDXL refiner, which does not generate from text"):
            pipe("cat")


def test_replaced_parts(tiny_folder: Path, tmp_path: Path, tiny_pipe: sdxl.Pipeline) -> None:
    import tiny

    tiny.unet(seed=8).save_pretrained(tmp_path / "unet")
    load = sdxl.Pipeline.from_pretrained
    pipe = load(tiny_folder, dtype="float32", device="cpu", unet=tmp_path / "unet", vae=tiny_folder / "vae")
    ours, old = (each("cat", seed=1, **LATENT).images for each in (pipe, tiny_pipe))
    assert not torch.equal(ours, old)
    assert torch.equal(pipe.decode(old), tiny_pipe.decode(old))


def test_loading_copies_nothing_where_the_dtype_matches(tiny_folder: Path) -> None:
    """Two loads of one float32 file on a CPU share the pages of the mapped file."""
    from sdxl.weights.checkpoint import open_checkpoint

    part = open_checkpoint(tiny_folder).components["unet"]
    read = dict(part.tensors())
    model = load_network(part, Placement(torch.device("cpu"), torch.float32, torch.float32))
    assert all(model.state_dict()[name].data_ptr() == value.data_ptr() for name, value in read.items())


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        (
            "base",
            {"negative_prompt": "dog", "guidance_scale": 1},
            "negative_prompt has no effect: guidance_scale 1 turns",
        ),
        (
            "base",
            {"guidance_rescale": 0.7, "guidance_scale": 0.5},
            "guidance_rescale has no effect: guidance_scale 0.5",
        ),
        ("base", {"guidance_interval": (0.3, 5), "guidance_scale": 1}, "guidance_interval has no effect"),
        ("base", {"negative_target_size": (8, 8), "guidance_scale": 1}, "negative_target_size has no effect"),
        ("base", {"aesthetic_score": 7.0}, "aesthetic_score has no effect: no refiner is loaded"),
        (
            "refiner",
            {"prompt_2": "dog", "image": Image.new("RGB", (64, 64))},
            "prompt_2 has no effect: a refiner has one",
        ),
        ("base", {"negative_prompt": "", "guidance_scale": 1}, None),
        ("base", {"negative_prompt": "dog", "aesthetic_score": 6.0}, None),
        ("refiner", {"aesthetic_score": 7.0, "image": Image.new("RGB", (64, 64))}, None),
    ],
)
def test_what_has_no_effect_is_said(
    model: str, arguments: dict[str, Any], sentence: str | None, tiny_folder: Path, refiner_folder: Path
) -> None:
    pipe = sdxl.Pipeline.from_pretrained(
        tiny_folder if model == "base" else refiner_folder, device="cpu", offload="stage"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SDXLWarning)
        pipe.plan(sdxl.Request("cat", **arguments))
    said = [str(each.message) for each in caught if each.category is SDXLWarning]
    assert len(said) == (sentence is not None)
    assert all(sentence is not None and sentence in each for each in said)


def test_progress_is_shown_only_where_it_is_asked_for(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm makes a semaphore, which Python reports as leaked by the workers of a pool."""
    from tqdm import auto

    bars: list[Any] = []

    class Bar(auto.tqdm):  # type: ignore[misc]
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            bars.append(self)

    monkeypatch.setattr(auto, "tqdm", Bar)
    tiny_pipe("cat", seed=1, steps=3, progress=False)
    assert not bars
    tiny_pipe("cat", seed=1, steps=3)
    assert [(bar.n, bar.total) for bar in bars] == [(3, 3)]
    monkeypatch.setattr(sys, "stderr", None)  # a program without a terminal: pythonw, PyInstaller --windowed
    assert len(tiny_pipe("cat", seed=1, steps=3)) == 1
    assert len(bars) == 1
