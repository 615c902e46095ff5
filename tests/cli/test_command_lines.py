"""What people type who come from other programs: it works, or gets the sentence that helps."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdxl.cli.main import main
from sdxl.cli.options import read_size

OUT = ["--output", "out.png", "--quiet", "--steps", "1", "--device", "cpu"]
# a command line (MODEL is that of the test), and its image's size or the sentence
WORKS: dict[str, tuple[list[str], tuple[int, int]]] = {
    "a prompt alone": (["a cat", "--model", "MODEL", *OUT], (64, 64)),
    "a prompt behind flags": (["generate", "--model", "MODEL", *OUT, "a cat"], (64, 64)),
    "a prompt between flags": (["generate", "--model", "MODEL", "cat", *OUT], (64, 64)),
    "flags without a command": (["--prompt", "cat", "--model", "MODEL", *OUT], (64, 64)),
    "a prompt that looks like a flag": (["generate", "--prompt=-cat", "--model", "MODEL", *OUT], (64, 64)),
    "a size": (["generate", "cat", "--size", "48x80", "--model", "MODEL", *OUT], (48, 80)),
    "a side": (["generate", "cat", "--size", "48", "--model", "MODEL", *OUT], (48, 48)),
    "a random seed": (["generate", "cat", "--seed", "-1", "--model", "MODEL", *OUT], (64, 64)),
    "AUTOMATIC1111's sampler": (
        ["--prompt", "cat", "--sampler", "DPM++ 2M Karras", "--model", "MODEL", *OUT, "--steps", "2"],
        (64, 64),
    ),
    "stable-diffusion.cpp's sampler": (["--prompt", "cat", "--sampler", "dpm++2m", "--model", "MODEL", *OUT], (64, 64)),
    "diffusers' class": (
        ["--prompt", "cat", "--sampler", "EulerDiscreteScheduler", "--model", "MODEL", *OUT],
        (64, 64),
    ),
    "ComfyUI's schedule": (["--prompt", "cat", "--schedule", "sgm_uniform", "--model", "MODEL", *OUT], (64, 64)),
    "a value behind =": (["generate", "cat", "--seed=7", "--model=MODEL", *OUT], (64, 64)),
}
HELPS: dict[str, tuple[str, str]] = {
    # stable-diffusion.cpp
    "sd.cpp": ('-m model.safetensors -p "cat"', "-m is --model here, -p is --prompt here; sdxl generate --help"),
    "sd.cpp's size": ("-p cat -W 1024 -H 1024", "-W is --width here, -H is --height here"),
    "sd.cpp's seed and file": ("generate cat -s 42 -o out.png", "-s is --seed here, -o is --output here"),
    "sd.cpp's negative": ("generate cat -n dog", "-n is --negative-prompt here"),
    "sd.cpp's sampler": ("generate cat --sampling-method euler_a", "--sampling-method is --sampler here"),
    "sd.cpp's scheduler": ("generate cat --scheduler karras", "is --schedule for the noise levels and --sampler for"),
    "sd.cpp's mode": ("generate cat --mode img_gen", "--mode is --image and --mask, which make it image to image"),
    "sd.cpp's image": ("generate cat -i photo.png", "-i is --image here"),
    "sd.cpp's count": ("generate cat -b 4", "-b is --num-images here"),
    "sd.cpp's threads": ("generate cat -t 8", "-t is OMP_NUM_THREADS=N in the environment here"),
    "sd.cpp's type": ("generate cat --type f16", "--type is --dtype here"),
    "sd.cpp's tiling": ("generate cat --vae-tiling", "automatic: the VAE is tiled where memory is short"),
    # AUTOMATIC1111
    "its scale": ("generate cat --cfg-scale 7", "perhaps --guidance-scale is meant"),
    "its memory": ("generate cat --medvram", "--medvram is --offload stage here"),
    "its little memory": ("generate cat --lowvram --xformers", "--lowvram is --offload block here, --xformers is the"),
    "its precision": ("generate cat --no-half", "--no-half is --dtype float32 here"),
    "its checkpoint": ("generate cat --ckpt x.safetensors", "--ckpt is --model here"),
    "its strength": ("generate cat --denoising-strength 0.5", "perhaps --strength is meant"),
    "its batch": ("generate cat --batch-size 4", "--num-images is the number of images"),
    "its hires fix": ("generate cat --enable-hr", "--enable-hr is --hires scale=2 here"),
    # ComfyUI
    "its CPU": ("generate cat --cpu", "--cpu is --device cpu here"),
    "its folder": ("generate cat --output-directory out", "--output-directory is --output-dir here"),
    # diffusers and the scripts of CompVis
    "its steps": ("generate cat --num_inference_steps 25", "perhaps --steps is meant"),
    "its underscore": ("generate cat --guidance_scale 7", "perhaps --guidance-scale is meant"),
    "its fp16": ("generate cat --fp16", "--fp16 is --dtype float16 here"),
    "its offload": ("generate cat --enable_model_cpu_offload", "is --offload stage here"),
    "txt2img.py": (
        "--prompt cat --plms --n_samples 2 --scale 7",
        "--n_samples is --num-images here, --scale is --guid",
    ),
    "txt2img.py's size": ("--prompt cat --H 512 --W 512", "--H is --height here, --W is --width here"),
    # of our own
    "two prompts": ("generate 'a red cat' 'a dog'", "2 prompts stand alone; give each with --prompt, in quotes"),
    "a folder to write": ("generate cat --output new/", "new/ is a folder; give a file name such as new/picture.png"),
    "control elsewhere": ("generate 'a cat' --control-net x", "--control-net is --control NET=IMAGE here"),
    "no quotes": ("generate a red cat", "the prompt is 3 words without quotes; write 'a red cat' in quotes"),
    "no quotes behind --prompt": ("generate --prompt a cat", "'cat' stands beside --prompt; put a prompt of several"),
    "another program's command": ("img2img a.png", "'img2img' is no command; here it is sdxl generate --image FILE"),
    "a flag as a command": ("verify a.png", "'verify' is no command; here it is sdxl generate --from IMAGE --verify"),
    "another program's page": ("webui", "'webui' is no command; here it is sdxl serve, which has a page"),
    "a token": ("generate cat --hf-token x", "--hf-token is HF_TOKEN in the environment here"),
    "what is missing": ("generate cat --restore-faces", "--restore-faces does not exist here"),
    "a wrong command": ("inspct x.safetensors", "'inspct' is no command; perhaps inspect is meant"),
    "a word": ("cat", "sdxl generate 'cat' generates it"),
    "both sizes": ("generate cat --size 64x64 --width 64", "--size is given beside --width; give one of them"),
    "a bad size": ("generate cat --size wide", "'wide' is no size such as 1216x832"),
    "a job's flag": ("generate cat --engine ray --workers 3", "--engine requires --batch FILE"),
    "a job's folder": ("generate cat --output-dir out", "--output-dir requires --batch FILE"),
    "a short flag": ("generate cat --neg dog", "--neg is no flag here, perhaps --negative-prompt is meant"),
    "a value with a dash": ("generate --prompt -cat", "one that begins with - is written as --flag=VALUE"),
    "several to stdout": ("generate cat --num-images 2 --output -", "--output - takes one image, and there are 2"),
    "a strange suffix": ("generate cat --output cat.gif", "expected .png, .jpg, .jpeg or .webp"),
    "strength alone": ("generate cat --strength 0.5", "strength is given without image"),
    "mask padding alone": ("generate cat --mask-padding 32", "mask_padding is given without mask"),
    "nothing": ("generate", "there is nothing to generate; give a prompt in quotes, or --from picture.png"),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDXL_MODEL", raising=False)


def run(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(str(ended.code))


@pytest.mark.parametrize("case", WORKS)
def test_what_works(case: str, tiny_folder: Path) -> None:
    arguments, size = WORKS[case]
    assert run([each.replace("MODEL", str(tiny_folder)) for each in arguments]) == 0
    with Image.open("out.png") as image:
        assert image.size == size


def test_thirty_command_lines_get_the_sentence_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    assert len(HELPS) >= 30
    for case, (line, sentence) in HELPS.items():
        assert run(shlex.split(line)) in (1, 2), case
        shown = capsys.readouterr()
        assert sentence in shown.err, (case, shown.err)
        assert shown.err.startswith("error: "), case
        assert shown.err.count("\n") == 1, case
        assert not shown.out, case
    assert not list(Path().iterdir())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_bare_command_shows_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert all(
        text in shown for text in ("generate", "inspect", "SDXL_MODEL ", "SDXL_MODELS_DIR", "exit status", "130")
    )


def test_sizes() -> None:
    assert [read_size(text) for text in ("1216x832", "1216X832", "1024", " 8 * 16 ")] == [
        (1216, 832),
        (1216, 832),
        (1024, 1024),
        (8, 16),
    ]


def test_the_model_of_the_environment(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDXL_MODEL", str(tiny_folder))
    assert run(["generate", "cat", *OUT]) == 0
    monkeypatch.setenv("SDXL_MODEL", "nowhere.safetensors")
    assert run(["generate", "--from", "out.png", *OUT]) == 0, "the image's own model comes first"
    assert run(["generate", "cat", *OUT]) == 1
    assert "nowhere.safetensors does not exist" in capsys.readouterr().err


def test_an_image_to_stdout(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run(["generate", "cat", "--model", str(tiny_folder), *OUT, "--output", "-", "--seed", "3"]) == 0
    with Image.open(io.BytesIO(stream.buffer.getvalue())) as image:  # type: ignore[attr-defined]
        assert image.size == (64, 64)
        assert json.loads(image.text["sdxl"])["request"]["seed"] == 3  # type: ignore[attr-defined]
    assert capsys.readouterr().err == "-  seed 3\n"


def test_lines_of_json(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(tiny_folder), *OUT, "--num-images", "2", "--seed", "5", "--output", "é.webp", "--json"]
    assert run(["generate", "cat", *flags]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["file"], first["seed"], second["file"], second["seed"]) == ("é-1.webp", 5, "é-2.webp", 6)
    assert (first["width"], first["height"], first["steps"], first["dtype"]) == (64, 64, 1, "bfloat16") or first[
        "dtype"
    ]
    assert first["seconds"] > 0


def test_progress_and_logs(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["generate", "cat", "--model", str(tiny_folder), "--steps", "2", "--device", "cpu", "--output", "a.png"]
    base += ["--dtype", "float32"]
    texts = {}
    for name, more in (("lines", []), ("quiet", ["--quiet"]), ("log", ["-v"]), ("steps", ["-vv"])):
        assert run([*base, *more]) == 0
        texts[name] = capsys.readouterr().err
    assert "SDXL base, cpu, float32, offload stage, 1 image of 64 x 64, 2 steps\n" in texts["lines"]
    assert [line for line in texts["lines"].splitlines() if line in ("text", "loading unet", "decoding")]
    assert "steps: 2 of 2" in texts["lines"]
    assert texts["quiet"] == ""
    assert " s] decoding: " in texts["log"] and " GB in use" in texts["log"] and "step 1 of 2" not in texts["log"]
    assert "step 1 of 2, sigma" in texts["steps"]


def test_inspect_shows_the_parameters_of_an_image(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from PIL.PngImagePlugin import PngInfo

    assert run(["generate", "a red cat", "--model", str(tiny_folder), *OUT, "--output", "cat.jpg", "--seed", "4"]) == 0
    capsys.readouterr()
    assert run(["inspect", "cat.jpg"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("cat.jpg: an image of sdxl ")
    assert "a red cat\n" in shown and "\n  seed " in shown
    assert f", torch {torch.__version__}, device cpu" in shown.split("\n")[0]
    assert run(["inspect", "--json", "cat.jpg"]) == 0
    assert json.loads(capsys.readouterr().out)["request"]["seed"] == 4
    info = PngInfo()
    info.add_text("parameters", "a dog\nSteps: 20, Sampler: Euler a")
    Image.new("RGB", (8, 8)).save("other.png", pnginfo=info)
    assert run(["inspect", "other.png"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("other.png: an image of AUTOMATIC1111\n")
    assert re.search("prompt +a dog\n", shown) and re.search("sampler +euler_ancestral\n", shown)
    info.add_text("sdxl", json.dumps({"version": 5, "request": {}, "model": {}}))
    Image.new("RGB", (8, 8)).save("damaged.png", pnginfo=info)
    assert run(["inspect", "damaged.png"]) == 0
    assert capsys.readouterr().out.startswith("damaged.png: an image of 5\n")
    Image.new("RGB", (8, 8)).save("none.png")
    assert run(["inspect", "none.png"]) == 2
    capsys.readouterr()
    assert run(["inspect", "none.png", "cat.jpg", "absent.safetensors", "other.png"]) == 1
    shown, errors = capsys.readouterr()
    assert re.findall(r"^(\S+): an image of", shown, re.MULTILINE) == ["cat.jpg", "other.png"]
    assert re.findall(r"^error: (\S+) ", errors, re.MULTILINE) == ["none.png", "absent.safetensors"]


def test_all_images_but_the_failed_are_saved(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a disk that is full for a while; the error names the seeds that are lost."""
    import errno

    from sdxl.images import output

    plain = output.open_part

    def full(path: Path, folder: Path | None = None) -> Any:
        if path.stem in ("a-2", "a-4"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(path, folder)

    monkeypatch.setattr(output, "open_part", full)
    flags = ["--model", str(tiny_folder), *OUT, "--num-images", "4", "--seed", "11", "--output", "a.png"]
    assert run(["generate", "cat", *flags]) == 1
    shown = capsys.readouterr()
    assert shown.out == "a-1.png  seed 11\na-3.png  seed 13\n"
    assert "a-2.png cannot be written: No space left on device; free some space" in shown.err
    assert shown.err.endswith("; not saved: seeds 12, 14\n")


def test_flags_that_change_nothing_are_named(tiny_folder: Path, single: Path) -> None:
    from sdxl.errors import SDXLWarning

    for model, flag, reason in (
        (tiny_folder, ["--compile"], "compile has no effect on cpu"),
        (tiny_folder, ["--revision", "main"], "--revision main has no effect: .* is on this machine"),
        (tiny_folder, ["--variant", "fp16"], "--variant fp16 has no effect: .* has no such files"),
        (single, ["--variant", "fp16"], "--variant fp16 has no effect: .* is a single file"),
        (tiny_folder, ["--guidance-scale", "1", "--negative-prompt", "dog"], "negative_prompt has no effect: guidance"),
        (tiny_folder, ["--aesthetic-score", "3"], "aesthetic_score has no effect: no refiner is loaded"),
    ):
        with pytest.warns(SDXLWarning, match=reason):
            assert run(["generate", "cat", "--model", str(model), *OUT, *flag]) == 0


def test_no_message_repeats_all_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 50_000
    for line in ([long], ["generate", f"--{long}"], ["generate", "--width", long], ["generate", "--prompt", "a", long]):
        assert run(line) == 2
        assert len(capsys.readouterr().err) < 2000


def test_a_long_prompt_in_a_jpeg_costs_no_work(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(tiny_folder), *OUT, "--output", "a.jpg"]
    assert run(["generate", "cat " * 10_000, *flags]) == 2
    assert "a JPEG cannot record so many; give a .png" in capsys.readouterr().err


def test_a_job_in_json(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.jsonl").write_text(
        '{"prompt": "a", "seed": 7}\n{"prompt": "b", "output": "\\u00e9.png"}\n{"prompt": 1}\n'
    )
    flags = ["--model", str(tiny_folder), "--steps", "1", "--device", "cpu", "--seed", "-1", "--json"]
    assert run(["generate", "--batch", "job.jsonl", "--output-dir", "out", *flags]) == 1
    shown = capsys.readouterr()
    first, second = map(json.loads, shown.out.splitlines())
    assert (first["file"], first["seed"], second["file"]) == ("out/00001.png", 7, "out/é.png")
    assert all(Path(each["file"]).is_file() for each in (first, second))
    assert "line 3 of job.jsonl: prompt is 1; " in shown.err
    assert "images: 2 of 2" in shown.err
    assert shown.err.endswith("2 of 2 images are in out; 1 line failed\n")
