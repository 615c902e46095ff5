"""The sampler and schedule that a model's files recommend: they refuse no model, and are obeyed where they can be."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.cli.main import main
from sdxl.errors import SDXLWarning
from sdxl.weights.checkpoint import open_checkpoint

MODEL = Path(__file__).parents[1] / "reference/model"
SOLVER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "sde-dpmsolver++",
    "solver_order": 3,
    "use_lu_lambdas": True,
}
SAMPLER_NOTE = "solver_order 3 is not supported; the default sampler is dpmpp_2m_sde"
SCHEDULE_NOTE = "use_lu_lambdas True is not supported; the default schedule is leading"


def folder(path: Path, **fields: Any) -> Path:
    """The model with other fields in its scheduler_config.json."""
    shutil.copytree(MODEL, path)
    config = path / "scheduler/scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    return path


@pytest.fixture(scope="module")
def solver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("solver") / "model", **SOLVER)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a single file of another tool, which states no schedule."""
    path = tmp_path_factory.mktemp("bare")
    sdxl.convert(MODEL, path / "whole.safetensors")
    save_file(load_file(path / "whole.safetensors"), path / "bare.safetensors")
    return path / "bare.safetensors"


def marked(bare: Path, path: Path, *keys: str, only: str = "") -> Path:
    """The single file with marker keys; only its tensors with a prefix."""
    tensors = {key: value for key, value in load_file(bare).items() if key.startswith(only)}
    save_file(tensors | {key: torch.zeros(0) for key in keys}, path)
    return path


def opened(model: Path, **arguments: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(model, dtype="float32", device="cpu", offload="stage", **arguments)


def warnings_of(pipe: sdxl.Pipeline, **arguments: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe.plan(sdxl.Request("cat", width=64, height=64, steps=4, **arguments))
    return [str(each.message) for each in caught]


def test_a_recommendation_that_is_not_supported_is_a_warning_where_it_counts(solver: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = opened(solver)
    plan = pipe.plan(sdxl.Request("cat", sampler="euler", schedule="karras"))
    assert (plan.request.sampler, plan.request.schedule) == ("euler", "karras")
    for given, notes in (
        ({}, [SAMPLER_NOTE, SCHEDULE_NOTE]),
        ({"sampler": "euler"}, [SCHEDULE_NOTE]),
        ({"schedule": "leading"}, [SAMPLER_NOTE]),
        ({"sampler": "euler", "schedule": "leading"}, []),
    ):
        found = warnings_of(pipe, **given)
        assert len(found) == len(notes), given
        assert all(note in text and "scheduler_config.json: " in text for text, note in zip(found, notes, strict=True))


def test_the_components_of_such_a_model_are_taken_in_silence(solver: Path) -> None:
    for name in ("unet", "vae"):
        pipe = opened(MODEL, **{name: solver})
        assert warnings_of(pipe) == []
        assert (pipe.info.schedule.sampler, pipe.info.schedule.notes) == ("euler", ())


def test_a_vae_beside_components_that_are_not_supported(tmp_path: Path) -> None:
    other = folder(tmp_path / "model", _class_name="FlowMatchEulerDiscreteScheduler")
    config = other / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"class_embed_type": "timestep"}))
    assert opened(MODEL, vae=other).info == opened(MODEL).info
    with pytest.raises(sdxl.ConfigError, match=r"FlowMatchEulerDiscreteScheduler|class_embed_type"):
        opened(MODEL, unet=other)
    index = other / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(sdxl.CheckpointError, match="not an SDXL model"):
        opened(MODEL, vae=other)


def test_inspect_and_convert_name_the_recommendation(
    solver: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(solver)]) == 0
    output = capsys.readouterr().out
    assert f"note: {solver}/scheduler/scheduler_config.json: {SAMPLER_NOTE}" in output
    assert SCHEDULE_NOTE in output
    assert len(sdxl.inspect(solver).notes) == 2
    assert sdxl.inspect(MODEL).notes == []
    with pytest.warns(SDXLWarning) as caught:
        sdxl.convert(solver, tmp_path / "single.safetensors")
    assert [str(each.message).split(" (")[0].partition("json: ")[2] for each in caught] == [
        SAMPLER_NOTE + ", choose another with sampler=",
        SCHEDULE_NOTE + ", choose another with schedule=",
    ]
    schedule = open_checkpoint(tmp_path / "single.safetensors").info.schedule
    assert (schedule.sampler, schedule.schedule, schedule.notes) == ("dpmpp_2m_sde", "leading", ())


def schedules(pipe: sdxl.Pipeline) -> tuple[str | None, float]:
    """The default schedule, and the timestep that it begins at with 30 steps."""
    plan = pipe.plan(sdxl.Request("cat", width=64, height=64, steps=30))
    return plan.request.schedule, plan.schedule.timesteps[0]


def test_zero_terminal_snr_begins_at_the_last_timestep(bare: Path, tmp_path: Path) -> None:
    """Lin et al. 2023, section 3.3: a model that was trained on pure noise must begin with it."""
    both = marked(bare, tmp_path / "both.safetensors", "v_pred", "ztsnr")
    unet = marked(bare, tmp_path / "unet.safetensors", "v_pred", "ztsnr", only="model.diffusion_model.")
    plain = marked(bare, tmp_path / "plain.safetensors", "v_pred")
    assert sdxl.inspect(both).kind == "SDXL base, v-prediction, zero terminal SNR, single file"
    assert schedules(opened(both)) == ("trailing", 999)
    assert opened(both).plan(sdxl.Request("cat", steps=30)).sigmas[0] == pytest.approx(4096, rel=1e-6)
    assert schedules(opened(bare, unet=unet)) == ("trailing", 999)
    assert schedules(opened(both, unet=plain)) == ("leading", 958)
    assert schedules(opened(plain)) == ("leading", 958)
    assert opened(both).plan(sdxl.Request("cat", schedule="leading")).request.schedule == "leading"


def test_a_schedule_that_files_state_is_obeyed(bare: Path, tmp_path: Path) -> None:
    ends = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    stated = folder(tmp_path / "leading", **ends)
    assert schedules(opened(stated)) == ("leading", 958)
    assert schedules(opened(folder(tmp_path / "linspace", timestep_spacing="linspace", **ends))) == ("linspace", 999)
    sdxl.convert(stated, tmp_path / "stated.safetensors")
    assert schedules(opened(tmp_path / "stated.safetensors")) == ("leading", 958)
    unet = marked(bare, tmp_path / "unet.safetensors", "v_pred", "ztsnr", only="model.diffusion_model.")
    assert schedules(opened(MODEL, unet=unet)) == ("leading", 958)
    both = marked(bare, tmp_path / "both.safetensors", "v_pred", "ztsnr")
    sdxl.convert(both, tmp_path / "converted")
    config = json.loads((tmp_path / "converted/scheduler/scheduler_config.json").read_text())
    assert (config["timestep_spacing"], config["rescale_betas_zero_snr"]) == ("trailing", True)


@pytest.mark.parametrize("metadata", [{}, {"modelspec.prediction_type": "epsilon"}])
def test_zero_terminal_snr_without_v_prediction(metadata: dict[str, str], bare: Path, tmp_path: Path) -> None:
    path = marked(bare, tmp_path / "z.safetensors", "ztsnr")
    save_file(load_file(path), path, metadata)
    with pytest.warns(SDXLWarning, match=r"z\.safetensors states zero terminal SNR \(ztsnr\) without v-prediction"):
        pipe = opened(path)
    schedule = pipe.info.schedule
    assert (schedule.prediction, schedule.zero_terminal_snr, schedule.schedule) == ("epsilon", False, "leading")
