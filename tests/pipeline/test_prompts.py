"""Prompts of several chunks, weighted, edited and composed, through the whole pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch import Tensor

import sdxl
from sdxl.jobs import local, open_folder, read_job, work
from sdxl.sampling.samplers import SAMPLERS

LATENT: dict[str, Any] = {"steps": 3, "output": "latent", "progress": False}
BATCH_BOUND = 2e-5  # as in test_pipeline.py: the matrix library sums in another order for another batch size
LONG = "a red cat, " * 20 + "photo of a dog, " * 20 + "the end"  # three chunks
TWO = "a robot in the favela, " * 15  # two
PROMPTS = [LONG, "a dog BREAK (a cat:1.3) BREAK the favela", "mecha " * 160]
NEGATIVES = ["red photo", TWO, ""]
A1111: dict[str, Any] = LATENT | {"prompt_syntax": "a1111"}


def latents(pipe: sdxl.Pipeline, prompt: Any, **more: Any) -> Tensor:
    images = pipe(prompt, **more).images
    assert isinstance(images, Tensor)
    return images


def lengths(pipe: sdxl.Pipeline, **more: Any) -> dict[str, list[int]]:
    """The number of tokens of each context, by branch."""
    plan = pipe.plan(sdxl.Request(**more))
    encodings = pipe.experts[0].encode(plan, plan.guider.names)
    return {name: [len(context) for context in each.contexts] for name, each in encodings.items()}


@pytest.mark.parametrize("prompt", ["a red cat", "hello! it's 50 %, {a} <b> - c_d", "photo of a cat, " * 12])
def test_within_one_chunk_every_syntax_gives_the_same_image(prompt: str, tiny_pipe: sdxl.Pipeline) -> None:
    wanted = latents(tiny_pipe, prompt, seed=1, negative_prompt="dog", **LATENT)
    for syntax in ("a1111", "comfyui"):
        for emphasis in ("original", "no_norm", "comfyui", "none"):
            for long_prompt in ("chunk", "truncate"):
                more = {"prompt_syntax": syntax, "emphasis": emphasis, "long_prompt": long_prompt}
                found = latents(tiny_pipe, prompt, seed=1, negative_prompt="dog", **LATENT, **more)
                assert torch.equal(found, wanted), more


def batch_equals_each_alone(pipe: sdxl.Pipeline, error: Any, **more: Any) -> None:
    arguments = A1111 | more
    batch = latents(pipe, PROMPTS, negative_prompt=NEGATIVES, seed=5, **arguments)
    for n, (prompt, negative) in enumerate(zip(PROMPTS, NEGATIVES, strict=True)):
        alone = latents(pipe, prompt, negative_prompt=negative, seed=5 + n, **arguments)
        assert error(batch[n : n + 1], alone) < BATCH_BOUND, n


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_of_unequal_lengths_with_every_sampler(sampler: str, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    scale = 1.5 if SAMPLERS[sampler].with_pair else 5.0
    batch_equals_each_alone(tiny_pipe, error, sampler=sampler, guidance_scale=scale)


def test_the_lengths_of_that_batch(tiny_pipe: sdxl.Pipeline) -> None:
    found = lengths(tiny_pipe, prompt=PROMPTS, negative_prompt=NEGATIVES, prompt_syntax="a1111")
    assert found == {"negative": [77, 154, 77], "positive": [231, 231, 231]}


def test_zeros_for_the_negative(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """No negative prompt is zeros of any length."""
    prompts = [LONG, "a cat", TWO]
    batch = latents(tiny_pipe, prompts, seed=5, **LATENT)
    for n, prompt in enumerate(prompts):
        assert error(batch[n : n + 1], latents(tiny_pipe, prompt, seed=5 + n, **LATENT)) < BATCH_BOUND


def test_several_images_of_each_prompt(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    batch = latents(tiny_pipe, ["a cat", LONG], num_images=2, seed=5, negative_prompt=TWO, **LATENT)
    for n, prompt in enumerate(["a cat", "a cat", LONG, LONG]):
        alone = latents(tiny_pipe, prompt, seed=5 + n, negative_prompt=TWO, **LATENT)
        assert error(batch[n : n + 1], alone) < BATCH_BOUND


def test_five_and_seven_chunks(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """Equal to repeating each context to the common 35 chunks."""
    prompt, negative = " BREAK ".join(["cat"] * 5), " BREAK ".join(["a dog"] * 7)
    arguments = {"prompt_syntax": "a1111", "negative_prompt": negative}
    assert lengths(tiny_pipe, prompt=prompt, **arguments) == {"negative": [539], "positive": [385]}
    encoded = tiny_pipe.encode_prompt(prompt, **arguments)
    assert encoded.context.shape == (1, 385, 48)
    assert encoded.negative_context.shape == (1, 539, 48)
    unet, x, t = tiny_pipe.unet, torch.randn(2, 4, 8, 8), torch.tensor([500.0, 500.0])
    both = torch.cat([encoded.negative_context.repeat(1, 5, 1), encoded.context.repeat(1, 7, 1)])
    with torch.no_grad():
        wanted = unet(x, t, both, torch.cat([encoded.negative_vector, encoded.vector]))
        for n, (context, vector) in enumerate(
            ((encoded.negative_context, encoded.negative_vector), (encoded.context, encoded.vector))
        ):
            assert error(unet(x[n : n + 1], t[:1], context, vector), wanted[n : n + 1]) < 1e-5


def test_encode_prompt_with_unequal_lengths(tiny_pipe: sdxl.Pipeline) -> None:
    """Two prompts of one and three chunks are of one length: the shorter one is repeated."""
    encoded = tiny_pipe.encode_prompt(["a cat", LONG], negative_prompt=TWO)
    assert encoded.context.shape == (2, 231, 48)
    assert encoded.negative_context.shape == (2, 154, 48)
    short = tiny_pipe.encode_prompt("a cat").context
    assert torch.allclose(encoded.context[:1], short.repeat(1, 3, 1), atol=1e-6)


@pytest.mark.parametrize(
    "prompts",
    [
        {"prompt": "[a cat:a dog:0.5]"},
        {"prompt": "a cat AND a dog"},
        {"prompt": ["a bird", "[a cat|a dog]"]},
        {"prompt": "a cat", "negative_prompt": "[a dog:a bird:2]"},
    ],
)
def test_encode_prompt_of_several_texts_is_an_error(prompts: dict[str, Any], tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(
        sdxl.ArgumentError, match=r"a prompt is several texts, such as 'a (cat|dog)' and ' ?a (dog|bird)'"
    ):
        tiny_pipe.encode_prompt(prompt_syntax="a1111", **prompts)
    tiny_pipe.encode_prompt("(a cat:1.2)", negative_prompt="a [dog]", prompt_syntax="a1111")


def test_prompts_of_the_encoders_with_unequal_lengths(tiny_pipe: sdxl.Pipeline) -> None:
    """The shorter of both has empty chunks at its end."""
    encoded = tiny_pipe.encode_prompt("a cat", prompt_2=LONG)
    empty = tiny_pipe.encode_prompt("")
    assert encoded.context.shape == (1, 231, 48)
    assert torch.allclose(encoded.context[:, 77:154, :16], empty.context[..., :16], atol=1e-5)
    assert torch.allclose(encoded.context[..., 16:], tiny_pipe.encode_prompt(LONG).context[..., 16:], atol=1e-5)


def test_with_the_refiner(tiny_folder: Path, refiner_folder: Path, error: Any) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    batch_equals_each_alone(pipe, error, steps=4, refine_at=0.5)


@pytest.mark.parametrize("offload", ["none", "block"])
def test_in_a_job(offload: Any, tiny_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """With the cache of texts: rows of different lengths, weights, and one text in two syntaxes."""
    common = {"steps": 2, "negative_prompt": TWO}
    lines: list[dict[str, Any]] = [
        common | {"prompt": LONG},
        common | {"prompt": "a (red:1.4) cat", "prompt_syntax": "a1111"},
        common | {"prompt": "a (red:1.4) cat", "prompt_syntax": "a1111", "emphasis": "no_norm"},
        common | {"prompt": "a (red:1.4) cat", "prompt_syntax": "comfyui"},
        common | {"prompt": "[cat:dog:1] AND red", "prompt_syntax": "a1111"},
        common | {"prompt": "a cat", "negative_prompt": "dog"},
    ]
    file = tmp_path / "job.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload=offload)
    pipe.prepare_for_many()
    job = read_job(file, {}, {})
    with open_folder(tmp_path / "out", job, 5) as folder:
        for progress in work(folder.batches(4), folder, local(pipe)):
            assert progress.error is None
    for n, line in enumerate(lines):
        alone = tiny_pipe(**line, seed=5 + n, progress=False).images[0]
        assert not isinstance(alone, Tensor)
        with Image.open(tmp_path / f"out/{n + 1:05}.png") as written:
            assert np.asarray(ImageChops.difference(written, alone)).max() <= 1


def test_editing_is_one_prompt_after_the_other(tiny_pipe: sdxl.Pipeline) -> None:
    """Steps before the change are those of the first text alone; all of them, where the change is at the end."""
    arguments: dict[str, Any] = {"seed": 2, "steps": 4, "prompt_syntax": "a1111"}
    edited = [step.latents for step in tiny_pipe.steps("a [cat:dog:0.5]", **arguments)]
    cat, dog = ([step.latents for step in tiny_pipe.steps(f"a {name}", **arguments)] for name in ("cat", "dog"))
    assert all(torch.allclose(edited[n], cat[n], atol=1e-5) for n in (0, 1))
    assert not torch.allclose(edited[2], cat[2], atol=1e-3)
    assert not torch.allclose(edited[3], dog[3], atol=1e-3)
    for prompt, same in (("[cat:dog:1.0]", "cat"), ("[cat:dog:0]", "dog"), ("[cat|cat]", "cat"), ("[cat::9]", "cat")):
        assert torch.allclose(
            latents(tiny_pipe, prompt, seed=2, **A1111), latents(tiny_pipe, same, seed=2, **A1111), atol=1e-5
        )


def guess(
    pipe: sdxl.Pipeline, x: Tensor, sigma: float, t: float, texts: list[tuple[str, float]], scale: float
) -> Tensor:
    """Of the image without noise, by the networks alone: u + scale * (sum of w (c - u)), with u of the prompt "red"."""
    encoded = [(pipe.encode_prompt(text), weight) for text, weight in texts]
    negative = pipe.encode_prompt("red")
    scaled, time = x / (sigma**2 + 1) ** 0.5, torch.tensor([t])
    with torch.no_grad():
        u = pipe.unet(scaled, time, negative.context, negative.vector)
        noise = u + scale * sum(
            weight * (pipe.unet(scaled, time, own.context, own.vector) - u) for own, weight in encoded
        )
    return x - sigma * noise


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a [cat|dog]", [[("a cat", 1.0)], [("a dog", 1.0)]] * 2),
        ("a [cat:dog:0.75]", [[("a cat", 1.0)]] * 3 + [[("a dog", 1.0)]]),
        (
            "a cat :0.7 AND [dog:mecha:1] :0.9",
            [[("a cat", 0.7), ("dog", 0.9)]] + [[("a cat", 0.7), ("mecha", 0.9)]] * 3,
        ),
    ],
)
def test_each_step_has_the_texts_in_force(prompt: str, texts: Any, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """Against the networks called by hand, in every step."""
    arguments: dict[str, Any] = {"seed": 2, "steps": 4, "sampler": "euler", "guidance_scale": 3.0}
    request = sdxl.Request(prompt, negative_prompt="red", prompt_syntax="a1111", **arguments)
    plan = tiny_pipe.plan(request)
    steps = list(tiny_pipe.steps(prompt, negative_prompt="red", prompt_syntax="a1111", **arguments))
    for n in range(1, 4):
        sigma, t = plan.sigmas[n], plan.schedule.timesteps[n]
        wanted = guess(tiny_pipe, steps[n - 1].latents, sigma, t, texts[n], 3.0)
        assert error(steps[n].denoised, wanted) < 1e-4, n


def test_the_steps_of_a_schedule_are_those_that_run(tiny_pipe: sdxl.Pipeline, tiny_folder: Path) -> None:
    """With strength, those that are left of them."""
    plan = tiny_pipe.plan(
        sdxl.Request("[cat:dog:0.5]", steps=10, strength=0.4, image=torch.zeros(1, 4, 8, 8), prompt_syntax="a1111")
    )
    texts = [plan.branches.texts[plan.guider.branches(sigma)[-1]].prompts[0] for sigma in plan.sigmas[:-1]]
    assert texts == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_and(sampler: str, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """A prompt AND itself is itself with the sum of the weights as the guidance scale."""
    arguments = A1111 | {"seed": 2, "negative_prompt": "red", "sampler": sampler}
    twice = latents(tiny_pipe, "a cat :0.7 AND a cat :0.8", guidance_scale=4.0, **arguments)
    assert error(twice, latents(tiny_pipe, "a cat", guidance_scale=6.0, **arguments)) < 1e-4
    halves = latents(tiny_pipe, "a cat :0.5 AND a dog :0.5", guidance_scale=4.0, **arguments)
    assert error(halves, latents(tiny_pipe, "a dog :0.5 AND a cat :0.5", guidance_scale=4.0, **arguments)) < 1e-4
    assert error(halves, latents(tiny_pipe, "a cat", guidance_scale=4.0, **arguments)) > 1e-2
    alone = latents(tiny_pipe, "a cat AND a dog :0", guidance_scale=4.0, **arguments)
    assert error(alone, latents(tiny_pipe, "a cat", guidance_scale=4.0, **arguments)) < 1e-4


def test_and_of_unequal_lengths_and_numbers_in_a_batch(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    prompts = [f"{LONG} AND a dog :0.5", "a cat", f"[cat:dog:1] AND {TWO} AND red :-0.3"]
    batch = latents(tiny_pipe, prompts, negative_prompt=NEGATIVES, seed=5, **A1111)
    for n, (prompt, negative) in enumerate(zip(prompts, NEGATIVES, strict=True)):
        alone = latents(tiny_pipe, prompt, negative_prompt=negative, seed=5 + n, **A1111)
        assert error(batch[n : n + 1], alone) < BATCH_BOUND


def test_and_with_the_refiner(tiny_folder: Path, refiner_folder: Path, error: Any) -> None:
    """The schedule goes on over the hand-off, and both experts compose."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    arguments = A1111 | {"steps": 4, "refine_at": 0.5, "seed": 3, "negative_prompt": "red"}
    twice = latents(pipe, "a cat :0.7 AND a cat :0.8", guidance_scale=4.0, **arguments)
    assert error(twice, latents(pipe, "a cat", guidance_scale=6.0, **arguments)) < 1e-4
    late = latents(pipe, "a [cat:dog:0.75]", **arguments)
    assert error(late, latents(pipe, "a cat", **arguments)) > 1e-3, "the change is the refiner's"
    assert error(latents(pipe, "a [cat:dog:1.0]", **arguments), latents(pipe, "a cat", **arguments)) < 1e-5


