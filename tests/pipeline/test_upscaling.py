"""Hires fix with a network that enlarges: what it does by hand, what is recorded, and how its file is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esrgan_files import NEW, OLD, SMALL, random_upscaler, save
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.errors import ArgumentError, CheckpointError, SDXLWarning
from sdxl.images.a1111 import parameters_text
from sdxl.models.esrgan import ESRGAN
from sdxl.pipeline.upscalers import upscale
from sdxl.weights.hashes import file_hash

PROMPT = "A mecha robot in a favela"
COMMON: dict[str, Any] = {"steps": 4, "progress": False}
LATENT: dict[str, Any] = COMMON | {"output": "latent"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ESRGAN"
    folder.mkdir()
    save(random_upscaler(), folder / "4x-Sharp.safetensors", OLD)
    save(random_upscaler(replace(SMALL, doublings=1), 1), folder / "2x.safetensors", OLD)
    save(random_upscaler(replace(SMALL, fold=4), 2), folder / "1x.safetensors", NEW)
    return folder


def request(file: Path, scale: float = 2, **more: Any) -> sdxl.Request:
    return sdxl.Request(PROMPT, hires=sdxl.Hires(scale, upscaler=str(file), strength=0.5), **more)


def made(pipe: sdxl.Pipeline, image: Image.Image, asked: sdxl.Request) -> Image.Image:
    """What the network of a request makes of an image, at the size of the second pass."""
    plan = pipe.plan(asked)
    assert plan.second is not None
    size = plan.second.size
    enlarged = upscale(image, size, plan, pipe.residency.model)
    return enlarged.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def by_numpy(model: ESRGAN, image: Image.Image, is_bgr: bool = False) -> Any:
    """What a network makes of an image."""
    order = slice(None, None, -1 if is_bgr else 1)
    x = torch.from_numpy(np.array(image)[..., order].transpose(2, 0, 1).copy()).float()[None] / 255
    with torch.no_grad():
        return (model(x)[0].clamp(0, 1).numpy().transpose(1, 2, 0)[..., order] * 255).round().astype(np.uint8)


@pytest.mark.parametrize("compat", [None, "comfyui", "a1111"])
@pytest.mark.parametrize(("name", "side", "times"), [("4x-Sharp", 96, 1), ("2x", 96, 2), ("1x", 96, 1), ("2x", 24, 1)])
def test_the_network_works_as_often_as_the_size_takes(
    name: str, side: int, times: int, compat: str | None, tiny_pipe: sdxl.Pipeline, networks: Path
) -> None:
    """AUTOMATIC1111 shows it blue, green, red (modules/upscaler_utils.py of 1.10, pil_image_to_torch_bgr)."""
    config, seed = {"4x-Sharp": (SMALL, 0), "2x": (replace(SMALL, doublings=1), 1), "1x": (replace(SMALL, fold=4), 2)}[
        name
    ]
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    image = expected = Image.fromarray(pixels)
    plan = tiny_pipe.plan(request(networks / f"{name}.safetensors", compat=compat))
    found = upscale(image, (side, side), plan, tiny_pipe.residency.model)
    for _ in range(times):
        expected = Image.fromarray(by_numpy(random_upscaler(config, seed), expected, compat == "a1111"))
    assert found.size == expected.size
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(expected))
    assert difference.max() <= times and difference.mean() < 1e-3  # rounded to 8 bits


@pytest.mark.parametrize("offload", ["none", "stage", "block"])
def test_the_passes_by_hand(offload: Any, tiny_folder: Path, networks: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload=offload)
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 3)]
    asked, prompts = request(networks / "4x-Sharp.safetensors", 1.5), [PROMPT, "a red cat"]
    small = pipe(prompts, generator=generators, **COMMON).images
    images = [made(pipe, each, asked) for each in small]
    second = pipe(prompts, generator=generators, image=images, strength=0.5, **LATENT).images
    found = pipe(prompts, seed=[7, 3], hires=asked.hires, **LATENT).images
    assert torch.equal(found, second)  # type: ignore[arg-type]


def test_the_passes_of_automatic1111(tiny_pipe: sdxl.Pipeline, networks: Path) -> None:
    """The fractions of the first image are cut off; the second pass begins with its seed."""
    asked = request(networks / "4x-Sharp.safetensors", compat="a1111")
    found = tiny_pipe(PROMPT, seed=7, hires=asked.hires, compat="a1111", **LATENT).images
    image = made(tiny_pipe, tiny_pipe(PROMPT, seed=7, compat="a1111", **COMMON)[0], asked)
    rules = {"profile": "a1111", "strength_steps": "exactly"}
    second = tiny_pipe(PROMPT, seed=7, image=image, strength=0.5, compat=rules, **LATENT).images
    assert torch.equal(found, second)  # type: ignore[arg-type]


def test_the_network_is_in_the_dtype_of_the_model(tiny_folder: Path, tiny_pipe: sdxl.Pipeline, networks: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="bfloat16", device="cpu")
    hires = sdxl.Hires(2, upscaler=str(networks / "4x-Sharp.safetensors"), strength=0.3)
    found, expected = (np.asarray(each(PROMPT, seed=5, hires=hires, **COMMON)[0]) for each in (pipe, tiny_pipe))
    assert np.abs(found.astype(int) - expected).mean() < 3


def test_records_name_the_file_and_its_hash(tiny_pipe: sdxl.Pipeline, networks: Path, tmp_path: Path) -> None:
    file = networks / "4x-Sharp.safetensors"
    result = tiny_pipe(PROMPT, seed=5, hires={"scale": 2, "upscaler": str(file), "strength": 0.5}, **COMMON)
    (path,) = result.save(tmp_path / "a.png")
    recorded = sdxl.read_parameters(path)["request"]["hires"]
    assert recorded == {"scale": 2.0, "upscaler": str(file), "strength": 0.5, "upscaler_hash": file_hash(file)}
    assert "Hires upscaler: 4x-Sharp, Version" in parameters_text(result.parameters[0], result[0].size)
    assert str(sdxl.verify(path, tiny_pipe)) == f"{path}: identical"
    renamed = {"upscaler": str(tmp_path / "gone.safetensors"), "upscaler_hash": file_hash(file)}
    again = tiny_pipe(PROMPT, seed=5, hires=recorded | renamed, **COMMON)  # found by its hash
    assert again[0].tobytes() == result[0].tobytes()
    other = recorded | {"upscaler": str(networks / "2x.safetensors")}
    with pytest.raises(CheckpointError, match="is not the file that is asked for"):
        tiny_pipe(PROMPT, seed=5, hires=other, **COMMON)


def test_a_replay_says_that_the_network_is_another_one(
    tiny_pipe: sdxl.Pipeline, networks: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes((networks / "4x-Sharp.safetensors").read_bytes())
    hires = {"scale": 2, "upscaler": str(file), "strength": 0.5}
    (path,) = tiny_pipe(PROMPT, seed=5, hires=hires, **COMMON).save(tmp_path / "a.png")
    file.write_bytes((networks / "2x.safetensors").read_bytes())
    found = sdxl.verify(path, tiny_pipe, hires=hires)
    assert "the upscaler of hires fix own.safetensors is another one" in found.reasons


def test_networks_are_found_by_name(
    tiny_pipe: sdxl.Pipeline, tiny_folder: Path, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hires = {"scale": 2, "upscaler": "4x-Sharp", "strength": 0.5}
    with pytest.raises(CheckpointError, match=r"the upscaler 4x-Sharp does not exist; .* one of latent, .*, lanczos"):
        tiny_pipe(PROMPT, hires=hires, **COMMON)
    given: Any = {"dtype": "float32", "device": "cpu"}
    named = sdxl.Pipeline.from_pretrained(tiny_folder, control_dir=networks, **given)(
        PROMPT, seed=5, hires=hires, **COMMON
    )
    monkeypatch.setenv("SDXL_MODELS_DIR", str(networks.parent))
    assert tiny_pipe(PROMPT, seed=5, hires=hires, **COMMON)[0].tobytes() == named[0].tobytes()


def test_a_job_knows_a_network_by_its_content(
    tiny_pipe: sdxl.Pipeline,
    tiny_folder: Path,
    networks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "own.safetensors").write_bytes((networks / "2x.safetensors").read_bytes())
    lines = [
        {"prompt": PROMPT, "seed": 5, "hires": {"upscaler": "own.safetensors", "strength": 0.5}},
        {"prompt": PROMPT, "seed": 5},
        {"prompt": PROMPT, "seed": 5, "hires": {"upscaler": "nothing"}},
    ]
    job, out = tmp_path / "job.jsonl", tmp_path / "out"
    job.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "--quiet", "--steps", "4"]
    flags += ["--control-dir", str(networks), "--hires", "upscaler=4x-Sharp,strength=0.5"]
    assert main(["generate", "--batch", str(job), "--output-dir", str(out), *flags]) == 1  # the last line is wrong
    for number, name in ((1, "2x"), (2, "4x-Sharp")):
        hires = {"upscaler": str(networks / f"{name}.safetensors"), "strength": 0.5}
        expected = tiny_pipe(PROMPT, seed=5, hires=hires, **COMMON)[0]
        assert Image.open(out / f"0000{number}.png").tobytes() == expected.tobytes()
    save(random_upscaler(seed=9), tmp_path / "own.safetensors")  # another network
    capsys.readouterr()
    assert main(["generate", "--batch", str(job), "--output-dir", str(out), *flags]) == 1
    assert "00001.png would be another image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("hires", "message"),
    [
        ({"upscaler": ""}, "upscaler is ''; expected latent, .*, or the file of a network"),
        ({"upscaler": 5}, "upscaler is 5; expected latent"),
        ({"upscaler": "4x", "upscaler_hash": 5}, "upscaler_hash of hires is 5; expected a text"),
    ],
)
def test_wrong_values(hires: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        sdxl.Hires(**hires)


def test_a_hash_belongs_to_a_network() -> None:
    assert "upscaler_hash" not in sdxl.Hires(upscaler="lanczos", upscaler_hash="aa").record()


@pytest.mark.parametrize("name", ["heart", "image"])
def test_other_files_are_refused(name: str, tiny_pipe: sdxl.Pipeline, networks: Path, tmp_path: Path) -> None:
    file = Path("weights/adapters/heart.safetensors")
    if name == "image":
        file = tmp_path / "image.png"
        Image.new("RGB", (8, 8)).save(file)
    with pytest.raises(CheckpointError, match=f"{file.name} is no"):
        tiny_pipe(PROMPT, hires={"upscaler": str(file)}, **COMMON)


def test_a_pickle_is_named_and_not_opened(
    tiny_pipe: sdxl.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the path, and as the name of a file that lies there as a pickle alone."""
    file = tmp_path / "models/ESRGAN/4x-UltraSharp.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK not a file of weights")
    monkeypatch.setenv("SDXL_MODELS_DIR", str(tmp_path / "models"))
    for name in (str(file), "4x-UltraSharp"):
        with pytest.raises(CheckpointError, match=r"4x-UltraSharp.pth is a pickle, .*; convert it to .safetensors"):
            tiny_pipe(PROMPT, hires={"upscaler": name}, **COMMON)


