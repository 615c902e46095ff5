"""The miniature that ships with the package: its images show their prompts."""

import hashlib
import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sdxl
from sdxl.miniature.exam import make_changes, make_mask, make_picture, make_scenes, mark, paint, views
from sdxl.miniature.judge import agrees, look
from sdxl.miniature.scenes import draw
from sdxl.weights.builtin import folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pipe() -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")


@pytest.mark.parametrize(("counts", "steps"), [((4, 4, 4), 8), pytest.param((16, 12, 12), 25, marks=pytest.mark.slow)])
def test_prompts(counts: tuple[int, int, int], steps: int, pipe: sdxl.Pipeline) -> None:
    """Trained combinations, held-out ones, and pairs."""
    scenes = make_scenes(counts[0], 21, things=1) + make_scenes(counts[1], 22, things=1, unseen=True)
    scenes += make_scenes(counts[2], 23, things=2)
    assert mark(pipe, scenes, batch=20, steps=steps) >= 0.9


@pytest.mark.slow
def test_crop_moves_the_thing(pipe: sdxl.Pipeline) -> None:
    scenes = make_scenes(6, 24, things=1)
    still, moved = (views(pipe, scenes, steps=10, crop_top_left=(0, x)) for x in (0, 32))
    left = [a.things[0].x - b.things[0].x for a, b in zip(still, moved, strict=True)]
    assert np.mean(left) > 16


@pytest.mark.slow
def test_small_original_size_is_soft(pipe: sdxl.Pipeline) -> None:
    scenes = make_scenes(4, 25, things=1)
    sharpness = [
        np.mean([np.square(np.diff(pixels, axis=1)).sum() for pixels in made])
        for made in (paint(pipe, scenes, steps=10, original_size=(side, side)) for side in (32, 64, 128))
    ]
    assert sharpness == sorted(sharpness)


def test_diffusers_generates_the_same_image(pipe: sdxl.Pipeline) -> None:
    diffusers = pytest.importorskip("diffusers")
    import torch

    found = folder("miniature")
    assert found
    reference = diffusers.StableDiffusionXLPipeline.from_pretrained(found, torch_dtype=torch.float32)
    prompt, noise = "a red circle on a blue background", torch.randn(1, 4, 16, 16, generator=torch.manual_seed(0))
    ours = pipe(prompt, latents=noise, steps=10, output="tensor", progress=False).images
    theirs = reference(prompt, latents=noise, num_inference_steps=10, guidance_scale=5.0, output_type="pt").images
    error = (ours - theirs).square().mean()
    assert -10 * torch.log10(error.clamp(min=1e-12)) > 50


def test_a_single_file_and_back_generates_the_same_bits(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    sdxl.convert("miniature", tmp_path / "one.safetensors")
    sdxl.convert(tmp_path / "one.safetensors", tmp_path / "folder")
    images = [
        paint(each, make_scenes(1, 26, things=2), steps=5)[0]
        for each in (
            pipe,
            sdxl.Pipeline.from_pretrained(tmp_path / "one.safetensors", dtype="float32", device="cpu"),
            sdxl.Pipeline.from_pretrained(tmp_path / "folder", dtype="float32", device="cpu"),
        )
    ]
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])


def test_inpainting_changes_the_thing_and_nothing_else(pipe: sdxl.Pipeline) -> None:
    old, new = zip(*make_changes(10, 27), strict=True)
    images, masks = [make_picture(scene) for scene in old], [make_mask(scene) for scene in old]
    made = paint(pipe, new, steps=10, image=images, mask=masks)
    assert sum(agrees(look(pixels), scene) for pixels, scene in zip(made, new, strict=True)) >= 9
    for pixels, image, mask in zip(made, images, masks, strict=True):
        kept = np.asarray(mask) == 0
        assert np.array_equal((pixels * 255).round()[kept], np.asarray(image)[kept])


@pytest.mark.slow
def test_strength_leads_from_the_image_to_the_prompt(pipe: sdxl.Pipeline) -> None:
    old, new = make_scenes(6, 28, things=1), make_scenes(6, 29, things=1)
    images = [make_picture(scene) for scene in old]
    distances = []
    for strength in (0.0, 0.4, 1.0):
        made = paint(pipe, new, steps=10, image=images, strength=strength)
        distances.append(np.mean([np.square(a - draw(b)).mean() for a, b in zip(made, old, strict=True)]))
    assert distances == sorted(distances)
    assert sum(agrees(look(pixels), scene) for pixels, scene in zip(made, new, strict=True)) >= 5


def test_the_refiner_cleans_badly_drawn_scenes() -> None:
    refiner = sdxl.Pipeline.from_pretrained("miniature-refiner", dtype="float32", device="cpu")
    assert refiner.info.config.kind == "refiner"
    scenes = make_scenes(8, 30, things=1)
    flawed = [make_picture(replace(scene, flaw=0.5, seed=i)) for i, scene in enumerate(scenes)]
    errors = [
        np.mean([np.square(a - draw(b)).mean() for a, b in zip(made, scenes, strict=True)])
        for made in (paint(refiner, scenes, image=flawed, strength=strength) for strength in (0.0, 0.2))
    ]
    assert errors[1] < 0.7 * errors[0]


def test_the_weights_are_small_and_their_card_names_them() -> None:
    weights = ROOT / "weights" / "miniature"
    files = [path for path in weights.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24e6
    card = (weights / "README.md").read_text(encoding="utf-8")
    for path in weights.rglob("*.safetensors"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card, path


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code cells in order, as a notebook runs them, without displaying a cell's last expression."""
    notebook = json.loads((ROOT / "examples" / "miniature.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(ROOT / "examples")
    names: dict[str, object] = {"display": lambda *shown: None}
    with redirect_stdout(io.StringIO()):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), "miniature.ipynb", "exec"), names)
    assert names["pipe"]
