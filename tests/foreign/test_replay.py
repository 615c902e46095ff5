"""`generate --from` a file of another tool: its models, LoRAs and embeddings are found by name and by hash."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import graph, image_to_image, node
from infotexts import EULER, text
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

import sdxl
from sdxl.cli.main import main
from sdxl.pipeline.foreign_files import find_loras
from sdxl.weights import file_hash
from sdxl.weights.hashes import tensor_hash

FLAGS = ["--device", "cpu", "--dtype", "float32", "--steps", "2", "--size", "64x64", "--quiet"]


@pytest.fixture
def place(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a library that has a model in it, and a cache of its own."""
    monkeypatch.setenv("SDXL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SDXL_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/sdxl").mkdir(parents=True)
    shutil.copy(converted, tmp_path / "models/sdxl/base_v1.safetensors")
    return tmp_path


def write(content: Any, name: str = "a.txt") -> str:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return name


def generate(source: str, *flags: str) -> int:
    return main(["generate", "--from", source, *FLAGS, "--output", "b.png", *flags])


def warnings_of(source: str, *flags: str) -> str:
    """The warnings while an image is generated."""
    with pytest.warns(sdxl.SDXLWarning) as caught:
        assert generate(source, *flags) == 0
    return "\n".join(str(each.message) for each in caught)


def pixels(name: str = "b.png") -> np.ndarray[Any, Any]:
    with Image.open(name) as image:
        return np.asarray(image.convert("RGB"))


def of_hash(sha256: str, **more: Any) -> str:
    return text(EULER, **more).replace("0123456789", sha256[:10])


