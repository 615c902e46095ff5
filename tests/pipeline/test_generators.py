"""torch generators of the caller: the images of diffusers with the same generators, and what the records say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.errors import ArgumentError
from sdxl.pipeline.generators import read_generators

TOLERANCE = 1e-4  # as in tests/test_parity.py
PROMPT = "A mecha robot in a favela"
LATENT: dict[str, Any] = {"output": "latent", "progress": False}


def fresh(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def used(seed: int) -> torch.Generator:
    generator = fresh(seed)
    torch.randn(3, generator=generator)
    return generator


# ---- against diffusers -----------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[int, Any]] = {  # images, and the generators
    "one for one image": (1, lambda: fresh(5)),
    "one that was drawn from": (1, lambda: used(5)),
    "one for the whole batch": (3, lambda: fresh(5)),
    "one for each image": (3, lambda: [fresh(5), fresh(9), used(2)]),
    "the same for each image": (2, lambda: [fresh(5)] * 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_text_to_image(kind: str, sampler: str, reference_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    import tiny

    count, make = KINDS[kind]
    theirs, ours = make(), make()
    old, reference_pipe.scheduler = reference_pipe.scheduler, tiny.scheduler(sampler, "leading")
    try:
        expected = reference_pipe(
            PROMPT, generator=theirs, num_images_per_prompt=count, num_inference_steps=4, output_type="latent"
        ).images
    finally:
        reference_pipe.scheduler = old
    result = tiny_pipe(PROMPT, generator=ours, num_images=count, steps=4, sampler=sampler, **LATENT)
    assert error(result.images, expected) < TOLERANCE
    for one, other in zip(
        ours if isinstance(ours, list) else [ours], theirs if isinstance(theirs, list) else [theirs], strict=True
    ):
        assert torch.equal(one.get_state(), other.get_state()), "both have drawn as much"


@pytest.mark.parametrize("kind", KINDS)
def test_image_to_image(kind: str, reference_pipe: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """The posterior of one source for the whole batch is drawn once from a single generator."""
    import diffusers
    import tiny

    count, make = KINDS[kind]
    which = diffusers.StableDiffusionXLImg2ImgPipeline(**reference_pipe.components, add_watermarker=False)
    which.set_progress_bar_config(disable=True)
    which.scheduler = tiny.scheduler("euler_ancestral", "leading")
    common: dict[str, Any] = {"prompt": PROMPT, "image": tiny.picture(1), "strength": 0.6}
    expected = which(
        generator=make(), num_images_per_prompt=count, num_inference_steps=6, output_type="latent", **common
    ).images
    result = tiny_pipe(
        generator=make(), num_images=count, steps=6, sampler="euler_ancestral", guidance_scale=5.0, **common, **LATENT
    )
    assert error(result.images, expected) < TOLERANCE


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [0.6, pytest.param(1.0, marks=pytest.mark.slow)])
def test_inpainting_with_one_generator(
    channels: int, strength: float, tiny_pipe: sdxl.Pipeline, inpainting_pipe: sdxl.Pipeline, error: Any
) -> None:
    import tiny

    which = tiny.inpainting(channels)
    which.scheduler = tiny.scheduler("euler_ancestral", "leading")
    common: dict[str, Any] = {"prompt": PROMPT, "image": tiny.picture(1), "strength": strength, "guidance_scale": 5.0}
    expected = which(
        mask_image=tiny.mask(2),
        generator=fresh(5),
        num_images_per_prompt=2,
        num_inference_steps=6,
        output_type="latent",
        height=64,
        width=64,
        **common,
    ).images
    pipe = tiny_pipe if channels == 4 else inpainting_pipe
    result = pipe(
        mask=tiny.mask(2), generator=fresh(5), num_images=2, steps=6, sampler="euler_ancestral", **common, **LATENT
    )
    assert error(result.images, expected) < TOLERANCE


# ---- the rules -------------------------------------------------------------------------------------------------------


def test_a_fresh_generator_is_a_seed(tiny_pipe: sdxl.Pipeline) -> None:
    common = {"steps": 3, "sampler": "euler_ancestral", **LATENT}
    expected = tiny_pipe(PROMPT, seed=[7, 3], num_images=2, **common)
    result = tiny_pipe(PROMPT, generator=[fresh(7), fresh(3)], num_images=2, **common)
    assert torch.equal(result.images, expected.images)  # type: ignore[arg-type]
    assert result.seeds == [7, 3]
    assert result.parameters == expected.parameters
    alone = tiny_pipe(PROMPT, generator=fresh(7), **common)
    assert alone.seeds == [7]
    assert "generator" not in alone.parameters[0]


def test_a_generator_goes_on_from_call_to_call(tiny_pipe: sdxl.Pipeline) -> None:
    generator = fresh(7)
    first, second = (tiny_pipe(PROMPT, generator=generator, steps=2, **LATENT) for _ in range(2))
    assert not torch.equal(first.images, second.images)  # type: ignore[arg-type]
    assert (first.seeds, second.seeds) == ([7], [None])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: used(1), "its generator had been drawn from before"),
        (lambda: [fresh(1), used(1)], "its generator had been drawn from before"),
    ],
)
def test_what_no_seed_stands_for_is_recorded(make: Any, reason: str, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    generator = make()
    count = len(generator) if isinstance(generator, list) else 1
    result = tiny_pipe(PROMPT, generator=generator, num_images=count, steps=1, progress=False)
    assert result.seeds == [None] * count
    for record in result.parameters:
        assert (record["generator"], record["request"]["seed"]) == (reason, None)
        json.dumps(record)
    assert "Seed" not in result[0].info["parameters"]


def test_such_an_image_is_not_generated_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    pipe("cat", generator=fresh(3), num_images=2, steps=1, progress=False).save("p.png")
    flags = ["generate", "--from", "p-1.png", "--device", "cpu", "--quiet", "--output", "again.png"]
    assert main(flags) == 2
    assert (
        "p-1.png cannot be generated again: one generator drew the noise of several images" in capsys.readouterr().err
    )
    assert not Path("again.png").exists()
    assert main([*flags, "--seed", "4"]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"generator": 3}, "generator is 3; expected a torch.Generator, or a list of one for each image"),
        ({"generator": [fresh(1), 2], "num_images": 2}, "expected a torch.Generator"),
        ({"generator": [fresh(1)], "num_images": 2}, "generator has 1 entries for 2 images"),
        ({"generator": []}, "generator has 0 entries for 1 images"),
        ({"generator": fresh(1), "seed": 1}, "generator and seed are both given"),
    ],
)
def test_bad_generators(arguments: dict[str, Any], sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    for call in (tiny_pipe, tiny_pipe.steps):
        with pytest.raises(ArgumentError, match=sentence):
            call("cat", **arguments)


def test_steps_take_a_generator(tiny_pipe: sdxl.Pipeline) -> None:
    last = [*tiny_pipe.steps(PROMPT, generator=used(4), steps=2)][-1]
    expected = tiny_pipe(PROMPT, generator=used(4), steps=2, **LATENT)
    assert torch.equal(last.latents, expected.images)  # type: ignore[arg-type]
    assert last.result("latent").seeds == [None]


def test_where_memory_runs_out_the_generators_begin_again(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    """The second attempt has the noise of the first."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload="auto")
    assert pipe.offload == "stage"
    expected = pipe("cat", generator=used(4), steps=2, **LATENT)
    from sdxl.pipeline import loop

    run, tries = loop._expert_steps, []

    def fail_once(*arguments: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError
        return run(*arguments)

    monkeypatch.setattr(loop, "_expert_steps", fail_once)
    with pytest.warns(sdxl.SDXLWarning, match="memory ran out"):
        result = pipe("cat", generator=used(4), steps=2, **LATENT)
    assert len(tries) == 2
    assert error(result.images, expected.images) < 1e-5


def test_a_generator_of_another_device_is_no_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCuda(torch.Generator):
        device = torch.device("cuda")  # type: ignore[assignment]

    read = read_generators(OnCuda(), 1)
    assert (read.seeds, read.reason) == (None, "its noise was drawn on cuda")


def test_images_of_several_sources_with_one_generator(tiny_pipe: sdxl.Pipeline) -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    result = tiny_pipe(["cat", "dog"], image=images, num_images=2, generator=fresh(1), steps=4, **LATENT)
    assert result.images.shape == (4, 4, 8, 8)  # type: ignore[union-attr]
