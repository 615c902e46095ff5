"""The pipeline's own rules: seeds, batches, results, arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sdxl
from sdxl.device import Placement
from sdxl.errors import ArgumentError, NonFiniteError

QUICK = {"steps": 3, "progress": False}
LATENT = QUICK | {"output": "latent"}

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
    from sdxl.pipeline import Noise

    batch, alone = (Noise(seeds, (4, 8, 8), torch.device("cpu")) for seeds in ([3, 7], [7]))
    for _ in range(3):
        assert torch.equal(batch()[1:], alone())


def test_given_latents_are_the_start(tiny_pipe: sdxl.Pipeline) -> None:
    start = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(6))
    given = tiny_pipe("cat", latents=start, seed=6, **LATENT)
    drawn = tiny_pipe("cat", seed=6, **LATENT)
    assert torch.equal(given.images, drawn.images)


def test_negative_sizes_in_a_batch(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """Where diffusers mixes up the rows of a batch: every picture of a batch equals the one made alone."""
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
    positive, negative = expert.condition(tiny_pipe.plan(sdxl.Request("cat", negative_prompt="dog", clip_skip=1)))
    again, _ = expert.condition(tiny_pipe.plan(sdxl.Request("dog", negative_prompt="cat", clip_skip=1)))
    assert torch.equal(negative.context, again.context), "the negative is encoded as the positive is"
    assert error(tiny_pipe("cat", clip_skip=1, **arguments).images, tiny_pipe("cat", **arguments).images) > 1e-4
    assert positive.context.shape == (1, 77, 48)


def test_no_negative_means_zeros(tiny_pipe: sdxl.Pipeline) -> None:
    for text, zero in ((None, True), ("", False)):
        _, negative = tiny_pipe.experts[0].condition(tiny_pipe.plan(sdxl.Request("cat", negative_prompt=text)))
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
    assert shown["steps"].default == 30
    assert shown["guidance_scale"].default == 5.0
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
        ({"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
        ({"steps": 2000}, "steps is 2000; with the leading schedule it must be 1 to 999"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"sampler": "plms"}, "sampler is 'plms'; it must be one of ddim, euler"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; it must be one of leading"),
        ({"eta": 0.5}, "eta is 0.5 but the sampler is euler; eta belongs to ddim"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_rescale": 2.0}, "guidance_rescale is 2.0"),
        ({"seed": [1, 2]}, "seed has 2 entries for 1 pictures"),
        ({"seed": -1}, "seed is -1"),
        ({"num_images": 0}, "num_images is 0"),
        ({"clip_skip": 3}, "clip_skip is 3; with text encoders of 3 layers it is at most 2"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 texts for 1 prompts"),
        ({"original_size": (0, 5)}, "original_size is (0, 5)"),
        ({"crop_top_left": (1,)}, "crop_top_left is (1,); it must be two whole numbers of at least 0"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, "latents have shape [2, 4, 8, 8]; they must be [1, 4, 8, 8]"),
        ({"width": 80000, "height": 80000}, "80000 x 80000 is more than"),
        ({"stepz": 3}, "stepz is not an argument"),
        ({"output": "jpeg"}, "output is 'jpeg'"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_bad_arguments(arguments: dict[str, Any], sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(ArgumentError) as caught:
        tiny_pipe("cat", progress=False, **arguments)
    assert sentence in str(caught.value)


def test_refiner_loads(tmp_path: Path) -> None:
    import tiny

    tiny.save_refiner(tmp_path)
    sdxl.convert(tmp_path, tmp_path / "refiner.safetensors")
    for path in (tmp_path, tmp_path / "refiner.safetensors"):
        pipe = sdxl.Pipeline.from_pretrained(path, dtype="float32", device="cpu")
        assert pipe.about.config.kind == "refiner"
        assert not pipe.about.zero_negative
        with pytest.raises(ArgumentError, match="this model is an SDXL refiner, which does not draw from text alone"):
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
    from sdxl.checkpoint import open_checkpoint

    part = open_checkpoint(tiny_folder).components["unet"]
    read = dict(part.tensors())
    model = part.load(Placement(torch.device("cpu"), torch.float32, torch.float32))
    assert all(model.state_dict()[name].data_ptr() == value.data_ptr() for name, value in read.items())
