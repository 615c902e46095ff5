"""Files of weights that other programs write to, and disks that are full."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from sdxl.errors import CheckpointError, OutputError
from sdxl.pipeline.pipeline import Pipeline
from sdxl.weights.container import TensorFile, save_tensors


@pytest.mark.parametrize("size", [0, 4, 8, 100])
def test_a_file_that_is_written_to_while_its_tensors_are_in_use(size: int, tmp_path: Path) -> None:
    """Its tensors are views of the file: they would change without a word, or end the process where it is cut off."""
    path = tmp_path / "a.safetensors"
    save_tensors({"a": torch.zeros(8)}, path, {})
    file = TensorFile(path)
    file.check_unchanged()
    tensor = file.read("a")
    file.close()
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - size)
        os.utime(path, ns=(0, 1))
    with pytest.raises(CheckpointError, match=r"a\.safetensors has changed since it was opened; open the model again"):
        file.check_unchanged()
    del tensor
    file.check_unchanged()


def test_a_file_that_is_read_twice_and_used_from_the_first_time(tmp_path: Path) -> None:
    """As the weights of a model beside the layers that a LoRA brings to their places again."""
    path = tmp_path / "a.safetensors"
    save_tensors({"a": torch.zeros(8), "b": torch.zeros(8)}, path, {})
    file = TensorFile(path)
    first = file.read("a")
    file.close()
    file.read("b")
    file.close()
    os.utime(path, ns=(0, 1))
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        file.check_unchanged()
    del first
    file.check_unchanged()


def test_a_file_that_is_replaced_while_its_tensors_are_in_use(tmp_path: Path) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_tensors({"a": torch.zeros(8)}, path, {})
    save_tensors({"a": torch.ones(8)}, other, {})
    file = TensorFile(path)
    tensor = file.read("a")
    other.replace(path)
    file.check_unchanged()
    path.unlink()
    file.check_unchanged()
    assert tensor.equal(torch.zeros(8))


def test_a_disk_that_is_full_when_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network drives say so at the end: the file has its name only when it is on the disk."""

    def full(descriptor: int) -> None:
        assert os.listdir(tmp_path) != ["a.safetensors"]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.safetensors cannot be written: .*No space left on device"):
        save_tensors({"a": torch.zeros(8)}, tmp_path / "a.safetensors", {})
    assert os.listdir(tmp_path) == []


def test_no_image_of_a_model_whose_file_is_written_to(tiny_folder: Path, tmp_path: Path) -> None:
    """Its record would name the file that it was opened from. One that takes the place of the file is another."""
    folder, other = tmp_path / "model", tmp_path / "other.safetensors"
    shutil.copytree(tiny_folder, folder)
    file = next((folder / "unet").glob("*.safetensors"))
    pipe = Pipeline.from_pretrained(folder, offload="block")
    before = pipe("a", width=64, height=64, steps=1, seed=1, progress=False).images[0].tobytes()
    shutil.copy(file, other)
    other.replace(file)
    again = pipe("a", width=64, height=64, steps=1, seed=1, progress=False).images[0].tobytes()
    assert again == before
    pipe = Pipeline.from_pretrained(folder, offload="block")
    pipe("a", width=64, height=64, steps=1, seed=1, progress=False)

    def write(step: object) -> None:
        file.write_bytes(file.read_bytes()[:-4] + bytes(4))

    for callback in (write, None):  # while an image is generated, and before the next
        with pytest.raises(CheckpointError, match="has changed since it was opened; open the model again"):
            pipe("a", width=64, height=64, steps=1, seed=1, progress=False, callback=callback)
