"""Variations: the first noise between those of two seeds, by AUTOMATIC1111's rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.errors import ArgumentError, SDXLWarning
from sdxl.pipeline.noise import Noise, TorchSource
from sdxl.pipeline.variation import VariedNoise, slerp

PROMPT = "A mecha robot in a favela"
LATENT: dict[str, Any] = {"steps": 3, "progress": False, "output": "latent"}
PHOTO = Image.effect_noise((64, 64), 90).convert("RGB")
MASK = Image.new("L", (64, 64), 0)
MASK.paste(255, (16, 8, 48, 40))


def latents(pipe: sdxl.Pipeline, **given: Any) -> torch.Tensor:
    images = pipe(PROMPT, **(LATENT | given)).images
    assert isinstance(images, torch.Tensor)
    return images


def noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def along_arcs(strength: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """AUTOMATIC1111's rule in float64: each column (of h numbers) of each channel on its own arc."""
    result = torch.empty_like(low, dtype=torch.float64)
    for c in range(low.shape[0]):
        for column in range(low.shape[2]):
            a, b = low[c, :, column].double(), high[c, :, column].double()
            omega = torch.acos(a @ b / (a.norm() * b.norm()))
            parts = torch.sin((1 - strength) * omega) * a + torch.sin(strength * omega) * b
            result[c, :, column] = parts / torch.sin(omega)
    return result


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_the_formula(strength: float) -> None:
    low, high = noise(1, (4, 16, 24)), noise(2, (4, 16, 24))
    assert torch.allclose(slerp(low, high, strength).double(), along_arcs(strength, low, high), atol=1e-6)


def test_its_ends_and_its_edges() -> None:
    for shape in ((4, 16, 24), (4, 1, 3)):  # one row: columns of one number have no arc
        low, high = noise(1, shape), noise(2, shape)
        assert torch.equal(slerp(low, high, 0.0), low)
        assert torch.equal(slerp(low, high, 1.0), high)
        assert slerp(low, high, 0.3).isfinite().all()
    assert torch.allclose(slerp(low, low, 0.3), low)


def test_the_first_noise_is_the_varied_one(tiny_pipe: sdxl.Pipeline) -> None:
    """That of a whole image, so a run from given latents is the same."""
    start = slerp(noise(5, (4, 8, 8)), noise(9, (4, 8, 8)), 0.3)[None]
    found = latents(tiny_pipe, seed=5, variation_seed=9, variation_strength=0.3, sampler="euler")
    assert torch.equal(found, latents(tiny_pipe, seed=5, latents=start, sampler="euler"))


TASKS: dict[str, dict[str, Any]] = {
    "text": {},
    "latents": {"image": noise(3, (1, 4, 8, 8)), "strength": 0.7},
    "hires": {"hires": {"scale": 2, "strength": 0.7}},
}


@pytest.mark.parametrize("task", TASKS)
def test_both_ends_are_the_images_of_the_seeds(task: str, tiny_pipe: sdxl.Pipeline) -> None:
    given = TASKS[task]
    own, other = (latents(tiny_pipe, seed=seed, **given) for seed in (5, 9))
    with pytest.warns(SDXLWarning, match="variation_seed has no effect: variation_strength is 0"):
        none = latents(tiny_pipe, seed=5, variation_seed=9, variation_strength=0, **given)
    assert torch.equal(none, own)
    assert torch.equal(latents(tiny_pipe, seed=5, variation_seed=9, variation_strength=1, **given), other)
    between = latents(tiny_pipe, seed=5, variation_seed=9, variation_strength=0.2, **given)
    assert 0 < (between - own).norm() < (between - other).norm()


@pytest.mark.parametrize("kind", ["image", "inpainting 4", "inpainting 9"])
def test_images_that_are_changed(kind: str, tiny_pipe: sdxl.Pipeline, inpainting_pipe: sdxl.Pipeline) -> None:
    """The posterior stays that of the seed, so the other end is the other seed's image but for its posterior."""
    pipe = inpainting_pipe if kind.endswith("9") else tiny_pipe
    given: dict[str, Any] = {"image": PHOTO, "strength": 0.7, "guidance_scale": 5.0, "sampler": "euler"}
    given |= {} if kind == "image" else {"mask": MASK}
    own, other = (latents(pipe, seed=seed, **given) for seed in (5, 9))
    varied, full = (
        latents(pipe, seed=5, variation_seed=9, variation_strength=strength, **given) for strength in (0.2, 1.0)
    )
    assert 0 < (varied - own).norm() < (other - own).norm()
    assert (full - other).norm() < (full - own).norm()


