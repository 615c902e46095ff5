"""`--grid`, `--x` and `--y`: the images are those of single calls, and the grid has them in its places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from esrgan_files import OLD, random_upscaler, save
from PIL import Image

import sdxl
from sdxl.cli.axes import read_axis
from sdxl.cli.main import main
from sdxl.errors import SDXLWarning

COMMON: dict[str, Any] = {"steps": 2, "progress": False}


@pytest.fixture
def generate(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    model = ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "--quiet"]
    return lambda *flags: main(["generate", *flags, *model])


def pixels(path: Path | str) -> bytes:
    return Image.open(path).tobytes()


def shows(sheet: Path, image: Path) -> bool:
    """Whether the pixels of an image are somewhere in a grid."""
    whole, part = Image.open(sheet).convert("RGB"), Image.open(image)
    width, height = part.size
    places = [(x, y) for y in range(whole.height - height + 1) for x in range(whole.width - width + 1)]
    corner = part.getpixel((0, 0))
    near = [at for at in places if whole.getpixel(at) == corner]
    return any(whole.crop((x, y, x + width, y + height)).tobytes() == part.tobytes() for x, y in near)


def test_a_grid_beside_the_files(generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("cat", "--steps", "2", "--num-images", "3", "--grid", "--seed", "5") == 0
    names = [f"picture-{n}.png" for n in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "picture-grid.png"]
    assert capsys.readouterr().out.splitlines()[-1] == "picture-grid.png  grid of 3 images"
    assert all(shows(tmp_path / "picture-grid.png", tmp_path / name) for name in names)
    assert generate("cat", "--steps", "1", "--num-images", "2", "--grid", "--json", "--output", "a.jpg") == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    with Image.open("a-grid.jpg") as image:
        assert line == {"file": "a-grid.jpg", "width": image.width, "height": image.height, "images": 2}
    (tmp_path / "picture-2-grid.png").touch()
    assert generate("cat", "--steps", "1", "--num-images", "2", "--grid") == 0
    assert (tmp_path / "picture-3-grid.png").exists() and not (tmp_path / "picture-2-grid.png").stat().st_size
    with pytest.warns(SDXLWarning, match="--grid has no effect: there is one image"):
        generate("cat", "--steps", "1", "--grid")


def test_a_table_is_the_single_images(
    generate: Any, tiny_pipe: sdxl.Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = ("--x", "steps=1,2,3", "--y", 'prompt="a cat, sitting","a dog"')
    assert generate("--seed", "5", *axes) == 0
    assert capsys.readouterr().out.splitlines() == ["6 of 6 images are in grid", "grid/grid.png  grid of 6 images"]
    for row, prompt in enumerate(("a cat, sitting", "a dog"), 1):
        for steps in (1, 2, 3):
            path = tmp_path / f"grid/{row}-{steps}.png"
            assert pixels(path) == tiny_pipe(prompt, steps=steps, seed=5, progress=False)[0].tobytes()
            assert sdxl.read_parameters(path)["request"]["steps"] == steps
            assert shows(tmp_path / "grid/grid.png", path)


def test_a_table_is_resumed(generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a seed too: it is the one of the folder."""
    axes = ("cat", "--x", "steps=1,2", "--output-dir", "out")
    assert generate(*axes) == 0
    first = pixels("out/1-1.png")
    (tmp_path / "out/1-2.png").unlink()
    (tmp_path / "out/grid.png").unlink()
    capsys.readouterr()
    assert generate(*axes, "--json") == 0
    files = [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()]
    assert files == ["out/1-2.png", "out/grid.png"]
    assert pixels("out/1-1.png") == first
    seeds = {sdxl.read_parameters(tmp_path / f"out/1-{n}.png")["request"]["seed"] for n in (1, 2)}
    assert len(seeds) == 1


def test_parts_of_values(generate: Any, tiny_pipe: sdxl.Pipeline) -> None:
    flags = ("cat", "--steps", "2", "--seed", "5", "--hires", "scale=2,strength=.5", "--guider", "apg")
    assert generate(*flags, "--x", "hires.upscaler=lanczos,latent", "--y", "guider.eta=0,1") == 0
    for row, eta in enumerate((0, 1), 1):
        for column, upscaler in enumerate(("lanczos", "latent"), 1):
            hires = sdxl.Hires(2, upscaler=upscaler, strength=0.5)
            image = tiny_pipe("cat", seed=5, hires=hires, guider=sdxl.APG(eta=eta), **COMMON)[0]
            assert pixels(f"grid/{row}-{column}.png") == image.tobytes()
    assert generate("cat", "--steps", "2", "--x", "hires.size=64x72,80x72", "--output-dir", "sizes") == 0
    assert [Image.open(f"sizes/1-{n}.png").size for n in (1, 2)] == [(64, 72), (80, 72)]


