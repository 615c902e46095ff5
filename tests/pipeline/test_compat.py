"""`Request.compat` with everything else: what it may be, the record, the replay, jobs, the command line, LoRAs."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.pipeline.conventions import Conventions
from sdxl.pipeline.noise import make_noise, second_noise
from sdxl.pipeline.profiles import OURS, PROFILES, conventions_of, read_compat, record_compat
from sdxl.pipeline.steps import hand_off
from sdxl.sampling.schedule import make_schedule

PROMPT = "a red cat"
QUIET = {"progress": False}
SIZE = {"width": 64, "height": 64}


# ---- what it may be


def test_ours_are_the_defaults(tiny_pipe: sdxl.Pipeline) -> None:
    assert sdxl.Request("a").conventions == OURS == Conventions()
    own = {"steps": 2, "seed": 3, "output": "latent", **SIZE, **QUIET}
    assert torch.equal(tiny_pipe(PROMPT, **own).images, tiny_pipe(PROMPT, compat=Conventions(), **own).images)


@pytest.mark.parametrize("name", PROFILES)
def test_names_dicts_and_values(name: str) -> None:
    profile = PROFILES[name]
    assert conventions_of(name) == conventions_of({"profile": name}) == conventions_of(profile) == profile
    assert record_compat(name) == record_compat(profile) == name
    changed = replace(profile, ensd=31337, strength=0.25)
    record = record_compat(changed)
    assert record == {"profile": name, "ensd": 31337, "strength": 0.25}
    assert read_compat(json.loads(json.dumps(record))) == changed
    assert read_compat(f"{name},ensd=31337,strength=0.25") == changed
    assert sdxl.Request("a", compat=record).conventions == changed


def test_every_word_is_read_and_explained() -> None:
    for each in fields(Conventions):
        rule = each.metadata["rule"]
        assert rule.about
        for word in rule.words:
            assert getattr(read_compat({each.name: word}), each.name) == word
            assert record_compat({each.name: word}) == ({each.name: word} if word != each.default else None)


@pytest.mark.parametrize(
    ("compat", "said"),
    [
        ("a1112", "compat is 'a1112'; expected one of diffusers, sgm, comfyui, a1111"),
        (3, "compat is 3; expected one of"),
        ({"profile": "x"}, "compat is 'x'"),
        ({"noize": "cpu"}, "compat has 'noize'; expected a member of Conventions"),
        ({"noise": "gpu"}, "noise of compat is 'gpu'; expected one of cpu, philox"),
        ({"noise": []}, "noise of compat is []"),
        ({"strength": 2}, "strength of compat is 2; expected 0 to 1"),
        ({"ensd": True}, "ensd of compat is True"),
        ({"paste": 1}, "paste of compat is 1; expected true or false"),
        ({"discard_penultimate": ["x"]}, "expected names of samplers"),
        ({"batch": [4, 4, 1]}, "expected the number of an image"),
        ({"posterior_seed": -1}, "expected a seed"),
        ("comfyui,step_noise=gpu", "step_noise of compat is 'gpu'"),
    ],
)
def test_what_is_refused(compat: Any, said: str) -> None:
    with pytest.raises(sdxl.ArgumentError) as error:
        sdxl.Request("a", compat=compat)
    assert said in str(error.value)


# ---- record and replay


TASKS: dict[str, dict[str, Any]] = {
    "text": SIZE,
    "image": {"image": tiny.picture(1, 64, 64), "strength": 0.6},
    "inpainting": {"image": tiny.picture(1, 64, 64), "mask": tiny.mask(1)},
}
SAMPLERS = ("euler_ancestral", "dpmpp_2m_sde", "uni_pc", "ddim")


@pytest.mark.parametrize("task", ["text", *(pytest.param(t, marks=pytest.mark.slow) for t in ("image", "inpainting"))])
@pytest.mark.parametrize("name", PROFILES)
def test_an_image_is_replayed_from_its_file(
    name: str, task: str, tiny_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path
) -> None:
    """Each image of a batch, alone, by the command line."""
    given = TASKS[task]
    for source in ("image", "mask"):
        if source in given:
            given[source].save(tmp_path / f"{source}.png")
    sources = [
        part for each in ("image", "mask") if each in given for part in (f"--{each}", str(tmp_path / f"{each}.png"))
    ]
    sampler = SAMPLERS[[*PROFILES].index(name)]
    result = tiny_pipe(PROMPT, seed=4, num_images=2, steps=3, sampler=sampler, compat=name, **given, **QUIET)
    files = result.save(tmp_path / "first.png")
    for image, file in zip(result.images, files, strict=True):
        assert main(["generate", "--from", str(file), "--output", str(tmp_path / "again.png"), *sources]) == 0
        with Image.open(tmp_path / "again.png") as again:
            worst = (torch.tensor(list(again.tobytes())).int() - torch.tensor(list(image.tobytes())).int()).abs().max()
        assert int(worst) <= 1, "one image and a batch differ in rounding alone"
        assert sdxl.read_parameters(tmp_path / "again.png")["request"] == sdxl.read_parameters(file)["request"]


def test_an_image_alone_is_replayed_bit_for_bit(tiny_pipe: sdxl.Pipeline) -> None:
    for name in PROFILES:
        result = tiny_pipe(PROMPT, seed=4, steps=3, sampler="euler_ancestral", compat=name, **SIZE, **QUIET)
        assert result.parameters[0]["request"]["compat"] == name
        again = tiny_pipe(**result.parameters[0]["request"], **QUIET)
        assert again.images[0].tobytes() == result.images[0].tobytes()


def test_an_earlier_record_has_our_conventions(tiny_pipe: sdxl.Pipeline) -> None:
    request = tiny_pipe(PROMPT, seed=4, steps=2, **SIZE, **QUIET).parameters[0]["request"]
    assert request.pop("compat") is None
    assert sdxl.Request(**request).conventions == OURS


@pytest.mark.parametrize(
    "name", ["comfyui", *(pytest.param(n, marks=pytest.mark.slow) for n in ("diffusers", "a1111"))]
)
def test_jobs(name: str, tiny_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """The images of a line are those of a call with its arguments."""
    line: dict[str, Any] = {"prompt": PROMPT, "num_images": 3, "seed": 4, "steps": 3, "compat": name, **SIZE}
    line |= {"sampler": "euler_ancestral", "output": "x.png"}
    (tmp_path / "job.jsonl").write_text(json.dumps(line))
    folder = tmp_path / "out"
    flags = ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "--output-dir", str(folder)]
    assert main(["generate", "--batch", str(tmp_path / "job.jsonl"), *flags]) == 0
    del line["output"]
    expected = tiny_pipe(**line, **QUIET)
    for number, image in enumerate(expected.images, 1):
        with Image.open(folder / f"x-{number}.png") as own:
            pairs = zip(own.tobytes(), image.tobytes(), strict=True)
            assert max(abs(a - b) for a, b in pairs) <= 1


def test_a_line_with_latents(tiny_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """Its images are one item of the job, whose generator draws for all of them."""
    from safetensors.torch import save_file

    save_file({"z": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))}, tmp_path / "z.safetensors")
    line: dict[str, Any] = {"prompt": PROMPT, "num_images": 2, "seed": 4, "steps": 3, "compat": "comfyui"}
    line |= {"image": str(tmp_path / "z.safetensors"), "strength": 0.8, "output": "x.png"}
    (tmp_path / "job.jsonl").write_text(json.dumps(line))
    flags = ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "--output-dir", str(tmp_path / "o")]
    assert main(["generate", "--batch", str(tmp_path / "job.jsonl"), *flags]) == 0
    del line["output"]
    for number, image in enumerate(tiny_pipe(**line, **QUIET).images, 1):
        with Image.open(tmp_path / f"o/x-{number}.png") as own:
            assert own.tobytes() == image.tobytes()


def test_the_command_line(tiny_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    flags = ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "--size", "64", "--steps", "3"]
    flags += ["--seed", "4", "--output", str(tmp_path / "x.png"), "--sampler", "euler_ancestral"]
    assert main(["generate", PROMPT, *flags, "--compat", "comfyui,step_noise=cpu"]) == 0
    own = {"seed": 4, "steps": 3, "sampler": "euler_ancestral", "compat": {"profile": "comfyui", "step_noise": "cpu"}}
    expected = tiny_pipe(PROMPT, **own, **SIZE, **QUIET).images[0]
    with Image.open(tmp_path / "x.png") as image:
        assert image.tobytes() == expected.tobytes()


# ---- together with other features


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("offload", ["none", "block"])
def test_a_refiner_an_image_and_a_mask(name: str, offload: Any, tiny_folder: Path, refiner_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(
        tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu", offload=offload
    )
    for given in TASKS.values():
        for sampler in ("dpmpp_sde", "euler_ancestral"):
            own = {"steps": 6, "seed": 1, "refine_at": 0.5, "sampler": sampler, "compat": name, "output": "latent"}
            strength = {"strength": 0.9} if "image" in given else {}
            images = pipe(PROMPT, **own, **given | strength, **QUIET).images
            assert isinstance(images, torch.Tensor)
            assert images.isfinite().all()


def test_a_share_of_the_steps_is_that_many_steps() -> None:
    """By ComfyUI's rule, also where the product is a little more than the whole number: 25 * (7 / 25)."""
    request = sdxl.Request("a", compat="comfyui")
    for total in range(1, 61):
        schedule = make_schedule(ScheduleConfig(), "linspace", total, "euler")
        found = [hand_off(request, schedule, steps / total, 1000) for steps in range(total + 1)]
        assert found == list(range(total + 1))


