"""Hires fix: the two passes are those that are done by hand, and one request, record and result hold them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.cli.options import read_value
from sdxl.errors import ArgumentError, OutOfMemoryError, SDXLWarning
from sdxl.images.a1111 import parameters_text
from sdxl.images.upscalers import UPSCALERS, read_upscaler
from sdxl.pipeline.hires import read_hires
from sdxl.pipeline.hires_enlargement import with_enlarged

PROMPT = "A mecha robot in a favela"
COMMON: dict[str, Any] = {"steps": 4, "progress": False}
LATENT: dict[str, Any] = COMMON | {"output": "latent"}


def fresh(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def latents(pipe: sdxl.Pipeline, *given: Any, **more: Any) -> torch.Tensor:
    images = pipe(*given, **(LATENT | more)).images
    assert isinstance(images, torch.Tensor)
    return images


def by_hand(pipe: sdxl.Pipeline, prompt: Any, seeds: list[int], upscaler: str, strength: float, **more: Any) -> Any:
    """Twice through the pipeline, with the same generators, and torch's or PIL's interpolation between."""
    generator = fresh(*seeds)
    if upscaler == "lanczos":
        small = pipe(prompt, generator=generator, **COMMON, **more).images
        image: Any = [each.resize((128, 128), Image.Resampling.LANCZOS) for each in small]
    else:
        mode, antialias = UPSCALERS[upscaler].mode or "", UPSCALERS[upscaler].antialias
        first = latents(pipe, prompt, generator=generator, **more)
        image = F.interpolate(first, (16, 16), mode=mode, **({"antialias": True} if antialias else {}))
    return latents(pipe, prompt, generator=generator, image=image, strength=strength, **more)


# ---- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_upscalers(upscaler: str, tiny_pipe: sdxl.Pipeline) -> None:
    prompts = [PROMPT, "a red cat"]
    hires = sdxl.Hires(2, upscaler=upscaler, strength=0.6)
    result = tiny_pipe(prompts, seed=[7, 3], hires=hires, **LATENT)
    assert torch.equal(result.images, by_hand(tiny_pipe, prompts, [7, 3], upscaler, 0.6))  # type: ignore[arg-type]
    assert result.seeds == [7, 3]


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "heun", "ddim"])
def test_samplers(sampler: str, tiny_pipe: sdxl.Pipeline) -> None:
    """Noise of steps and paths too goes on from the first pass."""
    more = {"sampler": sampler, "guidance_scale": 3.0, "negative_prompt": "a dog"}
    found = latents(tiny_pipe, PROMPT, seed=5, hires={"scale": 2, "strength": 0.75}, **more)
    assert torch.equal(found, by_hand(tiny_pipe, PROMPT, [5], "latent", 0.75, **more))


def test_an_image_of_a_batch_is_the_one_alone(tiny_pipe: sdxl.Pipeline) -> None:
    hires = {"scale": 1.5, "strength": 0.5}
    both = latents(tiny_pipe, PROMPT, seed=5, num_images=2, hires=hires, sampler="euler_ancestral")
    alone = latents(tiny_pipe, PROMPT, seed=6, hires=hires, sampler="euler_ancestral")
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_what_differs_in_the_second_pass(tiny_pipe: sdxl.Pipeline) -> None:
    own = {"prompt": "a red cat", "negative_prompt": "a dog", "sampler": "dpmpp_2m", "schedule": "karras", "steps": 6}
    generator = fresh(5)
    first = latents(tiny_pipe, PROMPT, generator=generator, prompt_2="a photo", sampler="euler_ancestral", eta=0.5)
    given = {name: value for name, value in own.items() if name != "prompt"}
    second = latents(
        tiny_pipe, "a red cat", generator=generator, image=F.interpolate(first, (16, 16)), strength=0.5, **given
    )
    found = latents(
        tiny_pipe,
        PROMPT,
        seed=5,
        prompt_2="a photo",
        sampler="euler_ancestral",
        eta=0.5,
        hires={"upscaler": "Latent (nearest)", "strength": 0.5, **own},
    )
    assert torch.equal(found, second)


@pytest.mark.parametrize(
    ("prompt", "second"),
    [
        ("a [red:blue:0.5] cat", "a blue cat"),
        ("a [red:blue:6] cat", "a [red:blue:2] cat"),
        ("a [red:blue:1.5] cat", "a [red:blue:0.5] cat"),
    ],
)
def test_changes_of_a_prompt_go_on_in_the_second_pass(prompt: str, second: str, tiny_pipe: sdxl.Pipeline) -> None:
    """As AUTOMATIC1111 counts them: what has changed in the first pass stays so."""
    more: dict[str, Any] = {"prompt_syntax": "a1111", "guidance_scale": 3.0}
    found = latents(tiny_pipe, prompt, seed=5, hires={"scale": 2, "strength": 1}, **more)
    generator = fresh(5)
    first = latents(tiny_pipe, prompt, generator=generator, **more)
    image = F.interpolate(first, (16, 16), mode="bilinear")
    assert torch.equal(found, latents(tiny_pipe, second, generator=generator, image=image, strength=1, **more))


def test_levels_of_ones_own_are_the_first_passs(tiny_pipe: sdxl.Pipeline) -> None:
    plan = tiny_pipe.plan(sdxl.Request(PROMPT, sigmas=[9.0, 1.0, 0.0], hires=sdxl.Hires(strength=1)))
    assert plan.sigmas == (9.0, 1.0, 0.0) and plan.second is not None
    assert plan.second.steps == 2 and plan.second.request.schedule == "leading"


def test_the_refiner_takes_part_in_the_second_pass_only(tiny_folder: Path, refiner_folder: Path) -> None:
    both = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    alone = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    generator = fresh(5)
    first = latents(alone, PROMPT, generator=generator)
    image = F.interpolate(first, (16, 16), mode="bilinear")
    more = {"refine_at": 0.6, "aesthetic_score": 3.0}
    second = latents(both, PROMPT, generator=generator, image=image, strength=1.0, **more)
    result = both(PROMPT, seed=5, hires={"strength": 1}, **more, **LATENT)
    assert torch.equal(result.images, second)  # type: ignore[arg-type]
    recorded = result.parameters[0]["request"]
    assert (recorded["refine_at"], recorded["aesthetic_score"]) == (0.6, 3.0)
    assert both(PROMPT, hires={"strength": 1}, **LATENT).parameters[0]["request"]["refine_at"] == 0.8
    with pytest.warns(SDXLWarning, match="the refiner has no effect"):
        both(PROMPT, hires={"strength": 1}, refine_at=1.0, **LATENT)


@pytest.mark.parametrize("offload", ["stage", "block"])
def test_ways_to_keep_the_model(offload: Any, tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload=offload)
    found = latents(pipe, PROMPT, seed=5, hires={"upscaler": "lanczos", "strength": 0.5})
    assert torch.equal(found, by_hand(pipe, PROMPT, [5], "lanczos", 0.5))


# ---- sizes -----------------------------------------------------------------------------------------------------------

SIZES = {  # of the first pass and of hires, with what it is enlarged to and what is left; AUTOMATIC1111's rules
    "twice": ((832, 1216), {"scale": 2}, (1664, 2432), (1664, 2432)),
    "sides are rounded down": ((832, 1216), {"scale": 1.4}, (1160, 1696), (1160, 1696)),
    "the same shape": ((512, 512), {"size": (1024, 1024)}, (1024, 1024), (1024, 1024)),
    "wider": ((512, 512), {"size": (1024, 1536)}, (1536, 1536), (1024, 1536)),
    "higher": ((512, 768), {"size": "768x1024"}, (1024, 1536), (1024, 768)),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes(case: str) -> None:
    size, given, whole, left = SIZES[case]
    assert read_hires(given).enlarged(size, 8) == (whole, left)


def test_another_shape_is_cut_off_on_both_sides(tiny_pipe: sdxl.Pipeline) -> None:
    more = {"width": 64, "height": 64, "seed": 5}
    first = latents(tiny_pipe, PROMPT, **more)
    step = next(
        step
        for step in tiny_pipe.steps(PROMPT, hires={"size": (96, 136), "strength": 0.25}, steps=4, **more)
        if step.latents.shape[-1] > 8
    )
    assert step.latents.shape[-2:] == (12, 17)
    generator = fresh(5)
    latents(tiny_pipe, PROMPT, generator=generator, width=64, height=64)
    z = F.interpolate(first, (17, 17), mode="bilinear")[..., 2:14, :]
    assert torch.equal(step.latents, latents(tiny_pipe, PROMPT, generator=generator, image=z, strength=0.25))
    for upscaler in UPSCALERS:
        image = tiny_pipe(PROMPT, hires=sdxl.Hires(size="136x96", upscaler=upscaler), **more, **COMMON)[0]
        assert image.size == (136, 96)


def test_the_second_pass_is_conditioned_on_its_own_size(tiny_pipe: sdxl.Pipeline) -> None:
    plan = tiny_pipe.plan(sdxl.Request(PROMPT, width=64, height=48, hires={"scale": 2}))
    assert plan.second is not None
    for each, size in ((plan, (48, 64)), (plan.second, (96, 128))):
        assert each.size == each.sizes[0].original == each.sizes[0].target == size
    plan = tiny_pipe.plan(sdxl.Request(PROMPT, original_size=(32, 32), crop_top_left=(4, 0), hires={"scale": 2}))
    assert plan.second is not None
    assert plan.second.sizes[0].original == (32, 32) and plan.second.sizes[0].crop == (4, 0)


def test_memory_is_checked_for_the_larger_size(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    monkeypatch.setattr("sdxl.pipeline.residency.available", lambda _: 10e6)
    monkeypatch.setattr("sdxl.pipeline.call.run", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(OutOfMemoryError, match="an image of 1024 x 1024 needs"):
        pipe(PROMPT, width=64, height=64, hires={"scale": 16}, **COMMON)


# ---- steps -----------------------------------------------------------------------------------------------------------


def test_steps_previews_and_a_stop(tiny_pipe: sdxl.Pipeline) -> None:
    given: dict[str, Any] = {"seed": 5, "hires": {"scale": 2, "strength": 0.5}}
    steps = list(tiny_pipe.steps(PROMPT, steps=4, **given))
    assert [(step.index, step.total) for step in steps] == [(n, 6) for n in range(6)]
    assert [step.latents.shape[-1] for step in steps] == [8, 8, 8, 8, 16, 16]
    assert [step.is_last for step in steps] == [False] * 5 + [True]
    assert torch.equal(steps[-1].result("latent").images, latents(tiny_pipe, PROMPT, **given))  # type: ignore[arg-type]
    assert [step.result()[0].size for step in steps[3:5]] == [(64, 64), (128, 128)]
    stopped = tiny_pipe(PROMPT, callback=lambda step: step.index == 1, **given, **COMMON)
    assert stopped.parameters[0]["stopped_after"] == 2 and stopped[0].size == (64, 64)


def test_a_change_of_the_first_result_is_seen_in_the_second(tiny_pipe: sdxl.Pipeline) -> None:
    def erase(step: sdxl.PipelineStep) -> None:
        if step.index == 3:
            step.latents.zero_()

    found = latents(tiny_pipe, PROMPT, seed=5, hires={"strength": 0.5}, callback=erase)
    generator = fresh(5)
    latents(tiny_pipe, PROMPT, generator=generator)
    image = torch.zeros(1, 4, 16, 16)
    assert torch.equal(found, latents(tiny_pipe, PROMPT, generator=generator, image=image, strength=0.5))


def test_memory_that_runs_out_in_the_second_pass(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload="auto")
    make, left, indices = with_enlarged, [MemoryError()], list[int]()

    def failing(*given: Any) -> Any:
        if left:
            raise left.pop()
        return make(*given)

    def count(step: sdxl.PipelineStep) -> None:
        indices.append(step.index)

    monkeypatch.setattr("sdxl.pipeline.loop.with_enlarged", failing)
    given: dict[str, Any] = {"seed": 5, "hires": {"strength": 0.5}}
    with pytest.warns(SDXLWarning, match="memory ran out"):
        found = latents(pipe, PROMPT, callback=count, **given)
    assert indices == [*range(4), *range(6)] and pipe.offload == "block"
    assert torch.equal(found, latents(pipe, PROMPT, **given))


# ---- records ---------------------------------------------------------------------------------------------------------


def test_a_record_makes_the_image_again(tiny_pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    given = {
        "scale": 2,
        "upscaler": "Latent (bicubic)",
        "steps": 3,
        "strength": 0.7,
        "prompt": "a cat",
        "sampler": "Euler a",
    }
    result = tiny_pipe(PROMPT, seed=5, hires=given, **COMMON)
    (path,) = result.save(tmp_path / "a.png")
    recorded = sdxl.read_parameters(path)["request"]
    assert recorded["hires"] == given | {"scale": 2.0, "upscaler": "latent_bicubic", "sampler": "euler_ancestral"}
    again = tiny_pipe(**{name: value for name, value in recorded.items() if value is not None}, progress=False)
    assert again[0].tobytes() == result[0].tobytes()
    arguments = ["generate", "--from", str(path), "--model", str(tiny_folder), "--output", str(tmp_path / "b.png")]
    assert main([*arguments, "--dtype", "float32", "--device", "cpu", "--quiet"]) == 0
    assert Image.open(tmp_path / "b.png").tobytes() == result[0].tobytes()


def test_a_job_and_the_command_line(
    tiny_pipe: sdxl.Pipeline, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.jsonl"
    lines = [{"prompt": PROMPT, "seed": 5, "hires": {"scale": 2}}, {"prompt": "a cat", "seed": 6}]
    job.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "--quiet", "--steps", "4"]
    flags = ["--hires", "size=96x128,strength=.5,prompt=a cat, sitting"]
    assert main(["generate", "--batch", str(job), "--output-dir", str(tmp_path / "out"), *model, *flags]) == 0
    first, second = (Image.open(tmp_path / f"out/0000{n}.png") for n in (1, 2))
    assert first.tobytes() == tiny_pipe(PROMPT, seed=5, hires={"scale": 2}, **COMMON)[0].tobytes()
    assert second.size == (96, 128)
    own = sdxl.read_parameters(tmp_path / "out/00002.png")["request"]["hires"]
    assert own == {"size": [128, 96], "upscaler": "latent", "strength": 0.5, "prompt": "a cat, sitting"}
    output = str(tmp_path / "c.png")
    assert main(["generate", "a cat", "--seed", "6", "--output", output, *model, *flags]) == 0
    assert Image.open(output).tobytes() == second.tobytes()
    for wrong, words in (
        ("scale=2,scale=3", "gives scale twice"),
        ("2", "'2' is not NAME=VALUE with one of scale, size"),
        ("factor=2", "'factor=2' is not NAME=VALUE"),
        ("scale=2,denoise=0.5", "gives denoise; expected scale, size, upscaler, steps, strength, prompt"),
        ("upscaler=esrgan", "upscaler is 'esrgan'; it must be one of latent"),
    ):
        with pytest.raises(SystemExit):
            main(["generate", "a cat", "--hires", wrong])
        assert words in capsys.readouterr().err


def test_parts_of_the_flag() -> None:
    """A blank behind a comma is not the end of the parts."""
    found = read_value(sdxl.Hires, "scale=1.5, prompt=a cat, sitting, negative_prompt=a dog, steps=4")
    assert found == sdxl.Hires(1.5, prompt="a cat, sitting", negative_prompt="a dog", steps=4)


def test_the_text_that_other_tools_read(tiny_pipe: sdxl.Pipeline) -> None:
    hires = {"scale": 2, "upscaler": "latent_nearest_exact", "steps": 3, "strength": 0.7, "sampler": "DPM++ 2M Karras"}
    result = tiny_pipe(PROMPT, seed=5, hires=hires | {"prompt": "a cat, sitting"}, **COMMON)
    last = str(result[0].info["parameters"]).splitlines()[-1]
    assert (
        "RNG: CPU, Denoising strength: 0.7, Hires upscale: 2, Hires steps: 3, "
        "Hires upscaler: Latent (nearest-exact), Hires sampler: DPM++ 2M, Hires schedule type: Karras, "
        'Hires prompt: "a cat, sitting", Version'
    ) in last
    assert "Size: 64x64, " in last
    result = tiny_pipe(PROMPT, seed=5, hires={"size": (128, 96), "upscaler": "Lanczos"}, **COMMON)
    assert "Denoising strength: 0.7, Hires resize: 96x128, Hires upscaler: Lanczos, Version" in parameters_text(
        result.parameters[0], result[0].size
    )


# ---- errors ----------------------------------------------------------------------------------------------------------

WRONG: list[tuple[Any, str]] = [
    ({"scale": 0.5}, "scale of hires is 0.5; expected a number from 1 to 16"),
    ({"scale": 2, "size": (64, 64)}, "hires has a scale and a size"),
    ({"size": 64}, "size of hires is 64; expected"),
    ({"size": (64.5, 64)}, "size of hires is"),
    ({"size": "64"}, "size of hires is '64'"),
    ({"steps": 2.5}, "steps of hires is 2.5; expected a whole number"),
    ({"strength": 0}, "strength of hires is 0"),
    ({"strength": float("nan")}, "strength of hires is nan"),
    ({"strength": True}, "strength of hires is True"),
    ({"scale": 10**400}, "scale of hires is 1000.*; expected a number from 1 to 16"),
    ({"prompt": ["a"]}, "prompt of hires is"),
    ({"upscaler": "4x-UltraSharp"}, "upscaler is '4x-UltraSharp'; it must be one of latent"),
    ({"sampler": "eulerr"}, "sampler is 'eulerr'"),
    ({"denoise": 1}, "hires has no 'denoise'; its values are scale, size"),
    (2, "hires is 2; expected"),
    ({"strength": 0.1}, "in the second pass of hires strength 0.1 of 4 steps leaves none"),
    ({"size": (99999, 99999)}, "in the second pass of hires the image is 99992 x 99992"),
]


@pytest.mark.parametrize(("hires", "message"), WRONG)
def test_wrong_values(hires: Any, message: str, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(ArgumentError, match=message.replace("(", r"\(")):
        tiny_pipe(PROMPT, hires=hires, **COMMON)


def test_what_does_not_go_together(tiny_pipe: sdxl.Pipeline, inpainting_pipe: sdxl.Pipeline) -> None:
    image = Image.new("RGB", (64, 64))
    with pytest.raises(ArgumentError, match="hires is given beside image; it belongs to text to image"):
        tiny_pipe(PROMPT, image=image, hires={}, **COMMON)
    with pytest.raises(ArgumentError, match="needs an image and a mask"):
        inpainting_pipe(PROMPT, hires={}, **COMMON)
    with pytest.raises(ArgumentError, match="in the second pass of hires guidance_scale has 4 numbers for 5 steps"):
        tiny_pipe(PROMPT, guidance_scale=[5, 4, 3, 2], hires={"steps": 5}, **COMMON)
    with pytest.raises(ArgumentError, match="prompt of hires asks for other LoRAs"):
        tiny_pipe.plan(sdxl.Request("a cat", prompt_syntax="a1111", hires={"prompt": "a cat <lora:x>"}))


def test_names_of_upscalers() -> None:
    for name, upscaler in UPSCALERS.items():
        assert read_upscaler(upscaler.a1111) == read_upscaler(name) == read_upscaler(name.upper()) == name
    assert sdxl.Hires(steps=0) == sdxl.Hires(2, steps=None) == read_hires({"scale": 2})
    assert read_hires(sdxl.Hires(size=(8, 16)).record()) == sdxl.Hires(size="16x8")


def test_a_warning_of_both_passes_is_shown_once(tiny_pipe: sdxl.Pipeline) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", SDXLWarning)
        tiny_pipe.plan(sdxl.Request(PROMPT, guidance_scale=1, negative_prompt="a dog", hires={}))
        assert len(caught) == 1