def test_noise_of_steps_stays_the_seeds(tiny_pipe: sdxl.Pipeline) -> None:
    """An ancestral sampler at strength 1 starts from the other seed's noise and goes on with its own."""
    generator = torch.Generator().manual_seed(5)
    torch.randn((1, 4, 8, 8), generator=generator)
    start, more = noise(9, (1, 4, 8, 8)), {"sampler": "euler_ancestral"}
    found = latents(tiny_pipe, seed=5, variation_seed=9, variation_strength=1, **more)
    assert torch.equal(found, latents(tiny_pipe, generator=generator, latents=start, **more))


def test_the_other_noise_keeps_pace_for_a_second_pass() -> None:
    """Both sources of an image have drawn equally often when the second pass begins."""
    own, other = (
        Noise([TorchSource(torch.Generator().manual_seed(seed))], 1, (4, 8, 8), torch.device("cpu")) for seed in (5, 9)
    )
    varied = VariedNoise(own, other, 0.3)
    varied.first()
    varied(7.0, 3.0)  # a step of an ancestral sampler
    varied.draw()
    again = VariedNoise(own.resized((4, 16, 16)), other.resized((4, 16, 16)), 0.3)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 9)]
    for generator in generators:
        torch.randn((3, 1, 4, 8, 8), generator=generator)
    next_own, next_other = (torch.randn((4, 16, 16), generator=generator) for generator in generators)
    assert torch.equal(again.first()[0], slerp(next_own, next_other, 0.3))


def test_images_of_a_batch_share_the_seed(tiny_pipe: sdxl.Pipeline) -> None:
    result = tiny_pipe(PROMPT, seed=5, variation_seed=9, variation_strength=0.3, num_images=3, **LATENT)
    assert result.seeds == [5, 5, 5]
    assert [each["request"]["variation_seed"] for each in result.parameters] == [9, 10, 11]
    alone = latents(tiny_pipe, seed=5, variation_seed=11, variation_strength=0.3)
    assert torch.allclose(result.images[2:], alone, atol=1e-5)  # type: ignore[call-overload]
    given = tiny_pipe(PROMPT, seed=[5, 6], variation_seed=[9, 2], variation_strength=0.3, num_images=2, **LATENT)
    assert given.seeds == [5, 6]
    assert [each["request"]["variation_seed"] for each in given.parameters] == [9, 2]
    random = tiny_pipe(PROMPT, seed=5, variation_strength=0.3, num_images=2, **LATENT).parameters
    first, second = (each["request"]["variation_seed"] for each in random)
    assert second == first + 1


def test_records_and_jobs(tiny_pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"steps": 3, "progress": False}
    images = tiny_pipe(PROMPT, seed=5, variation_seed=9, variation_strength=0.3, num_images=2, **common)
    paths = images.save(tmp_path / "a.png")
    text = str(Image.open(paths[1]).info["parameters"])
    assert "Seed: 5, " in text and "Variation seed: 10, Variation seed strength: 0.3, " in text
    recorded = sdxl.read_parameters(paths[1])["request"]
    again = tiny_pipe(**{name: value for name, value in recorded.items() if value is not None}, progress=False)
    assert again[0].tobytes() == images[1].tobytes()
    job = tmp_path / "job.jsonl"
    varied = {"variation_strength": 0.3, "num_images": 2}
    lines: list[dict[str, Any]] = [
        {"prompt": PROMPT, "seed": 5, "variation_seed": 9, **varied},
        {"prompt": PROMPT, "variation_seed": 9, **varied},
        {"prompt": PROMPT, **varied},
    ]
    job.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "--quiet", "--steps", "3"]
    arguments = ["generate", "--batch", str(job), "--output-dir", str(tmp_path / "out"), "--seed", "70", *model]
    assert main(arguments) == 1, "the third line has no variation_seed"
    for n in (1, 2):
        assert Image.open(tmp_path / f"out/00001-{n}.png").tobytes() == images[n - 1].tobytes()
        other = sdxl.read_parameters(tmp_path / f"out/00002-{n}.png")["request"]
        assert (other["seed"], other["variation_seed"]) == (72, 8 + n), "its images too share a seed"


def test_values(tiny_pipe: sdxl.Pipeline) -> None:
    for wrong, message in (
        ({"variation_strength": 1.5}, "variation_strength is 1.5; it must be a number from 0 to 1"),
        ({"variation_seed": -1}, "variation_seed is -1; it must be a whole number"),
        (
            {"variation_seed": [1], "variation_strength": 0.5, "num_images": 2},
            "variation_seed has 1 entries for 2 images",
        ),
    ):
        with pytest.raises(ArgumentError, match=message):
            tiny_pipe(PROMPT, **wrong, **LATENT)
    with pytest.warns(SDXLWarning, match="variation_strength has no effect: the first noise is latents"):
        latents(tiny_pipe, variation_strength=0.5, latents=noise(1, (1, 4, 8, 8)))
