"""The adapters of the miniature: a shape that it did not know, and few steps."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdxl
from sdxl.errors import SDXLWarning
from sdxl.miniature.edges import edges, moved_scene
from sdxl.miniature.exam import make_picture, make_scenes, mark, paint
from sdxl.miniature.judge import agrees, look, overlap
from sdxl.miniature.scenes import HEART, SHAPES, Pixels, Scene, Thing, caption, heart_scene, sun_scene
from sdxl.text import with_tokens
from sdxl.weights import TensorFile

ADAPTERS = Path(__file__).parents[2] / "weights" / "adapters"
HEART_FILE, SUN_FILE, TWO_STEPS, LARGE, EDGES, COLOURS_FILE, DECODER, UPSCALER = (
    ADAPTERS / f"{name}.safetensors"
    for name in ("heart", "sun", "two-steps", "large", "edges", "colours", "tiny-decoder", "2x-scenes")
)
FEW: dict[str, Any] = {"schedule": "trailing", "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def loaded() -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")


@pytest.fixture
def pipe(loaded: sdxl.Pipeline) -> Iterator[sdxl.Pipeline]:
    yield loaded
    loaded.set_loras([])


def right(images: Sequence[Pixels], scenes: Sequence[Scene]) -> int:
    """How many images show their scenes entirely right."""
    shapes = (*SHAPES, HEART)
    return sum(agrees(look(pixels, shapes), scene) for pixels, scene in zip(images, scenes, strict=True))


def test_the_heart_is_there_with_the_lora_alone(pipe: sdxl.Pipeline) -> None:
    hearts = make_scenes(3, 66, things=1, make=heart_scene)
    before = paint(pipe, hearts, steps=8)
    assert right(before, hearts) == 0
    pipe.set_loras([HEART_FILE])
    assert not pipe.loras[0].unknown
    assert right(paint(pipe, hearts, steps=8), hearts) >= 2
    pipe.set_loras([])
    assert all(np.array_equal(a, b) for a, b in zip(paint(pipe, hearts, steps=8), before, strict=True))


def test_two_steps_without_guidance_are_enough(pipe: sdxl.Pipeline) -> None:
    scenes = make_scenes(8, 74, things=1)
    pipe.set_loras([TWO_STEPS])
    assert not pipe.loras[0].unknown
    assert mark(pipe, scenes, steps=2, **FEW) >= 7 / 8


def test_the_embedding_gives_its_word_a_meaning(pipe: sdxl.Pipeline) -> None:
    file, scenes = TensorFile(SUN_FILE), make_scenes(4, 83, things=1, make=sun_scene)
    stages = [
        with_tokens(stage, {"sun": file.read(key).float()})
        for stage, key in zip(pipe.text, ("clip_l", "clip_g"), strict=True)
    ]
    adapted = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, stages)
    prompts = [caption(scene).replace("yellow circle", "sun") for scene in scenes]
    images = adapted(prompts, steps=10, output="tensor", progress=False).images.permute(0, 2, 3, 1).numpy()
    assert right(images, scenes) >= 3


def test_things_are_where_their_edges_are(pipe: sdxl.Pipeline) -> None:
    scenes = make_scenes(4, 93, things=1, make=moved_scene)
    plain = paint(pipe, scenes, steps=8)
    assert max(overlap(pixels, scene) for pixels, scene in zip(plain, scenes, strict=True)) < 0.75
    control = sdxl.Control(EDGES, [edges(scene) for scene in scenes])
    made = paint(pipe, scenes, steps=8, control=control)
    assert min(overlap(pixels, scene) for pixels, scene in zip(made, scenes, strict=True)) > 0.75
    assert right(made, scenes) == 4
    with pytest.warns(SDXLWarning, match="its scale is 0"):
        zero = paint(pipe, scenes, steps=8, control=replace(control, scale=0))
    assert all(np.array_equal(a, b) for a, b in zip(zero, plain, strict=True))


def test_colours_are_those_of_the_reference_image(pipe: sdxl.Pipeline) -> None:
    scenes = [Scene("red", (Thing("white", "ring"),)), Scene("blue", (Thing("orange", "square"),))]
    reference = sdxl.Reference(COLOURS_FILE, [make_picture(scene) for scene in scenes], scale=1)
    given: dict[str, Any] = {"steps": 8, "seed": 2, "output": "tensor", "progress": False}
    prompts = ["a star on a background", "a cross on a background"]
    made = pipe(prompts, reference=reference, **given).images
    views = [look(pixels) for pixels in made.permute(0, 2, 3, 1).numpy()]
    seen = [(view.ground, *((thing.colour, thing.shape) for thing in view.things)) for view in views]
    assert seen == [("red", ("white", "star")), ("blue", ("orange", "cross"))]


@pytest.mark.slow
def test_the_heart_comes_with_its_weight(pipe: sdxl.Pipeline) -> None:
    hearts = make_scenes(20, 67, things=1, make=heart_scene)
    shares = []
    for weight in (0.0, 0.5, 1.0):
        pipe.set_loras([(HEART_FILE, weight)])
        shares.append(mark(pipe, hearts))
    assert shares == sorted(shares)
    assert shares[-1] >= 0.9


def test_the_files_are_small_and_their_card_names_them() -> None:
    card = (ADAPTERS / "README.md").read_text(encoding="utf-8")
    encoder = ADAPTERS / "image_encoder" / "model.safetensors"
    files = sorted(ADAPTERS.rglob("*.safetensors"))
    assert files == sorted([HEART_FILE, SUN_FILE, TWO_STEPS, LARGE, EDGES, COLOURS_FILE, DECODER, UPSCALER, encoder])
    for file in files:
        assert hashlib.sha256(file.read_bytes()).hexdigest() in card, file
    assert HEART_FILE.stat().st_size < 2e6
    assert sum(file.stat().st_size for file in files) < 16e6


def test_the_tiny_decoder_shows_what_the_vae_shows(pipe: sdxl.Pipeline) -> None:
    scenes = make_scenes(4, 91, things=1)
    pipe.set_loras([TWO_STEPS])
    latents = pipe([caption(each) for each in scenes], seed=0, steps=4, output="latent", progress=False, **FEW).images
    assert isinstance(latents, torch.Tensor)
    drafts = sdxl.Pipeline.from_pretrained("miniature", vae=DECODER, dtype="float32", device="cpu", offload="stage")
    whole, tiny = pipe.decode(latents), drafts.decode(latents)
    assert right([*tiny.permute(0, 2, 3, 1).numpy()], scenes) >= 3
    assert float((whole - tiny).square().mean()) < 10**-2.5, "25 dB"