def test_tags_of_loras_are_read(tiny_pipe: sdxl.Pipeline) -> None:
    """By the profile's prompt syntax, in a call and in the arguments of a job's line."""
    from sdxl.pipeline.tags import requested_loras, tagged_loras

    prompt = "a cat <lora:style:0.5>"
    assert [lora.file for lora in tagged_loras(sdxl.Request(prompt, compat="a1111"))] == ["style"]
    assert [lora.file for lora in requested_loras({"prompt": prompt, "compat": "a1111"})] == ["style"]
    assert not requested_loras({"prompt": prompt, "compat": "a1111", "prompt_syntax": "plain"})


def test_a_callers_generators_draw_all_noise(tiny_pipe: sdxl.Pipeline) -> None:
    own: dict[str, Any] = {"steps": 3, "sampler": "euler_ancestral", "output": "latent", **SIZE, **QUIET}
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    used = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    torch.randn(7, generator=used[0])
    results = [tiny_pipe(PROMPT, num_images=2, generator=g, compat="a1111", **own).images for g in (generators, used)]
    assert not torch.equal(results[0][:1], results[1][:1])
    assert torch.equal(results[0][1:], results[1][1:])


@pytest.mark.parametrize(("name", "restarts"), [("diffusers", False), ("comfyui", True), ("a1111", True)])
def test_noise_of_a_second_pass(name: str, restarts: bool, tiny_pipe: sdxl.Pipeline) -> None:
    plan = tiny_pipe.plan(sdxl.Request(PROMPT, seed=4, compat=name))
    noise = make_noise(plan, (4, 8, 8), torch.device("cpu"))
    noise.draw()
    second = second_noise(plan, noise, (4, 16, 16)).draw()
    fresh = make_noise(plan, (4, 16, 16), torch.device("cpu")).draw()
    assert second.shape == (1, 4, 16, 16)
    assert torch.equal(second, fresh) is restarts


