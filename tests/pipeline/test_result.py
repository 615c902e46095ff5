"""Results, steps and callbacks: what a caller and a notebook get of them."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import assert_type

import sdxl
from sdxl.cli.main import main
from sdxl.errors import ArgumentError, OutputError, SDXLWarning

QUICK: dict[str, Any] = {"steps": 4, "seed": 1, "progress": False}
LATENT: dict[str, Any] = QUICK | {"output": "latent"}


@pytest.fixture(scope="module")
def result(tiny_pipe: sdxl.Pipeline) -> sdxl.Result:
    return tiny_pipe("a red cat", negative_prompt="dog", num_images=2, **QUICK)


# ---- a result --------------------------------------------------------------------------------------------------------


def test_a_result_is_a_sequence_of_its_images(result: sdxl.Result) -> None:
    assert len(result) == 2
    assert [*result] == result.images
    assert result[1] is result.images[1]
    assert result[-1:] == result.images[1:]
    with pytest.raises(IndexError):
        result[2]


def test_its_repr_is_short(result: sdxl.Result, tiny_pipe: sdxl.Pipeline) -> None:
    assert repr(result) == "Result(2 images, 64 x 64, seeds [1, 2])"
    assert repr(tiny_pipe("cat", **LATENT)) == "Result(1 image, tensor of [1, 4, 8, 8], seeds [1])"


def test_a_notebook_shows_its_images(result: sdxl.Result, tiny_pipe: sdxl.Pipeline) -> None:
    html = result._repr_html_()
    assert html is not None
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["seed 1", "seed 2"]
    assert html.count('<img src="data:image/png;base64,') == 2
    tensor = tiny_pipe("cat", output="tensor", **QUICK)._repr_html_()
    assert tensor is not None
    assert tensor.count("<img ") == 1
    assert tiny_pipe("cat", **LATENT)._repr_html_() is None


def test_images_hold_the_text_of_automatic1111(result: sdxl.Result) -> None:
    lines = result[1].info["parameters"].splitlines()
    assert lines[:2] == ["a red cat", "Negative prompt: dog"]
    assert "Seed: 2, Size: 64x64" in lines[2]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_save_writes_the_parameters(suffix: str, result: sdxl.Result, tmp_path: Path) -> None:
    paths = result.save(tmp_path / f"new/x{suffix}")
    assert [path.name for path in paths] == [f"x-1{suffix}", f"x-2{suffix}"]
    for path, parameters in zip(paths, result.parameters, strict=True):
        assert sdxl.read_parameters(path) == json.loads(json.dumps(parameters))
        assert sdxl.read_parameters(str(path))["request"]["prompt"] == "a red cat"


def test_one_image_gets_no_number_and_tensors_are_saved_too(
    tiny_pipe: sdxl.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tiny_pipe("cat", **QUICK)
    tensor = tiny_pipe("cat", output="tensor", **QUICK)
    assert image.save(str(tmp_path / "a.png")) == [tmp_path / "a.png"]
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert image.save("~/home.png") == [tmp_path / "home.png"] and (tmp_path / "home.png").exists()
    tensor.save(tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        assert a.tobytes() == b.tobytes() == image[0].tobytes()
        assert a.text["parameters"] == image[0].info["parameters"]  # type: ignore[attr-defined]


def test_what_cannot_be_saved(tiny_pipe: sdxl.Pipeline, result: sdxl.Result, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="output is 'latent'"):
        tiny_pipe("cat", **LATENT).save(tmp_path / "x.png")
    with pytest.raises(OutputError, match=r"x\.gif"):
        result.save(tmp_path / "x.gif")
    assert not [*tmp_path.iterdir()]


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_a_step_has_a_short_repr(tiny_pipe: sdxl.Pipeline) -> None:
    step = next(tiny_pipe.steps("cat", steps=4, seed=1))
    assert re.fullmatch(r"PipelineStep\(index=0, total=4, sigma=[\d.]+\)", repr(step))


def test_a_notebook_shows_the_preview_of_a_step(tiny_pipe: sdxl.Pipeline) -> None:
    from sdxl.models.config import VAEConfig

    step = next(tiny_pipe.steps("cat", steps=4, seed=1, num_images=3))
    colours = ((0.1, 0.2, 0.3),) * 5
    from dataclasses import replace

    assert isinstance(step.vae, VAEConfig)
    shown = replace(step, vae=replace(step.vae, latent_rgb=colours))._repr_png_()
    assert shown is not None
    with Image.open(io.BytesIO(shown)) as image:
        assert image.size == (3 * 192, 192), "three previews of 8 x 8, 24 times as large"
    assert replace(step, vae=replace(step.vae, latent_rgb=None))._repr_png_() is None


def test_a_change_of_a_result_changes_no_step(tiny_pipe: sdxl.Pipeline) -> None:
    """A sampler of several steps looks at its last guesses again."""
    settings: dict[str, Any] = {"steps": 3, "seed": 1, "sampler": "dpmpp_2m"}
    *_, plain = tiny_pipe.steps("cat", **settings)
    for step in tiny_pipe.steps("cat", **settings):
        step.result("latent").images.zero_()
        step.result("tensor").images.zero_()
    assert torch.equal(step.latents, plain.latents)


def test_a_copy_of_a_step_belongs_to_no_pipeline(tiny_pipe: sdxl.Pipeline) -> None:
    """To keep one while its latents are changed in place, or to send it to another process."""
    step = next(tiny_pipe.steps("cat", steps=2, seed=1))
    for copied in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
        assert torch.equal(copied.latents, step.latents) and copied.latents is not step.latents
        assert (copied.index, copied.total, copied.sigma, copied.vae) == (0, 2, step.sigma, step.vae)
        with pytest.raises(ArgumentError, match="this step belongs to no pipeline"):
            copied.result()


# ---- a callback ------------------------------------------------------------------------------------------------------


def test_a_callback_sees_the_steps_and_changes_nothing(tiny_pipe: sdxl.Pipeline) -> None:
    seen: list[sdxl.PipelineStep] = []
    result = tiny_pipe("cat", callback=seen.append, **LATENT)
    plain = tiny_pipe("cat", **LATENT)
    assert torch.equal(result.images, plain.images)  # type: ignore[arg-type]
    assert [(step.index, step.total) for step in seen] == [(n, 4) for n in range(4)]
    assert seen[-1].result("latent")[0].equal(plain[0])
    assert result.parameters == plain.parameters


@pytest.mark.parametrize("task", ["text to image", "inpainting"])
def test_true_stops_with_the_guess_of_that_step(task: str, tiny_pipe: sdxl.Pipeline) -> None:
    sources: dict[str, Any] = {}
    if task == "inpainting":
        mask = Image.new("L", (64, 64))
        mask.paste(255, (16, 16, 40, 40))
        sources = {"image": Image.effect_noise((64, 64), 50).convert("RGB"), "mask": mask}
    calls: list[int] = []

    def stop(step: sdxl.PipelineStep) -> bool:
        calls.append(step.index)
        return step.index == 1

    result = tiny_pipe("cat", callback=stop, **sources, **QUICK)
    steps = tiny_pipe.steps("cat", **sources, steps=4, seed=1)
    guess = [next(steps), next(steps)][1].result()
    assert calls == [0, 1]
    assert result[0].tobytes() == guess[0].tobytes()
    assert result.parameters == guess.parameters
    assert result.parameters[0]["stopped_after"] == 2
    if sources:
        assert result[0].crop((0, 0, 64, 16)).tobytes() == sources["image"].crop((0, 0, 64, 16)).tobytes()
    full = tiny_pipe("cat", **sources, **QUICK)
    assert "stopped_after" not in full.parameters[0]
    assert full[0].tobytes() != result[0].tobytes()


def test_only_true_stops_and_not_after_the_last_step(tiny_pipe: sdxl.Pipeline) -> None:
    def answer(step: sdxl.PipelineStep) -> object:
        return (None, False, 1, "x")[step.index]

    assert "stopped_after" not in tiny_pipe("cat", callback=answer, **LATENT).parameters[0]
    result = tiny_pipe("cat", callback=lambda step: step.is_last, **LATENT)
    assert "stopped_after" not in result.parameters[0]
    with pytest.raises(ArgumentError, match="callback gave a dict, as diffusers' callbacks do"):
        tiny_pipe("cat", callback=lambda step: {"latents": step.latents}, **LATENT)


def test_true_of_numpy_and_torch_stops(tiny_pipe: sdxl.Pipeline) -> None:
    for number in (np.float32(0.5), torch.tensor(0.5)):

        def stop(step: sdxl.PipelineStep, number: Any = number) -> Any:
            return step.index > number

        assert tiny_pipe("cat", callback=stop, **LATENT).parameters[0]["stopped_after"] == 2


def test_what_is_no_callback_is_an_error_before_any_work(tiny_pipe: sdxl.Pipeline) -> None:
    async def wait(step: sdxl.PipelineStep) -> None: ...

    def theirs(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError

    for callback, message in (
        (theirs, r"callback takes pipe, step, timestep, kwargs; expected a function of one argument, the step"),
        (wait, "callback is a coroutine function; expected an ordinary one"),
        ([print], "callback is .*; expected a function of one argument"),
    ):
        with pytest.raises(ArgumentError, match=message):
            tiny_pipe("cat", callback=callback, **LATENT)  # type: ignore[arg-type]


def test_a_callback_may_generate_but_not_change_the_weights(tiny_folder: Path, tmp_path: Path) -> None:
    """Else the steps that are left would run on other weights than those that the record names."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    plain = pipe("cat", **LATENT)
    within = pipe("cat", callback=lambda step: pipe("dog", **LATENT) and None, **LATENT)
    assert torch.equal(plain.images, within.images)  # type: ignore[arg-type]

    def change(step: sdxl.PipelineStep) -> None:
        pipe.change_weights({"unet.conv_in.bias": lambda bias: bias + 1})

    with pytest.raises(ArgumentError, match="the weights have changed since these steps began"):
        pipe("cat", callback=change, **LATENT)
    pipe.change_weights({})
    assert torch.equal(plain.images, pipe("cat", **LATENT).images)  # type: ignore[arg-type]
    for step in pipe.steps("cat", steps=2, seed=1):
        if step.is_last:
            change(step)  # nothing is left to run
    pipe("cat", callback=lambda step: change(step) if step.is_last else None, **LATENT)


