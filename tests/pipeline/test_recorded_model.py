"""What an image records of its model's files, and how `--from` finds them again."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from editing import edit
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.images.a1111 import parameters_text
from sdxl.images.record import read_parameters
from sdxl.pipeline.model_hashes import PendingHash
from sdxl.weights import file_hash, hashes
from sdxl.weights.hashes import model_hash
from sdxl.weights.weight_files import folder_files

MODEL = Path(__file__).parents[1] / "reference/model"
FLAGS = ["--device", "cpu", "--dtype", "float32", "--steps", "1", "--width", "64", "--height", "64", "--quiet"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "single.safetensors"
    sdxl.convert(MODEL, path)
    return path


@pytest.fixture
def place(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a model `models/mine.safetensors` and its image `a.png`; with a cache of its own."""
    monkeypatch.setenv("SDXL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    shutil.copy(converted, tmp_path / "models/mine.safetensors")
    assert main(["generate", "--model", "models/mine.safetensors", "--prompt", "x", *FLAGS, "--output", "a.png"]) == 0
    return tmp_path


def again(*arguments: str) -> int:
    return main(["generate", "--from", "a.png", "--device", "cpu", "--quiet", "--output", "b.png", *arguments])


def recorded(name: str = "b.png") -> dict[str, Any]:
    model: dict[str, Any] = read_parameters(Path(name))["model"]
    return model


def test_a_file_is_recorded_by_name_and_hash(place: Path, converted: Path) -> None:
    sha256 = file_hash(converted)
    assert (recorded("a.png")["model"], recorded("a.png")["sha256"]) == ("models/mine.safetensors", {"model": sha256})
    with Image.open("a.png") as image:
        assert f", Model hash: {sha256[:10]}, Model: mine, " in image.info["parameters"]


def test_all_files_of_a_model_are_recorded(converted: Path, refiner_folder: Path, tiny_folder: Path) -> None:
    whole, files = folder_files(MODEL, None)
    vae, vae_files = folder_files(MODEL, None, "vae")
    wanted = {"model": model_hash(whole, files), "unet": file_hash(converted), "vae": model_hash(vae, vae_files)}
    for vae_source in (MODEL / "vae", MODEL):
        pipe = sdxl.Pipeline.from_pretrained(MODEL, unet=converted, vae=vae_source, device="cpu", offload="stage")
        assert pipe.hashes.record() == {"sha256": wanted}
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, device="cpu", offload="stage")
    hashes = {"model": model_hash(*folder_files(tiny_folder, None))}
    assert pipe.hashes.record() == {"sha256": hashes | {"refiner": model_hash(*folder_files(refiner_folder, None))}}


def test_networks_in_memory_have_no_hash() -> None:
    pipe = sdxl.Pipeline.from_pretrained(MODEL, dtype="float32", device="cpu")
    pipe = sdxl.Pipeline.from_networks(pipe.info, pipe.unet, pipe.vae, pipe.text)
    result = pipe("x", steps=1, width=64, height=64, progress=False)
    assert "sha256" not in result.parameters[0]["model"]
    assert "Model hash" not in parameters_text(result.parameters[0], (64, 64))