def test_parts_without_guidance(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """They are composed too; where their weights do not add up to 1, with the negative prompt."""
    arguments = A1111 | {"seed": 2, "guidance_scale": 1.0}
    one = latents(tiny_pipe, "a cat :0.5 AND a cat :0.5", **arguments)
    assert error(one, latents(tiny_pipe, "a cat", **arguments)) < 1e-4
    three = latents(tiny_pipe, "a cat :1.5 AND a cat :1.5", negative_prompt="red", **arguments)
    guided = arguments | {"guidance_scale": 3.0, "negative_prompt": "red"}
    assert error(three, latents(tiny_pipe, "a cat", **guided)) < 1e-4


def test_parts_and_an_interval(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    arguments = A1111 | {"seed": 2, "guidance_interval": (1.0, 4.0), "negative_prompt": "red"}
    one = latents(tiny_pipe, "a cat :0.5 AND a cat :0.5", **arguments)
    assert error(one, latents(tiny_pipe, "a cat", **arguments)) < 1e-4
    nowhere = A1111 | {"seed": 2, "guidance_interval": (900.0, 1000.0), "guidance_scale": 4.0, "negative_prompt": "red"}
    two = latents(tiny_pipe, "a cat AND a cat", **nowhere)
    doubled = A1111 | {"seed": 2, "guidance_scale": 2.0, "negative_prompt": "red"}
    assert error(two, latents(tiny_pipe, "a cat", **doubled)) < 1e-4
