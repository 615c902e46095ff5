"""What a pipeline that lives long holds of the files that requests name: bounded, and nothing of what was replaced."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import control_nets
import pytest
import tiny
import tiny_reference
import torch
from adapter_files import save
from deep import deep_folder  # noqa: F401  fixtures
from torch import Tensor

import sdxl
from sdxl.adapters.ip_adapter import places
from sdxl.errors import CheckpointError
from sdxl.pipeline import adapters
from sdxl.weights.diffusers_config import read_unet


def latents(pipe: sdxl.Pipeline, **more: Any) -> Tensor:
    images = pipe("a red cat", steps=1, seed=3, output="latent", progress=False, **more).images
    assert isinstance(images, Tensor)
    return images


def make_lora(path: Path, number: int) -> str:
    """A LoRA, put in place of another one as tools do; its name."""
    save({"lora_unet_out_2.diff_b": torch.full((4,), number + 1.0)}, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)
    return path.stem


def held(folder: Path) -> int:
    """How many files below a folder the process has open, also of those that are gone."""
    gc.collect()
    links = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return sum(os.readlink(each).startswith(f"{folder}/") for each in links if os.path.lexists(each))


@pytest.fixture
def pipe(tiny_folder: Path, tmp_path: Path) -> sdxl.Pipeline:
    options: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
    return sdxl.Pipeline.from_pretrained(tiny_folder, lora_dir=tmp_path, control_dir=tmp_path, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="its list of open files")
def test_few_loras_stay_open(pipe: sdxl.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a descriptor, of which a process has some hundreds."""
    monkeypatch.setattr(adapters, "_MOST_OPEN", 2)
    names = [make_lora(tmp_path / f"{n}.safetensors", n) for n in range(4)]
    first = [latents(pipe, loras=[name]) for name in names]
    assert len({tuple(each.flatten().tolist()) for each in first}) == 4
    assert held(tmp_path) <= 3  # with those that change the present weights
    assert all(torch.equal(latents(pipe, loras=[name]), each) for name, each in zip(names, first, strict=True))
    together = latents(pipe, loras=names)  # more than stay open
    assert torch.equal(latents(pipe, loras=names), together) and not torch.equal(together, first[0])
    pipe.set_loras([])
    latents(pipe)
    assert held(tmp_path) <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="its list of open files")
def test_a_lora_that_is_replaced_is_closed(pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """The disk has no room for it until then."""
    path = tmp_path / "style.safetensors"
    images = [latents(pipe, loras=[make_lora(path, number)]) for number in range(3)]
    assert len({tuple(each.flatten().tolist()) for each in images}) == 3
    assert held(tmp_path) == 1


def test_no_image_with_a_lora_that_is_written_to(tiny_folder: Path, tmp_path: Path) -> None:
    """Where layers compute its changes at every call; where they are in memory the image is that of the old file."""
    path, key = tmp_path / "own.safetensors", "lora_unet_out_2.diff"
    shape = (4, tiny.UNET["block_out_channels"][0], 3, 3)

    def make(number: int) -> bytes:
        save({key: torch.full(shape, number / 10)}, path.with_suffix(".new"))
        return path.with_suffix(".new").read_bytes()

    given: dict[str, Any] = {"steps": 2, "seed": 3, "output": "latent", "progress": False, "loras": [path]}
    for offload in ("none", "block"):
        path.write_bytes(make(1))
        pipe = sdxl.Pipeline.from_pretrained(tiny_folder, device="cpu", offload=offload)
        first = pipe("a", **given).images
        with pytest.raises(CheckpointError, match="has changed") if offload == "block" else nullcontext():
            assert torch.equal(pipe("a", callback=lambda step: path.write_bytes(make(2)), **given).images, first)
        assert not torch.equal(pipe("a", **given).images, first)


def test_the_loras_of_a_pipeline_stay_what_they_were(
    pipe: sdxl.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "_MOST_OPEN", 1)
    path = tmp_path / "own.safetensors"
    pipe.set_loras([make_lora(path, 0)])
    own = latents(pipe)
    others = [latents(pipe, loras=[make_lora(path, number)]) for number in (1, 2)]
    assert not any(torch.equal(each, own) for each in others)
    assert torch.equal(latents(pipe), own)


@pytest.mark.parametrize("kind", ["control", pytest.param("reference", marks=pytest.mark.slow)])
def test_the_network_of_a_file_that_is_replaced_leaves_memory(kind: str, pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    widths, images = places(read_unet(tiny.UNET)), list[Tensor]()
    gone: list[weakref.ref[Any]] = []
    for seed in (1, 2):
        if kind == "control":
            control_nets.save(control_nets.controlnet(seed=seed).state_dict(), tmp_path / "net.safetensors")
            given: dict[str, Any] = {"control": [sdxl.Control("net", tiny.picture(3))]}
        else:
            made = tiny_reference.save(tmp_path / "adapters", "plus", widths, seed=seed)
            given = {"reference": [sdxl.Reference(made.replace(made.with_stem("net")), tiny.picture(3))]}
        images.append(latents(pipe, **given))
        loaded = [each.loaded for each in pipe.residency.model.extras.all()]
        gone += [weakref.ref(each) for each in loaded if each is not None]
    assert not torch.equal(images[0], images[1])
    gc.collect()
    kept = {id(each()) for each in gone} - {id(None)}
    assert len(kept) == (1 if kind == "control" else 2)  # a reference has an encoder
