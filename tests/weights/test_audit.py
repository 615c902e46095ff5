"""`inspect` opens a model as a pipeline does, and lists what a pipeline would refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.cli.main import main
from sdxl.weights import container

MODEL = Path(__file__).parents[1] / "reference/model"
ADAPTERS = Path(__file__).parents[2] / "weights/adapters"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def test_a_sound_model_has_no_faults(model: Path, tmp_path: Path) -> None:
    sdxl.convert(model, tmp_path / "model.safetensors")
    for path, layout in ((model, "diffusers folder"), (tmp_path / "model.safetensors", "single file")):
        report = sdxl.inspect(path)
        assert report.kind == f"SDXL base, {layout}"
        assert set(report.parts) == {"text_encoder", "text_encoder_2", "unet", "vae"}
        assert not report.missing + report.unexpected + report.wrong


def test_every_component_of_a_folder_is_looked_at(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A VAE that lacks one tensor, has a stray one, and one of a wrong shape: a pipeline refuses it."""
    tensors = load_file(model / VAE)
    del tensors["decoder.conv_in.weight"]
    tensors["decoder.stray.weight"] = torch.zeros(3)
    tensors["quant_conv.bias"] = torch.zeros(5)
    save_file(tensors, model / VAE)
    report = sdxl.inspect(model)
    assert report.missing == ["vae/decoder.conv_in.weight"]
    assert report.unexpected == ["vae/decoder.stray.weight"]
    assert len(report.wrong) == 1
    assert report.wrong[0].startswith("vae/quant_conv.bias has shape [5]")
    with pytest.raises(sdxl.CheckpointError, match=r"1 tensors do not belong .*: decoder\.stray\.weight"):
        sdxl.Pipeline.from_pretrained(model)
    assert main(["inspect", str(model)]) == 0
    said = capsys.readouterr().out
    assert "missing 1: vae/decoder.conv_in.weight" in said
    assert "wrong: vae/quant_conv.bias has shape [5]" in said


def test_the_same_faults_in_a_single_file(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    sdxl.convert(model, path)
    tensors = load_file(path)
    del tensors["first_stage_model.decoder.conv_in.weight"]
    tensors["model.diffusion_model.stray"] = torch.zeros(3)
    save_file(tensors, path)
    report = sdxl.inspect(path)
    assert report.missing == ["first_stage_model.decoder.conv_in.weight"]
    assert report.unexpected == ["model.diffusion_model.stray"]


def test_a_folder_that_a_pipeline_cannot_open_is_an_error(model: Path) -> None:
    (model / "vae/config.json").unlink()
    with pytest.raises(sdxl.CheckpointError, match=r"vae/config\.json is missing"):
        sdxl.inspect(model)


@pytest.mark.parametrize("name", ["model", "edges", "heart", "colours", "tiny-decoder"])
def test_the_header_of_a_file_is_read_once(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full-size model's takes 20 ms."""
    path = ADAPTERS / f"{name}.safetensors"
    if name == "model":
        path = tmp_path / "model.safetensors"
        sdxl.convert(model, path)
    opened: list[Path] = []
    measure = container._measure
    monkeypatch.setattr(container, "_measure", lambda path: opened.append(path) or measure(path))
    assert sdxl.inspect(path).kind
    assert opened == [path]