def test_a_list_of_guidance_scales(tiny_pipe: sdxl.Pipeline) -> None:
    """One for each step that runs, though the schedule has more."""
    image = tiny.picture(1, 64, 64)
    own: dict[str, Any] = {"image": image, "strength": 0.5, "steps": 3, "seed": 1, "output": "latent", **QUIET}
    same = tiny_pipe(PROMPT, guidance_scale=[4.0, 4.0, 4.0], compat="comfyui", **own).images
    assert torch.equal(same, tiny_pipe(PROMPT, guidance_scale=4.0, compat="comfyui", **own).images)


def test_compat_beside_noise_levels_of_ones_own(tiny_pipe: sdxl.Pipeline) -> None:
    for name in PROFILES:
        for levels in ({"sigmas": [9.0, 2.0, 0.5]}, {"timesteps": [999, 500, 1]}):
            own = {"seed": 1, "compat": name, "output": "latent", **levels, **SIZE, **QUIET}
            images = tiny_pipe(PROMPT, **own).images
            assert isinstance(images, torch.Tensor)
            assert images.isfinite().all()


def test_a_distilled_models_guidance_is_off(tiny_pipe: sdxl.Pipeline) -> None:
    """A preset's guidance of 0 means none in every tool."""
    plan = tiny_pipe.plan(sdxl.Request(PROMPT, preset="turbo", compat="comfyui", seed=1))
    assert plan.guider.names == ("positive",)
