"""Paths that do not exist: what was perhaps meant."""

from __future__ import annotations

from pathlib import Path

import pytest

import sdxl
from sdxl.weights import hub
from sdxl.weights.nearby import hint_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/old").mkdir(parents=True)
    for name in ("base_v10.safetensors", "notes.txt", "old/Größe.safetensors"):
        (tmp_path / "models" / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("models/base_v1.safetensors", "models/base_v10.safetensors"),
        ("models/base_v10", "models/base_v10.safetensors"),
        ("models\\base_v10.safetensors", "models/base_v10.safetensors"),
        ("models\\base_v11.safetensors", "models/base_v10.safetensors"),
        ("models/ald", ""),
        ("models/olds", "models/old"),
        ("models/old/Grösse.safetensors", "models/old/Größe.safetensors"),
        ("models/nites.txt", ""),
        ("nowhere/base_v10.safetensors", ""),
        ("base_v10.safetensors", ""),
        ("C:\\models\\base_v10.safetensors", ""),
        ("", ""),
        ("/", ""),
        ("models/\0", ""),
    ],
)
def test_what_is_meant(name: str, expected: str, folder: Path) -> None:
    assert hint_of(name) == (f"perhaps {expected} is meant" if expected else "")


def test_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert hint_of("~/models/base_v1.safetensors") == f"perhaps {folder / 'models/base_v10.safetensors'} is meant"


def test_errors_of_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(sdxl.CheckpointError, match="does not exist; perhaps models/base_v10"):
        hub.resolve("models/base_v11.safetensors")
    for name in ("models/base_v10", "models/old/Grösse.safetensors"):  # they may be of the hub
        with pytest.raises(sdxl.HubError, match=r"neither a local path.*; perhaps models/.*\.safetensors is meant$"):
            hub.resolve(name)
    for name in ("C:/models/base/x.safetensors", "my models/base/x.safetensors"):  # they may not
        with pytest.raises(sdxl.CheckpointError, match="does not exist; give a"):
            hub.resolve(name)