def test_texts_of_other_tools_find_their_network(
    tiny_pipe: sdxl.Pipeline, tiny_folder: Path, networks: Path, tmp_path: Path
) -> None:
    text = "a cat\nSteps: 4, Sampler: Euler, Seed: 5, Size: 64x64, Denoising strength: 0.5, Hires upscale: 2, Hires "
    flags = ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "--quiet"]
    flags += ["--control-dir", str(networks), "--output", str(tmp_path / "a.png")]
    (tmp_path / "a.txt").write_text(text + "upscaler: 4x-Sharp")
    assert main(["generate", "--from", str(tmp_path / "a.txt"), *flags]) == 0
    own = sdxl.read_parameters(tmp_path / "a.png")["request"]["hires"]
    assert own["upscaler"] == str(networks / "4x-Sharp.safetensors")
    (tmp_path / "a.txt").write_text(text + "upscaler: 4x-UltraSharp")
    with pytest.warns(SDXLWarning, match="the upscaler 4x-UltraSharp, which is not found .* lanczos takes its place"):
        assert main(["generate", "--from", str(tmp_path / "a.txt"), *flags]) == 0
    assert sdxl.read_parameters(tmp_path / "a.png")["request"]["hires"]["upscaler"] == "lanczos"


def test_inspect_names_the_network(networks: Path) -> None:
    report = sdxl.inspect(networks / "4x-Sharp.safetensors")
    assert report.kind == "upscaler (ESRGAN), x4, 2 blocks of 16 channels"