def test_a_text_makes_the_image_of_its_request(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(of_hash(file_hash("models/sdxl/base_v1.safetensors"), prompt="a (red:1.2) cat", negative="dog"))
    assert generate(source) == 0
    first = pixels()
    assert "hash" not in capsys.readouterr().err
    parameters = sdxl.read_parameters(source)
    pipe = sdxl.Pipeline.from_pretrained("models/sdxl/base_v1.safetensors", dtype="float32", device="cpu")
    known = vars(sdxl.Request("x"))
    request = {name: value for name, value in parameters.request.items() if name in known}
    result = pipe(**request | {"steps": 2, "width": 64, "height": 64, "progress": False})
    assert isinstance(result.images, list)
    assert np.array_equal(np.asarray(result.images[0]), first)
    recorded = sdxl.read_parameters("b.png")
    assert (recorded["model"]["model"], recorded.tool) == ("base_v1", "sdxl")


def test_a_model_is_found_by_its_hash_under_another_name(place: Path) -> None:
    model = place / "models/sdxl/base_v1.safetensors"
    sha256 = file_hash(model)
    model.rename(place / "models/renamed.safetensors")
    assert generate(write(of_hash(sha256))) == 0
    assert sdxl.read_parameters("b.png")["model"]["sha256"] == {"model": sha256}


def test_a_model_of_another_hash_is_named(place: Path) -> None:
    assert re.search("and not fedcba9876, which the image records", warnings_of(write(of_hash("fedcba9876"))))


def test_a_name_of_a_site_is_a_file_of_the_same_letters(place: Path) -> None:
    resources = [{"type": "checkpoint", "modelVersionId": 1, "modelName": "Base", "modelVersionName": "V1"}]
    line = "Steps: 2, Sampler: Euler, CFG scale: 4, Seed: 5, Size: 64x64"
    assert generate(write(f"a cat\n{line}, Civitai resources: {json.dumps(resources)}")) == 0


def test_what_is_not_found_is_one_error(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "models/sdxl/base_v1.safetensors").unlink()
    assert generate(write(of_hash("fedcba9876"))) == 1
    shown = capsys.readouterr().err
    assert (
        "a.txt was made with the model base_v1 (the hash fedcba9876), which is not found; none of the 0 models in "
        f"SDXL_MODELS_DIR ({place / 'models'}) has that name or hash; give it with --model" in shown
    )
    assert generate(write(graph())) == 1
    assert "the model base_v1.safetensors (no recorded hash), which is not found" in capsys.readouterr().err
    assert generate(write("a cat\nSteps: 2, Sampler: Euler, Seed: 5")) == 2
    assert "a.txt does not name its model; give it with --model" in capsys.readouterr().err


def test_without_a_library_the_error_says_how(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SDXL_MODELS_DIR")
    assert generate(write(of_hash("fedcba9876"))) == 1
    assert "set SDXL_MODELS_DIR to the folder of your models, or give it with --model" in capsys.readouterr().err


@pytest.fixture
def ink(place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LoRA in the library."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "adapters"))
    from adapter_files import save_layout

    (place / "models/loras").mkdir()
    file = place / "models/loras/ink.safetensors"
    save_layout("kohya sgm", tiny_folder, file)
    return file


@pytest.mark.slow
def test_loras_by_name_and_by_either_hash(place: Path, ink: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sha256 = file_hash("models/sdxl/base_v1.safetensors")
    prompt = "a red cat <lora:ink:0.5:0.8>"
    assert generate(write(of_hash(sha256, prompt=prompt))) == 0
    first = pixels()
    (lora,) = sdxl.read_parameters("b.png").loras
    assert (lora["weight"], lora["text_weight"], lora["hash"]) == (0.8, 0.5, file_hash(ink))
    assert generate(write(of_hash(sha256, prompt="a red cat"))) == 0
    assert not np.array_equal(pixels(), first)
    other = ink.rename(place / "models/loras/other.safetensors")
    for hash in (tensor_hash(other)[:12], file_hash(other)[:10]):
        content = of_hash(sha256, prompt=prompt).replace(", Version", f', Lora hashes: "ink: {hash}", Version')
        assert generate(write(content)) == 0
        assert np.array_equal(pixels(), first)
    capsys.readouterr()
    assert (
        generate(
            write(of_hash(sha256, prompt=prompt).replace(", Version", ", Lora hashes: ink: aabbccddeeff, Version"))
        )
        == 1
    )
    shown = capsys.readouterr().err
    assert "the LoRA ink (the hash aabbccddeeff), which is not found in" in shown and "--lora-dir" in shown
    (place / "own").mkdir()
    shutil.copy(other, place / "own/ink.safetensors")
    assert re.search(
        "own/ink.safetensors has another hash than the LoRA ink", warnings_of("a.txt", "--lora-dir", "own")
    )


def test_several_files_of_a_name(place: Path, tiny_pipe: sdxl.Pipeline) -> None:
    """Copies are one file, and files of another kind are none; of others the hash decides, or the user."""
    (place / "models/loras").mkdir()
    first, second = place / "models/loras/ink.safetensors", place / "models/old/ink.safetensors"
    save_file({"lora_unet_out_2.diff_b": torch.ones(4)}, first)
    second.parent.mkdir()
    shutil.copy(first, second)
    parameters = sdxl.read_parameters(write(text(EULER, prompt="a red cat <lora:ink:0.5>")))
    assert [each["file"] for each in find_loras(parameters, "a.txt", ())] == [str(first)]
    save_file({"clip_l": torch.ones(1, 32), "clip_g": torch.ones(1, 32)}, second)
    assert [each["file"] for each in find_loras(parameters, "a.txt", ())] == [str(first)]
    save_file({"lora_unet_out_2.diff_b": torch.zeros(4)}, second)
    with pytest.raises(sdxl.CheckpointError, match=r"2 files have the name of the LoRA ink, and no hash.*with --lora"):
        find_loras(parameters, "a.txt", ())
    content = Path("a.txt").read_text().replace(", Version", f', Lora hashes: "ink: {file_hash(second)[:10]}", Version')
    parameters = sdxl.read_parameters(write(content))
    assert [each["file"] for each in find_loras(parameters, "a.txt", ())] == [str(second)]


def test_without_a_folder_the_error_names_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SDXL_MODELS_DIR")
    parameters = sdxl.read_parameters(write(text(EULER, prompt="a red cat <lora:ink:0.5>")))
    with pytest.raises(sdxl.CheckpointError, match=r"\(no recorded hash\), which is not found; give its folder with"):
        find_loras(parameters, "a.txt", ())


def test_embeddings_by_name(place: Path, tiny_pipe: sdxl.Pipeline) -> None:
    stages = zip(("clip_l", "clip_g"), tiny_pipe.text, strict=True)
    vectors = {key: stage.encoder.token_embed.weight[stage.tokenizer.ids("dog")[:1]].clone() for key, stage in stages}
    sha256 = file_hash("models/sdxl/base_v1.safetensors")
    content = of_hash(sha256, prompt="a mecha").replace(", Version", ", TI hashes: mecha: 0011223344, Version")
    assert re.search("embedding mecha .the hash 0011223344., which is not found", warnings_of(write(content)))
    save_file(vectors, place / "models/mecha.safetensors")
    assert generate(write(content)) == 0
    with_word = pixels()
    assert generate(write(of_hash(sha256, prompt="a dog"))) == 0
    assert np.array_equal(pixels(), with_word)


def test_graphs_of_images_need_their_images(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(image_to_image(), "a.json")
    assert generate(source) == 2
    assert (
        "a.json was made from image cat.png, which it does not contain; give it again with --image"
        in capsys.readouterr().err
    )
    Image.new("RGB", (64, 64), "red").save("red.png")
    assert generate(source, "--image", "red.png") == 0
    masked = graph(
        {"latent_image": ["12", 0]},
        n10=node("LoadImage", image="cat.png"),
        n11=node("VAEEncode", pixels=["10", 0], vae=["4", 2]),
        n12=node("SetLatentNoiseMask", samples=["11", 0], mask=["10", 1]),
    )
    Image.new("L", (64, 64), 255).save("mask.png")
    assert generate(write(masked, "b.json"), "--image", "red.png") == 2
    assert "was made from mask cat.png" in capsys.readouterr().err
    assert generate("b.json", "--image", "red.png", "--mask", "mask.png") == 0


def test_what_is_not_mapped_is_a_warning_and_is_inspected(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(
        of_hash(file_hash("models/sdxl/base_v1.safetensors")).replace(", Version", ", Tiling: True, Version")
    )
    assert re.search("Tiling of a.txt is True, and is left out: edges are not joined", warnings_of(source))
    capsys.readouterr()
    assert main(["inspect", source]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("a.txt: an image of AUTOMATIC1111 v1.10.1\n")
    assert "not mapped: Tiling True: edges are not joined" in shown
    assert main(["inspect", source, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tool"], found["unmapped"]["Tiling"]["value"]) == ("AUTOMATIC1111", "True")
    assert main(["inspect", write(image_to_image(), "a.json")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("a.json: an image of ComfyUI\n") and "cat.png, not in the file" in shown


def test_an_image_of_a_batch_is_verified_as_the_nearest_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ComfyUI's graph does not say which image of a batch it is."""
    small = {"seed": 7, "steps": 2, "sampler_name": "euler", "scheduler": "normal"}
    nodes = graph(small, n5=node("EmptyLatentImage", width=64, height=64, batch_size=3))
    assert main(["generate", "--from", write(nodes, "a.json"), *FLAGS[:4], "--quiet", "--output", "b.png"]) == 0
    info = PngInfo()
    info.add_text("prompt", json.dumps(nodes))
    Image.fromarray(pixels("b-2.png")).save("c.png", pnginfo=info)
    capsys.readouterr()
    assert main(["generate", "--from", "c.png", "--verify", *FLAGS[:4], "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("c.png: identical (although ComfyUI computed it with other kernels")
