"""`sdxl.verify` and `generate --verify`: an image is made again and compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from editing import edit
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.images import save_image

FLAGS = ["--device", "cpu", "--dtype", "float32", "--steps", "2", "--size", "64x64", "--quiet"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: Path) -> Path:
    monkeypatch.setenv("SDXL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(converted, "mine.safetensors")
    return tmp_path


def generate(output: str, *flags: str) -> None:
    assert (
        main(["generate", "a cat", "--model", "mine.safetensors", *FLAGS, "--seed", "3", "--output", output, *flags])
        == 0
    )


def verified(capsys: pytest.CaptureFixture[str], source: str, *flags: str) -> tuple[int, str]:
    capsys.readouterr()
    status = main(["generate", "--from", source, "--verify", "--device", "cpu", "--quiet", *flags])
    return status, capsys.readouterr().out


def changed_pixels(source: str, by: int) -> None:
    """The same file with a pixel that differs by so much."""
    with Image.open(source) as image:
        values = np.asarray(image).copy()
    values[5, 5, 1] = values[5, 5, 1] + by if values[5, 5, 1] < 128 else values[5, 5, 1] - by
    save_image(Image.fromarray(values), source, sdxl.read_parameters(source))


def with_record(source: str, **more: Any) -> None:
    """The same image with another record."""
    record = dict(sdxl.read_parameters(source)) | more
    with Image.open(source) as image:
        save_image(image.convert("RGB"), source, record)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_every_format_is_identical(suffix: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(f"a{suffix}")
    assert verified(capsys, f"a{suffix}") == (0, f"a{suffix}: identical\n")


def test_pixels_that_differ_say_by_how_much(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate("a.png")
    changed_pixels("a.png", 2)
    status, shown = verified(capsys, "a.png")
    assert status == 4
    assert shown.startswith("a.png: the same within 2 of 255 (its record names no cause")
    changed_pixels("a.png", 90)
    status, shown = verified(capsys, "a.png", "--json")
    found = json.loads(shown)
    assert (status, found["verdict"], found["reasons"]) == (5, "different", [])
    assert 80 <= found["difference"] <= 100 and 0 < found["share"] < 0.001


def test_another_model_dtype_or_version_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate("a.png")
    with_record("a.png", version="sdxl 0.0.1", torch="1.0", device="cuda Some Card")
    status, shown = verified(capsys, "a.png")
    assert status == 0, "the long prompts of 0.0.1 are cut, and this one is short"
    assert "a.png: identical (although sdxl was sdxl 0.0.1, and is sdxl" in shown
    assert "torch was 1.0, and is" in shown and "the device was cuda Some Card, and is cpu" in shown
    generate("a.png")
    status, shown = verified(capsys, "a.png", "--dtype", "bfloat16")
    assert status in (4, 5) and "dtype is bfloat16, and was float32" in shown
    name, file = "model.diffusion_model.out.2.weight", Path("mine.safetensors")
    edit(file, file, lambda state: state.update({name: state[name] * 1.5}))
    with pytest.warns(sdxl.SDXLWarning, match="has the hash"):
        status, shown = verified(capsys, "a.png")
    assert status == 5 and "the model has the hash" in shown


def test_other_arguments_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate("a.png")
    status, shown = verified(capsys, "a.png", "--seed", "4", "--guidance-scale", "3")
    assert status == 5 and "seed is 4, and was 3" in shown and "guidance_scale is 3.0, and was 5" in shown
    status, shown = verified(capsys, "a.png", "--size", "64x72")
    assert status == 5 and "differs in size" in shown and "it is 64 x 64, and 64 x 72 now" in shown


def test_an_image_to_image_needs_its_image(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.effect_noise((64, 64), 80).convert("RGB").save("source.png")
    Image.new("RGB", (64, 64), "red").save("other.png")
    generate("a.png", "--image", "source.png", "--strength", "1")
    assert verified(capsys, "a.png", "--image", "source.png") == (0, "a.png: identical\n")
    assert verified(capsys, "a.png")[0] == 2
    with pytest.warns(sdxl.SDXLWarning, match="--image is not the one"):
        status, shown = verified(capsys, "a.png", "--image", "other.png")
    assert status == 5 and "image is another one" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["a cat", "--verify"], "--verify is given without an image; give --from picture.png"),
        (["--from", "a.png", "--verify", "--output", "b.png"], "--output is given beside --verify"),
        (["--from", "a.png", "--verify", "--num-images", "2"], "--num-images is given beside --verify"),
        (["--from", "a.png", "--verify", "--grid"], "a grid is asked for beside --verify"),
    ],
)
def test_flags_that_mean_nothing(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *flags]) == 2
    assert message in capsys.readouterr().err


def test_python(place: Path, tiny_folder: Path) -> None:
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    pipe("a cat", steps=2, width=64, height=64, seed=3, progress=False).save("a.png")
    found = sdxl.verify("a.png", pipe)
    assert (found.verdict, found.difference, found.share, found.reasons) == ("identical", 0, 0.0, ())
    assert sdxl.verify("a.png", device="cpu").verdict == "identical"
    other = sdxl.verify("a.png", pipe, seed=4)
    assert other.verdict == "different" and other.reasons == ("seed is 4, and was 3",)
    with pytest.raises(sdxl.ArgumentError, match="verify has no argument 'sed'; perhaps seed is meant"):
        sdxl.verify("a.png", pipe, sed=4)


def test_every_image_of_a_job(place: Path, tiny_folder: Path) -> None:
    """Its images are made in batches."""
    lines = [
        {"prompt": f"a cat {n}", "seed": n, "num_images": 2, "steps": 2, "width": 64, "height": 64} for n in range(3)
    ]
    (place / "job.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    flags = [
        "--batch",
        "job.jsonl",
        "--output-dir",
        "out",
        "--model",
        str(tiny_folder),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    assert main(["generate", *flags, "--quiet"]) == 0
    files = sorted((place / "out").glob("*.png"))
    assert len(files) == 6
    assert [str(sdxl.verify(file, pipe)) for file in files] == [f"{file}: identical" for file in files]