def test_a_table_of_an_image_again(generate: Any, tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    result = tiny_pipe("cat", seed=5, guidance_scale=3.0, **COMMON)
    result.save(tmp_path / "a.png")
    assert generate("--from", "a.png", "--x", "guidance-scale=3,7") == 0
    assert pixels("grid/1-1.png") == result[0].tobytes() != pixels("grid/1-2.png")
    # the record states eta and schedule, which belong to its sampler
    assert generate("--from", "a.png", "--x", "sampler=euler_ancestral,DPM++ 2M Karras", "--output-dir", "own") == 0
    for column, sampler in enumerate(("euler_ancestral", "DPM++ 2M Karras"), 1):
        image = tiny_pipe("cat", seed=5, guidance_scale=3.0, sampler=sampler, **COMMON)[0]
        assert pixels(f"own/1-{column}.png") == image.tobytes()


def test_other_networks_than_the_recorded_ones(generate: Any, tmp_path: Path) -> None:
    """The hash of a record is that of its own network."""
    for number, name in enumerate(("one", "other")):
        save(random_upscaler(seed=number), tmp_path / f"{name}.safetensors", OLD)
    flags = ("--steps", "2", "--control-dir", str(tmp_path))
    assert generate("cat", *flags, "--seed", "5", "--hires", "size=96x96,upscaler=one", "--output", "a.png") == 0
    assert generate("--from", "a.png", *flags, "--x", "hires.upscaler=one,other", "--y", "hires.scale=1.5,1.25") == 0
    assert len({pixels(path) for path in Path("grid").glob("?-?.png")}) == 4


def test_the_hash_of_a_recorded_lora_is_not_that_of_another() -> None:
    recorded = {"loras": [{"file": "one", "weight": 0.5, "hash": "0" * 64}]}
    (lora,) = read_axis("--x", "lora.file=other").put(recorded, 0)["loras"]
    assert (lora["file"], lora["weight"], lora.get("hash")) == ("other", 0.5, None)
    (lora,) = read_axis("--x", "lora.weight=1").put(recorded, 0)["loras"]
    assert (lora["file"], lora["weight"], lora["hash"]) == ("one", 1.0, "0" * 64)


def test_an_image_that_fails_is_an_empty_cell(
    generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values may be wrong for the model alone."""
    assert generate("cat", "--steps", "1", "--x", "width=64,68") == 1
    shown = capsys.readouterr()
    assert "line 2 of the grid: width is 68; it must be a multiple of 8" in shown.err
    assert shown.out.splitlines() == ["1 of 2 images are in grid; 1 line failed", "grid/grid.png  grid of 2 images"]


def test_values_are_typed() -> None:
    assert read_axis("--x", "steps=10, 20").values == (10, 20)
    assert read_axis("--x", "guidance-scale=1.5,2").values == (1.5, 2.0)
    assert read_axis("--y", 'prompt="a, b","say ""c"""').labels == ("a, b", 'say "c"')
    assert read_axis("--y", "lora.weight=.5,1").labels == ("lora.weight .5", "lora.weight 1")
    assert read_axis("--y", "lora.weight=.5,1").name == "loras"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("cat", "--x", "steps"), "--x is 'steps'; expected NAME=VALUE,VALUE,... Try steps=10,20,30"),
        (("cat", "--x", "steps="), "--x is 'steps='; expected NAME=VALUE"),
        (("cat", "--x", "steps=10,ten"), "--x steps has 'ten'; expected whole numbers"),
        (("cat", "--x", "steps=0,1"), "steps is 0; it must be a whole number"),
        (("cat", "--y", "cfg=5,7"), "'cfg' is no argument of one value; perhaps guidance_scale is meant"),
        (("cat", "--y", "hires=1,2"), "'hires' is no argument of one value; its parts can be, as in hires.strength"),
        (
            ("cat", "--y", "lora=a,b"),
            "'loras' is no argument of one value; its parts can be, as in lora.weight or lora",
        ),
        (("cat", "--y", "sampler.eta=1,2"), "of hires, guider, loras alone a part can be given"),
        (("cat", "--y", "num_images=1,2"), "'num_images' is no argument of one value"),
        (("cat", "--x", "steps=1", "--y", "steps=2"), "--x and --y are both steps"),
        (("cat", "--x", "prompt=a,b"), "prompt is given beside an axis of it"),
        (("cat", "--x", "sampler=euler,eulerr"), "sampler is 'eulerr'"),
        (("cat", "--x", "guider.eta=1"), "guider.eta is given without a guider"),
        (("cat", "--x", "lora.weight=1"), "lora.weight is given beside 0 LoRAs"),
        (("cat", "--x", "hires.denoise=1"), "hires has no 'denoise'"),
        (("cat", "--x", "steps=1,2", "--num-images", "2"), "a grid has one image for each pair of values"),
        (("cat", "--x", "steps=1,2", "--output", "a.png"), "--x and --y exclude --batch and --output"),
        (("cat", "--x", "steps=1,2", "--seed", "1", "--seed", "2"), "all images of a grid have one"),
        (("cat", "--x", f"seed={','.join(map(str, range(1001)))}"), "the grid has 1001 images"),
        (("--x", "steps=1,2"), "there is nothing to generate; give a prompt in quotes"),
        (("--batch", "a.jsonl", "--grid"), "--grid belongs to the images of one call"),
    ],
)
def test_wrong_axes(flags: tuple[str, ...], message: str, generate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(*flags) == 2
    assert message in capsys.readouterr().err
    assert not Path("grid").exists()