def test_an_image_waits_for_the_hash_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is hashed beside the loading, and not again for later images, pipelines or processes."""
    reads = []
    digest = hashes._digest
    monkeypatch.setattr(hashes, "_digest", lambda *arguments: reads.append(arguments) or digest(*arguments))
    shutil.rmtree(place / "cache")
    for _ in range(2):
        pipe = sdxl.Pipeline.from_pretrained("models/mine.safetensors", dtype="float32", device="cpu")
        for _ in range(2):
            pipe("x", steps=1, width=64, height=64, progress=False)
    assert len(reads) == 1


def test_a_moved_model_is_found_by_its_hash(
    place: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    (place / "models/mine.safetensors").rename(place / "renamed.safetensors")
    assert again() == 1
    error = capsys.readouterr().err
    assert "models/mine.safetensors does not exist, and no other file with its hash" in error
    file_hash(place / "renamed.safetensors")  # as whoever used it there has done
    assert again() == 0
    assert not recwarn.list
    assert recorded() == recorded("a.png"), "a directory is recorded that nobody typed"
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()
    assert main(["generate", "--from", "b.png", *FLAGS[:2], "--quiet", "--output", "c.png"]) == 0


def test_a_moved_model_is_found_in_the_library(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    shutil.rmtree(place / "cache")
    (place / "library/deep").mkdir(parents=True)
    (place / "models/mine.safetensors").rename(place / "library/deep/renamed.safetensors")
    monkeypatch.setenv("SDXL_MODELS_DIR", str(place / "library"))
    with Image.open("a.png") as image:
        parameters = json.loads(image.info["sdxl"])
    parameters["model"]["model"] = str(place / "models/mine.safetensors")
    sdxl.save_png(Image.new("RGB", (64, 64)), "a.png", parameters)
    assert again() == 0
    assert not recwarn.list
    assert recorded()["model"] == str(place / "models/mine.safetensors")
    (place / "library/deep/renamed.safetensors").unlink()
    assert again() == 1
    sha256 = parameters["model"]["sha256"]["model"][:10]
    sentence = f"and no other file with its hash {sha256} is known; give the model with --model, or set SDXL_MODELS_DIR"
    assert sentence in capsys.readouterr().err


def test_a_record_of_windows_leads_to_the_file_of_its_name(
    place: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """The other models of the library are not read for it."""
    shutil.rmtree(place / "cache")
    (place / "library").mkdir()
    (place / "models/mine.safetensors").rename(place / "library/mine.safetensors")
    (place / "library/a.safetensors").write_bytes((place / "library/mine.safetensors").read_bytes()[:-1] + b"x")
    monkeypatch.setenv("SDXL_MODELS_DIR", str(place / "library"))
    with Image.open("a.png") as image:
        parameters = json.loads(image.info["sdxl"])
    parameters["model"]["model"] = "C:\\models\\mine.safetensors"
    sdxl.save_png(Image.new("RGB", (64, 64)), "a.png", parameters)
    hashed: list[str] = []

    def reads(path: Path, files: object) -> str:
        hashed.append(path.name)
        return file_hash(path)

    monkeypatch.setattr("sdxl.weights.library.model_hash", reads)
    assert again() == 0
    assert hashed == ["mine.safetensors"]


def test_another_model_under_the_recorded_name_is_a_warning(place: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = edit(place / "models/mine.safetensors", place / "models/mine.safetensors", _change)
    assert again() == 0
    old, new = (recorded(name)["sha256"]["model"][:10] for name in ("a.png", "b.png"))
    assert [str(each.message) for each in recwarn.list] == [
        f"the model models/mine.safetensors has the hash {new} and not {old}, which the image records; the result will "
        "differ"
    ]
    recwarn.clear()
    assert again("--model", str(path)) == 0
    assert not recwarn.list, "a model that is given is no surprise"


def _change(tensors: dict[str, Any]) -> None:
    tensors["model.diffusion_model.out.2.bias"] += 1


def test_an_old_image_has_no_hash_to_look_for(place: Path, recwarn: pytest.WarningsRecorder) -> None:
    with Image.open("a.png") as image:
        parameters = json.loads(image.info["sdxl"])
    for spoilt in (None, "abc", {"model": 5}, {"model": ""}, {"model": "\x1b[2J" * 20}):
        parameters["model"]["sha256"] = spoilt
        sdxl.save_png(Image.new("RGB", (64, 64)), "a.png", parameters)
        assert again() == 0
        assert not recwarn.list


def test_a_plain_name_is_looked_up_in_the_library(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDXL_MODELS_DIR", str(place / "models"))
    for name in ("mine", "mine.safetensors"):
        assert main(["generate", "--model", name, "--prompt", "x", *FLAGS, "--output", "b.png"]) == 0
        assert recorded()["model"] == name
        assert main(["inspect", name]) == 0
    assert sdxl.Pipeline.from_pretrained(MODEL, vae="mine", unet="mine", device="cpu", offload="stage").info.config
    capsys.readouterr()
    assert main(["generate", "--model", "mime", "--prompt", "x"]) == 1
    assert f"mime does not exist and is not in SDXL_MODELS_DIR ({place}/models), which has mine;" in (
        capsys.readouterr().err
    )


def test_a_hash_beside_other_work(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"abc")
    pending = PendingHash(tmp_path / "m.safetensors")
    assert pending.result() == hashlib.sha256(b"abc").hexdigest()
    assert pickle.loads(pickle.dumps(pending)).result() == copy.deepcopy(pending).result() == pending.result()
    assert PendingHash(tmp_path / "nothing").result() == ""


def test_a_hash_that_a_fork_interrupts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child of a fork has no thread that computes it."""
    (tmp_path / "m.safetensors").write_bytes(b"abc")
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    monkeypatch.setattr(threading.Thread, "join", lambda thread: None)
    assert PendingHash(tmp_path / "m.safetensors").result() == hashlib.sha256(b"abc").hexdigest()


def test_a_thread_without_memory_leaves_the_hash_to_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"a")
    left = [MemoryError()]

    def hash_of(*given: Any) -> str:
        if left:
            raise left.pop()
        return "f" * 64

    monkeypatch.setattr("sdxl.pipeline.model_hashes.model_hash", hash_of)
    assert PendingHash(tmp_path).result() == "f" * 64
    assert capfd.readouterr().err == ""