def test_latents_that_a_callback_changes_in_place_change_the_rest(tiny_pipe: sdxl.Pipeline) -> None:
    def change(step: sdxl.PipelineStep) -> None:
        if not step.is_last:
            step.latents.add_(0.1)

    plain, changed = (tiny_pipe("cat", callback=each, **LATENT) for each in (None, change))
    assert not torch.equal(plain.images, changed.images)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [KeyError, MemoryError, KeyboardInterrupt, sdxl.OutOfMemoryError])
@pytest.mark.parametrize("offload", ["auto", "none"])
def test_exceptions_of_a_callback_pass_through(kind: type[BaseException], offload: Any, tiny_folder: Path) -> None:
    """Also those that say that memory ran out: the call is not repeated for them."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload=offload)
    raised, calls = kind("mine"), []

    def fail(step: sdxl.PipelineStep) -> None:
        calls.append(step.index)
        raise raised

    with pytest.raises(kind) as caught:
        pipe("cat", callback=fail, **LATENT)
    assert caught.value is raised
    assert calls == [0]
    if offload == "auto":
        assert pipe.experts[0].unet.loaded is None, "the UNet was released"
    assert pipe("cat", **LATENT).images.isfinite().all()  # type: ignore[union-attr]


def test_a_stopped_image_warns_when_it_is_generated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    pipe("cat", callback=lambda step: True, **QUICK).save("p.png")
    with pytest.warns(SDXLWarning, match=r"p\.png is the guess after 1 steps.*the result will differ"):
        assert main(["generate", "--from", "p.png", "--device", "cpu", "--quiet", "--output", "again.png"]) == 0
    assert "stopped_after" not in sdxl.read_parameters("again.png")


def test_an_image_of_a_model_in_training_warns(tmp_path: Path, tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, trainable=True, device="cpu")
    (path,) = pipe("cat", **QUICK).save(tmp_path / "p.png")
    flags = ["generate", "--from", str(path), "--device", "cpu", "--quiet", "--output", str(tmp_path / "again.png")]
    with pytest.warns(SDXLWarning, match="made by a model in training.*the result will differ"):
        assert main(flags) == 0


def test_an_image_of_networks_in_memory_needs_a_model(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    mine = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, pipe.text)
    (path,) = mine("cat", **QUICK).save(tmp_path / "p.png")
    flags = ["generate", "--from", str(path), "--device", "cpu", "--quiet", "--output", str(tmp_path / "again.png")]
    assert main(flags) == 2
    assert "was made by networks in memory; give the model" in capsys.readouterr().err
    assert main([*flags, "--model", str(tiny_folder)]) == 0


def test_the_type_of_images_is_that_of_the_output(tiny_pipe: sdxl.Pipeline) -> None:
    """Checkers of types see it: mypy reads this file too."""
    made = tiny_pipe("cat", progress=False, seed=1, steps=1)
    pixels = tiny_pipe("cat", output="tensor", progress=False, seed=1, steps=1)
    for step in tiny_pipe.steps("cat", seed=1, steps=1):
        own, latents = step.result(), step.result("latent")
    assert all(isinstance(assert_type(each.images, list[Image.Image]), list) for each in (made, own))
    assert all(isinstance(assert_type(each.images, Tensor), Tensor) for each in (pixels, latents))
