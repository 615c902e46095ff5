"""The home folder of a user in the paths of Python: readers and writers take ~ alike."""

from __future__ import annotations

import json
import ntpath
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sdxl
from sdxl.adapters import read_adapter
from sdxl.errors import OutputError, SDXLError
from sdxl.jobs import open_folder, parse_job, read_job
from sdxl.models.vision import VisionEncoder
from sdxl.models.vision_config import VisionConfig
from sdxl.training import attach_lora, load_network, save_image_encoder, save_lora
from sdxl.weights import file_hash, inspect, open_checkpoint, open_component, save_folder, save_single, tensor_hash
from sdxl.weights.path import expanded


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the user, who is elsewhere."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize("kind", [str, Path])
def test_models(kind: type[str] | type[Path], tiny_folder: Path, home: Path) -> None:
    first = open_checkpoint(tiny_folder)
    state = {name: component.state() for name, component in first.components.items()}
    save_folder(kind("~/folder"), first.info, state)
    save_single(kind("~/file.safetensors"), first.info, state)
    for name in ("folder", "file.safetensors"):
        assert open_checkpoint(kind(f"~/{name}")).info.config == first.info.config
        assert open_component(kind(f"~/{name}"), "unet", first.info.config).keys()
        assert not inspect(kind(f"~/{name}")).missing
    for compute in (file_hash, tensor_hash):
        assert compute(kind("~/file.safetensors")) == compute(home / "file.safetensors")
    assert not [*Path().iterdir()]


def test_what_is_trained(tiny_folder: Path, home: Path) -> None:
    checkpoint = open_checkpoint(tiny_folder)
    layers = attach_lora(load_network(checkpoint.components["unet"]), 1)
    save_lora("~/lora.safetensors", checkpoint.info.config, {"unet": layers}, {})
    assert len(read_adapter("~/lora.safetensors").modules) == len(layers)
    config = VisionConfig(image_size=28, patch=14, dim=8, ff_dim=8, layers=1, heads=1, projection_dim=8)
    save_image_encoder("~/encoder", VisionEncoder(config), torch.float32)
    assert sorted(path.name for path in (home / "encoder").iterdir()) == ["config.json", "model.safetensors"]
    assert not [*Path().iterdir()]


def test_jobs(home: Path) -> None:
    (home / "job.jsonl").write_text('{"prompt": "a cat"}\n')
    job = read_job("~/job.jsonl", {}, {})
    shown = parse_job('{"prompt": "a cat", "image": "cat.png"}', "~", {}, {})
    assert shown.items[0].arguments["image"] == str(home / "cat.png")
    with open_folder("~/images", job, 1):
        assert (home / "images/job").is_dir()
    assert not [*Path().iterdir()]


@pytest.mark.parametrize("name", ["~\0", "~\0/x", "~user\0/x", "d\0/x", "\0"])
def test_a_null_byte_in_the_name_of_a_network(name: str, tiny_pipe: sdxl.Pipeline, home: Path) -> None:
    """In a job it is an error of its line."""
    Image.new("RGB", (8, 8)).save("a.png")
    values: list[dict[str, Any]] = [
        {"loras": [name]},
        {"control": [{"net": name, "image": "a.png"}]},
        {"reference": [{"adapter": name, "image": "a.png"}]},
        {"hires": {"upscaler": name}},
    ]
    for value in values:
        job = parse_job(json.dumps({"prompt": "a cat", **value}), Path(), {}, {})
        with pytest.raises(SDXLError) as error:
            tiny_pipe("a cat", **value)
        assert isinstance(job.faults[1], SDXLError) and not job.items and error.value


def test_a_name_that_begins_like_a_home(tiny_folder: Path, home: Path) -> None:
    """It was a RuntimeError of pathlib."""
    sdxl.convert(tiny_folder, "~no-such-user.safetensors")
    assert open_checkpoint("~no-such-user.safetensors")
    with pytest.raises(OutputError, match="exists"):
        sdxl.convert(tiny_folder, "~no-such-user.safetensors")


def test_a_name_that_windows_takes_for_a_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python puts every name behind ~ beside the folder of the user."""
    monkeypatch.setenv("USERPROFILE", "C:\\Users\\ann")
    monkeypatch.setenv("USERNAME", "ann")
    monkeypatch.setattr(os.path, "expanduser", ntpath.expanduser)
    assert os.path.expanduser("~x.safetensors") == "C:\\Users\\x.safetensors"
    for name in ("~x.safetensors", "~models/x.safetensors", "a~/~", ""):
        assert expanded(name) == Path(name)
    assert expanded("~/x.safetensors") == Path("C:\\Users\\ann/x.safetensors")
