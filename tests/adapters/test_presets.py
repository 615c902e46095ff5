"""Presets: a file shows what a request leaves open, every field can be overridden, and the images are diffusers' with
the settings of the model's card.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapter_files import save_layout
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.cli.main import main
from sdxl.models import published
from sdxl.models.schedule_config import EDM, ScheduleConfig
from sdxl.models.unet_config import UNetConfig
from sdxl.sampling.presets import PRESETS, Family, by_text
from sdxl.sampling.samplers import SAMPLERS
from sdxl.sampling.schedules import SCHEDULES
from sdxl.weights.recognise import by_name, recognise

PROMPT = "A mecha robot in a favela in expressionist style"
SIZE: dict[str, Any] = {"height": 64, "width": 64}
QUIET: dict[str, Any] = {"seed": 5, "output": "latent", "progress": False, **SIZE}
BASE = published.BASE_UNET


# ---- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_made_for_its_own_settings(name: str) -> None:
    """They are values that a request takes, and none is one that it warns of."""
    preset = PRESETS[name]
    request = sdxl.Request(PROMPT, **{"steps": 30, "guidance_scale": 5.0, **preset.settings})
    assert list(preset.faults(request)) == []
    assert preset.settings.get("sampler") in (None, *SAMPLERS)
    assert {preset.settings.get("schedule"), *preset.schedules} <= {None, *SCHEDULES}
    assert preset.title and name != "none"


NAMES = {
    "two-steps": "two_steps",
    "sd_xl_turbo_1.0_fp16": "turbo",
    "sdxl-turbo": "turbo",
    "sdxl_lightning_1step_x0": "lightning_1",
    "sdxl_lightning_2step": "lightning_2",
    "sdxl_lightning_4step_unet": "lightning_4",
    "sdxl_lightning_8step_lora": "lightning_8",
    "SDXL Lightning, 4 steps": "lightning_4",
    "Hyper-SDXL-1step-lora": "hyper_unified",
    "Hyper-SDXL-1step-Unet-Comfyui.fp16": "hyper_unet_1",
    "Hyper-SDXL-2steps-lora": "hyper_2",
    "Hyper-SDXL-4steps-lora": "hyper_4",
    "Hyper-SDXL-8steps-lora": "hyper_8",
    "Hyper-SDXL-8steps-CFG-lora": "hyper_cfg_8",
    "Hyper-SDXL-12steps-CFG-lora": "hyper_cfg_12",
    "dmd2_sdxl_1step_unet_fp16": "dmd2_1",
    "dmd2_sdxl_4step_lora_fp16": "dmd2_4",
    "DMD2": "dmd2_4",
    "TCD-SDXL-LoRA": "tcd_lora",
    "lcm-lora-sdxl": "lcm_lora",
    "LCM_LoRA_SDXL": "lcm_lora",
    "juggernautXL_v9Rdphoto2Lightning": "fast_merge",
    "Juggernaut_RunDiffusionPhoto2_Lightning_4Steps": "lightning_4",
    "DreamShaperXL_Turbo_v2_1": "fast_merge",
    "dreamshaperXL_lightningDPMSDE": "fast_merge",
    "TurboVisionXL-v4": "fast_merge",
    "sd_xl_base_1.0": None,
    "ponyDiffusionV6XL": None,
    "hyperrealistic_xl": None,
    "epicrealismXL": None,
    "falconcam": None,
}


@pytest.mark.parametrize(("name", "preset"), NAMES.items())
def test_names(name: str, preset: str | None) -> None:
    found = by_text(name, "its name")
    assert (found and found.preset) == preset


def test_a_lora_of_lightning_may_be_a_style() -> None:
    assert by_text("lightning_bolts", "its name", of_lora=True) is None
    assert by_text("sdxl_lightning_4step_lora", "its name", of_lora=True) == Family("lightning_4", "its name")


def test_a_file_with_a_general_name_has_that_of_its_folder() -> None:
    hub = Path("/hub/models--latent-consistency--lcm-lora-sdxl/snapshots") / ("a" * 40)
    for path, preset in (
        (hub / "pytorch_lora_weights.safetensors", "lcm_lora"),
        (Path("/models/sdxl-turbo"), "turbo"),
        (Path("/models/sdxl_lightning_4step/unet/diffusion_pytorch_model.fp16.safetensors"), "lightning_4"),
        (Path("/hub/models--ByteDance--SDXL-Lightning/snapshots/0/sdxl_lightning_2step.safetensors"), "lightning_2"),
        (Path("/models/turbo/realistic.safetensors"), None),
    ):
        found = by_name(path)
        assert (found and found.preset) == preset, path


STATED = ScheduleConfig(sampler="euler_ancestral", schedule="trailing")
V = ScheduleConfig(prediction="v_prediction")
SNR = ScheduleConfig(prediction="v_prediction", zero_terminal_snr=True)
SMALL = UNetConfig(sample_size=(64, 64))


@pytest.mark.parametrize(
    ("unet", "schedule", "metadata", "name", "preset", "reason"),
    [
        (UNetConfig(guidance_dim=256), STATED, {}, "sd_xl_turbo", "lcm", "takes the guidance scale"),
        (BASE, ScheduleConfig(prediction="edm", edm=EDM()), {}, "turbo", "playground", "EDM's noise levels"),
        (BASE, V, {}, "turbo", "v_prediction", "state v-prediction"),
        (BASE, SNR, {}, "turbo", "zero_snr", "v-prediction and zero terminal SNR"),
        (published.SSD_1B_UNET, STATED, {}, "turbo", "ssd_1b", "the depths of its UNet"),
        (published.VEGA_UNET, ScheduleConfig(), {}, "x", "vega", "the depths of its UNet"),
        (published.KOALA_700M_UNET, ScheduleConfig(), {}, "x", None, ""),
        (SMALL, STATED, {"modelspec.title": "SDXL Lightning 4step"}, "x", "turbo", "euler_ancestral, trailing and 512"),
        (BASE, STATED, {}, "x", None, ""),
        (SMALL, ScheduleConfig(), {}, "x", None, ""),
        (BASE, ScheduleConfig(prediction="sample"), {}, "x", "lightning_1", "it predicts the sample"),
        (BASE, ScheduleConfig(sampler="lcm"), {}, "x", "lcm_lora", "the sampler lcm"),
        (BASE, ScheduleConfig(sampler="tcd"), {}, "x", "tcd_lora", "the sampler tcd"),
        (BASE, STATED, {"modelspec.title": "SDXL Lightning 4step"}, "sd_xl_turbo", "lightning_4", "modelspec.title"),
        (BASE, STATED, {"ss_output_name": "dmd2"}, "sd_xl_turbo", "dmd2_4", "ss_output_name"),
        (BASE, STATED, {"modelspec.title": "my merge"}, "sd_xl_turbo", "turbo", "the name sd_xl_turbo"),
        (BASE, ScheduleConfig(), {}, "base", None, ""),
    ],
)
def test_keys_then_shapes_then_configs_then_headers_then_names(
    unet: UNetConfig, schedule: ScheduleConfig, metadata: dict[str, str], name: str, preset: str | None, reason: str
) -> None:
    found = recognise(unet, schedule, Path(f"/models/{name}.safetensors"), metadata)
    assert (found and found.preset) == preset
    assert found is None or reason in found.reason


# ---- whole runs against diffusers, with nothing given but the prompt -------------------------------------------------


def euler(**more: Any) -> Any:
    return tiny.scheduler("euler", "trailing", **more)


def lcm(**more: Any) -> Any:
    import diffusers

    return diffusers.LCMScheduler(**tiny.SCHEDULER | {"timestep_spacing": "leading", **more})


def tcd() -> Any:
    import diffusers

    return diffusers.TCDScheduler(**tiny.SCHEDULER)


OFF: dict[str, Any] = {"guidance_scale": 0.0}
RUNS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sdxl_lightning_1step_x0": (lambda: euler(prediction_type="sample"), {"num_inference_steps": 1, **OFF}),
    "sdxl_lightning_2step": (euler, {"num_inference_steps": 2, **OFF}),
    "sdxl_lightning_4step": (euler, {"num_inference_steps": 4, **OFF}),
    "sdxl_lightning_8step": (euler, {"num_inference_steps": 8, **OFF}),
    "sd_xl_turbo_1.0": (lambda: tiny.scheduler("euler_ancestral", "trailing"), {"num_inference_steps": 1, **OFF}),
    "Hyper-SDXL-4steps-lora": (lambda: tiny.scheduler("ddim", "trailing"), {"num_inference_steps": 4, **OFF}),
    "Hyper-SDXL-8steps-CFG-lora": (
        lambda: tiny.scheduler("ddim", "trailing"),
        {"num_inference_steps": 8, "guidance_scale": 5.0},
    ),
    "Hyper-SDXL-1step-lora": (tcd, {"num_inference_steps": 4, "eta": 1.0, **OFF}),
    "Hyper-SDXL-1step-Unet": (lcm, {"timesteps": [800], **OFF}),
    "TCD-SDXL-LoRA": (tcd, {"num_inference_steps": 4, "eta": 0.3, **OFF}),
    "lcm-lora-sdxl": (lcm, {"num_inference_steps": 4, "guidance_scale": 1.0}),
    "dmd2_sdxl_4step_unet": (lcm, {"timesteps": [999, 749, 499, 249], **OFF}),
    "dmd2_sdxl_1step_unet": (lcm, {"timesteps": [399], **OFF}),
}


def theirs(pipe: Any, scheduler: Any, **settings: Any) -> torch.Tensor:
    old, pipe.scheduler = pipe.scheduler, scheduler
    try:
        return pipe(PROMPT, generator=tiny.generators([5]), output_type="latent", **SIZE, **settings).images
    finally:
        pipe.scheduler = old


def opened(path: Path, **arguments: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(path, dtype="float32", device="cpu", **arguments)


@pytest.fixture
def bare(converted: Path) -> Path:
    """The tiny base model as a single file, whose scheduler recommends euler and leading."""
    return converted


def named(bare: Path, folder: Path, name: str) -> Path:
    """The file under another name."""
    return Path(shutil.copy(bare, folder / f"{name}.safetensors"))


@pytest.mark.parametrize("name", RUNS)
def test_a_prompt_is_enough(name: str, bare: Path, reference_pipe: Any, tmp_path: Path, error: Any) -> None:
    make, settings = RUNS[name]
    pipe = opened(named(bare, tmp_path, name))
    expected = theirs(reference_pipe, make(), **settings)
    result = pipe(PROMPT, **QUIET)
    assert error(result.images, expected) < 1e-4
    again = opened(bare)(**result.parameters[0]["request"], output="latent", progress=False)
    assert torch.equal(result.images, again.images), "the record replays on a file whose name says nothing"


def test_the_full_lcm(reference_pipe: Any, tmp_path: Path, error: Any) -> None:
    """Its guidance is an input: one row for an image, and a negative prompt changes nothing."""
    import diffusers

    pipe = diffusers.StableDiffusionXLPipeline(
        **{**reference_pipe.components, "unet": tiny.unet(tiny.UNET | {"time_cond_proj_dim": 16})},
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "folder")
    ours = opened(tmp_path / "folder")
    family = ours.info.family
    assert family is not None and family.preset == "lcm"
    expected = theirs(pipe, lcm(), num_inference_steps=4, guidance_scale=8.0)
    assert error(ours(PROMPT, **QUIET).images, expected) < 1e-4
    assert ours.plan(sdxl.Request(PROMPT)).guider.names == ("positive",)
    with pytest.warns(sdxl.SDXLWarning, match="negative_prompt has no effect: the UNet takes the guidance scale"):
        same = ours(PROMPT, negative_prompt="a cat", **QUIET).images
    assert error(same, expected) < 1e-4
    steps = ours(PROMPT, guidance_scale=[8.0, 3.0, 3.0, 8.0], **QUIET).images
    assert error(steps, expected) > 1e-3


# ---- what is taken, and what overrides it ---------------------------------------------------------------------------


def settings_of(pipe: sdxl.Pipeline, **given: Any) -> dict[str, Any]:
    request = pipe.plan(sdxl.Request(PROMPT, **SIZE | given)).request
    names = ("preset", "steps", "sampler", "schedule", "guidance_scale", "guidance_rescale")
    return {name: getattr(request, name) for name in names}


ORDINARY = {
    "preset": None,
    "steps": 30,
    "sampler": "euler",
    "schedule": "leading",
    "guidance_scale": 5.0,
    "guidance_rescale": 0.0,
}
LIGHTNING = ORDINARY | {"preset": "lightning_4", "steps": 4, "schedule": "trailing", "guidance_scale": 0.0}


def test_ordinary_models_are_what_they_were(tiny_pipe: sdxl.Pipeline) -> None:
    assert tiny_pipe.info.family is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settings_of(tiny_pipe) == ORDINARY


def test_every_field_can_be_overridden(bare: Path, tmp_path: Path) -> None:
    pipe = opened(named(bare, tmp_path, "sdxl_lightning_4step"), offload="stage")
    assert str(pipe.info.family) == "lightning_4 (SDXL-Lightning of 4 steps: the name sdxl_lightning_4step)"
    assert settings_of(pipe) == LIGHTNING
    given = {"sampler": "dpmpp_2m", "schedule": "sgm"}
    assert settings_of(pipe, **given) == LIGHTNING | given
    assert settings_of(pipe, preset="none") == ORDINARY | {"preset": "none"}
    assert settings_of(pipe, preset="turbo")["steps"] == 1
    with pytest.raises(sdxl.ArgumentError, match="preset is 'fast'; it must be one of none, lightning_1"):
        sdxl.Request(PROMPT, preset="fast")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "sdxl_lightning_4step",
            {"schedule": "leading"},
            "schedule is leading; SDXL-Lightning of 4 steps was made for",
        ),
        ("sdxl_lightning_4step", {"steps": 30}, "steps is 30; SDXL-Lightning of 4 steps was made for 4. Try steps=4"),
        ("sd_xl_turbo_1.0", {"guidance_scale": 7.0}, "guidance_scale is 7; SDXL Turbo was made for at most 1"),
        ("sd_xl_turbo_1.0", {"steps": 20}, "steps is 20; SDXL Turbo was made for 1 to 4"),
        ("sd_xl_turbo_1.0", {"guidance_scale": [7.0, 1.0], "steps": 2}, "guidance_scale is 7; SDXL Turbo"),
    ],
)
def test_settings_that_make_noise_are_warned_of(
    name: str, given: dict[str, Any], message: str, bare: Path, tmp_path: Path
) -> None:
    pipe = opened(named(bare, tmp_path, name), offload="stage")
    with pytest.warns(sdxl.SDXLWarning, match=message):
        settings_of(pipe, **given)


def test_turbo_has_its_own_size(bare: Path, tmp_path: Path) -> None:
    """Where the files do not state it; the tiny model's is smaller already."""
    pipe = opened(named(bare, tmp_path, "sd_xl_turbo_1.0"), offload="stage")
    from dataclasses import replace

    from sdxl.pipeline.preset import with_preset

    config = pipe.info.config
    big = replace(pipe.info, config=replace(config, unet=replace(config.unet, sample_size=(128, 128))))
    for given, size in (({}, 512), ({"width": 1024}, None), ({"image": "x.png"}, None)):
        request = with_preset(sdxl.Request(PROMPT, **given), big)  # type: ignore[arg-type]
        assert request.height == size
    assert with_preset(sdxl.Request(PROMPT), pipe.info).height is None


def test_a_unet_of_a_family(bare: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """The UNet's file decides, not the model's; a UNet that shows nothing leaves nothing of the model's name."""
    unet = {key: value for key, value in load_file(bare).items() if "diffusion_model" in key}
    save_file(unet, tmp_path / "sdxl_lightning_4step_unet.safetensors")
    save_file(unet, tmp_path / "plain.safetensors")
    turbo = named(bare, tmp_path, "sd_xl_turbo_1.0")
    for model, file, preset in (
        (tiny_folder, "sdxl_lightning_4step_unet", "lightning_4"),
        (turbo, "sdxl_lightning_4step_unet", "lightning_4"),
        (turbo, "plain", None),
    ):
        pipe = opened(model, unet=tmp_path / f"{file}.safetensors", offload="stage")
        assert settings_of(pipe)["preset"] == preset
    pipe = opened(turbo, vae=tiny_folder / "vae", offload="stage")
    assert settings_of(pipe)["preset"] == "turbo", "a VAE changes no family"


@pytest.fixture
def lora(tiny_folder: Path, tmp_path: Path) -> Path:
    return lora_file(tiny_folder, tmp_path / "sdxl_lightning_4step_lora.safetensors")


def lora_file(model: Path, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A LoRA of the model, in the layout that those of distilled models have."""
    save_layout("kohya diffusers", model, path)
    if metadata:
        save_file(load_file(path), path, metadata)
    return path


def test_a_lora_of_a_family(lora: Path, bare: Path, tmp_path: Path, error: Any) -> None:
    """It sets what the request leaves open, on any base; with a weight of 0 it is not there."""
    pipe = opened(bare)
    assert settings_of(pipe, loras=[lora]) == LIGHTNING
    assert settings_of(pipe, loras=[(lora, 0.0)]) == ORDINARY
    assert settings_of(pipe) == ORDINARY
    explicit = {"steps": 4, "sampler": "euler", "schedule": "trailing", "guidance_scale": 0.0}
    plain = Path(shutil.copy(lora, tmp_path / "style.safetensors"))
    wanted = pipe(PROMPT, loras=[plain], **QUIET | explicit).images
    assert error(pipe(PROMPT, loras=[lora], **QUIET).images, wanted) == 0
    turbo = opened(named(bare, tmp_path, "sd_xl_turbo_1.0"), offload="stage", loras=[lora])
    assert settings_of(turbo) == LIGHTNING
    report = sdxl.inspect(lora)
    assert report.distilled.preset == "lightning_4"  # type: ignore[union-attr]
    titled = lora_file(bare, tmp_path / "a.safetensors", {"modelspec.title": "Hyper-SDXL-8steps-lora"})
    assert settings_of(pipe, loras=[titled])["preset"] == "hyper_8"


def test_which_one_was_taken_and_why(
    bare: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    model = named(bare, tmp_path, "sdxl_lightning_4step")
    pipe = opened(model, offload="stage")
    with caplog.at_level(logging.INFO, "sdxl.preset"):
        settings_of(pipe, sampler="heun")
    line = "preset lightning_4 (SDXL-Lightning of 4 steps: the name sdxl_lightning_4step): "
    assert caplog.messages == [f"{line}steps 4, guidance_scale 0.0, schedule trailing"]
    assert sdxl.inspect(model).family == pipe.info.family  # type: ignore[union-attr]
    assert main(["inspect", str(model)]) == 0
    assert "  preset lightning_4 (SDXL-Lightning" in capsys.readouterr().out


def test_the_command_line_and_jobs(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = named(bare, tmp_path, "sdxl_lightning_2step")
    common = ["--model", str(model), "--width", "64", "--height", "64", "--device", "cpu", "--dtype", "float32"]
    output = tmp_path / "a.png"
    assert main(["generate", "--prompt", "a cat", "--seed", "3", "--output", str(output), "--quiet", *common]) == 0
    printed = capsys.readouterr().err
    assert printed.count("preset lightning_2 (") == 1
    recorded = sdxl.read_parameters(output)["request"]
    assert (recorded["preset"], recorded["steps"], recorded["guidance_scale"]) == ("lightning_2", 2, 0.0)
    shutil.move(model, tmp_path / "renamed.safetensors")
    again = tmp_path / "b.png"
    moved = ["--model", str(tmp_path / "renamed.safetensors")]
    assert main(["generate", "--from", str(output), "--output", str(again), "--quiet", *moved]) == 0
    assert sdxl.read_parameters(again)["request"] == recorded
    lines = [{"prompt": "a cat"}, {"prompt": "a cat", "preset": "turbo"}, {"prompt": "a cat", "preset": "slow"}]
    job = tmp_path / "job.jsonl"
    job.write_text("\n".join(json.dumps({**line, "seed": 3}) for line in lines))
    shutil.move(tmp_path / "renamed.safetensors", model)
    assert main(["generate", "--batch", str(job), "--output-dir", str(tmp_path / "out"), "--quiet", *common]) == 1
    presets = [sdxl.read_parameters(file)["request"]["preset"] for file in sorted((tmp_path / "out").glob("*.png"))]
    assert presets == ["lightning_2", "turbo"]
    assert "preset is 'slow'" in capsys.readouterr().err


def test_the_prediction_type_belongs_to_the_preset(
    bare: Path, tmp_path: Path, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A file whose name says nothing is of a family if the request says so; zero terminal SNR changes the sigmas."""
    pipe = opened(bare)
    lightning = opened(named(bare, tmp_path, "sdxl_lightning_1step_x0"))
    assert error(pipe(PROMPT, preset="lightning_1", **QUIET).images, lightning(PROMPT, **QUIET).images) == 0
    assert pipe.plan(sdxl.Request(PROMPT, preset="zero_snr", schedule="trailing")).sigmas[0] > 1000
    assert pipe.plan(sdxl.Request(PROMPT, schedule="trailing")).sigmas[0] < 15
    with caplog.at_level(logging.INFO, "sdxl.preset"):
        assert pipe.plan(sdxl.Request(PROMPT, preset="v_prediction")).noise.prediction == "v_prediction"
    assert caplog.messages[-1].endswith(": prediction v_prediction")


@pytest.mark.slow
def test_a_preset_means_something() -> None:
    """The distilled miniature's LoRA is enough: without the preset, its images are noise in as many steps."""
    from sdxl.miniature.exam import make_scenes, mark

    file = Path(__file__).parents[2] / "weights/adapters/two-steps.safetensors"
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu", loras=[file])
    scenes = make_scenes(20, 71, things=1)
    assert settings_of(pipe, width=128, height=128)["preset"] == "two_steps"
    assert mark(pipe, scenes, steps=None, sampler=None) >= 0.85
    assert mark(pipe, scenes, preset="none", steps=2) <= 0.3
