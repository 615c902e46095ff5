"""The command line: images that replay, reports, and one clear sentence for each bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.cli.main import main
from sdxl.images.a1111 import parameters_text
from sdxl.pipeline.model_request import DEFAULT_MODEL


@pytest.fixture
def generate(tiny_folder: Path, tmp_path: Path) -> Any:
    def run(*arguments: str, model: str | Path | None = tiny_folder, output: str = "p.png") -> tuple[int, Path]:
        path = tmp_path / output
        flags = ["--model", str(model)] if model else []
        return main(["generate", *flags, "--output", str(path), "--quiet", "--device", "cpu", *arguments]), path

    return run


def test_generate_and_replay(generate: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--prompt", "a red cat!", "--negative-prompt", "dog", "--steps", "3", "--seed", "5", "--sampler", "ddim"]
    flags += ["--eta", "0.5", "--original-size", "48,64", "--crop-top-left", "8,16", "--dtype", "float32"]
    status, first = generate(*flags, "--height", "48")
    assert status == 0
    assert capsys.readouterr().out == f"{first}  seed 5\n"
    with Image.open(first) as image:
        assert image.size == (64, 48)
        text, own = image.text["parameters"], json.loads(image.text["sdxl"])
        pixels = image.tobytes()
    assert text.startswith("a red cat!\nNegative prompt: dog\nSteps: 3, Sampler: DDIM, ")
    assert "CFG scale: 5.0, Seed: 5, Size: 64x48" in text
    assert own["request"]["original_size"] == [48, 64]
    status, second = generate("--from", str(first), model=None, output="q.png")
    assert status == 0
    with Image.open(second) as image:
        assert image.tobytes() == pixels
    status, third = generate("--from", str(first), "--seed", "6", model=None, output="r.png")
    with Image.open(third) as image:
        assert image.tobytes() != pixels


def test_sources_are_recorded_and_replayed(generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, mask = Image.effect_noise((72, 61), 90).convert("RGB"), Image.new("L", (72, 61), 0)
    mask.paste(255, (20, 20, 50, 50))
    image.save(tmp_path / "source.png")
    mask.save(tmp_path / "mask.png")
    image.save(tmp_path / "copy.bmp")
    flags = ["--prompt", "cat", "--steps", "4", "--seed", "3", "--mask-padding", "4", "--feather", "2"]
    sources = ["--image", str(tmp_path / "source.png"), "--mask", str(tmp_path / "mask.png")]
    status, first = generate(*flags, *sources, "--strength", "0.75")
    assert status == 0
    with Image.open(first) as image:
        assert image.size == (72, 61)
        own, text, pixels = json.loads(image.text["sdxl"])["request"], image.text["parameters"], image.tobytes()
    assert own["image"] != own["mask"]
    assert own["image"].startswith("sha256:") and own["mask"].startswith("sha256:")
    assert (own["strength"], own["mask_padding"], own["width"]) == (0.75, 4, None)
    assert "Size: 72x61" in text
    assert "Denoising strength: 0.75" in text
    again = ["--image", str(tmp_path / "copy.bmp"), "--mask", str(tmp_path / "mask.png")]
    status, second = generate("--from", str(first), *again, model=None, output="q.png")
    assert status == 0
    assert "warning" not in capsys.readouterr().err
    with Image.open(second) as image:
        assert image.tobytes() == pixels, "the content counts, not the file"
    assert generate("--from", str(first), model=None, output="r.png")[0] == 2
    missing = "was made from an image and a mask, which it does not contain; give them again with --image and --mask"
    assert missing in capsys.readouterr().err
    image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(tmp_path / "other.png")
    other = ["--image", str(tmp_path / "other.png"), "--mask", str(tmp_path / "mask.png")]
    with pytest.warns(sdxl.errors.SDXLWarning, match="--image is not the one"):
        generate("--from", str(first), *other, model=None, output="s.png")


def test_a_source_is_not_overwritten(generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "p-2.png")
    before = (tmp_path / "p-2.png").read_bytes()
    flags = ["--prompt", "cat", "--steps", "4", "--image", str(tmp_path / "p-2.png")]
    for more, output in (([], "p-2.png"), (["--num-images", "2"], "p.png")):
        status, _ = generate(*flags, *more, output=output)
        assert status == 2
        assert "p-2.png is a source and would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "p-2.png").read_bytes() == before


@pytest.mark.parametrize("name", ["P.PNG", "q.png"])
def test_a_source_is_known_by_any_of_its_names(
    name: str, generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a file system that takes letters of any case for the same, of which a second link is a double; and by what
    it is for.
    """
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "p.png")
    os.link(tmp_path / "p.png", tmp_path / name)
    is_same = name == "P.PNG"
    flags = ["--prompt", "cat", "--steps", "4"]
    assert generate(*flags, "--image", str(tmp_path / "p.png"), output=name)[0] == (2 if is_same else 0)
    assert ("would be overwritten" in capsys.readouterr().err) is is_same
    assert generate(*flags, "--control", f"{tmp_path}/no.safetensors={tmp_path / name}", output=name)[0] == 2
    assert f"{name} is a source and would be overwritten" in capsys.readouterr().err


def test_outpainting(generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.effect_noise((40, 48), 90).convert("RGB").save(tmp_path / "source.png")
    flags = ["--prompt", "cat", "--steps", "2", "--image", str(tmp_path / "source.png")]
    status, path = generate(*flags, "--outpaint", "16,8,8,0")
    assert status == 0
    with Image.open(path) as image:
        assert image.size == (64, 56)
    with pytest.raises(SystemExit):
        generate(*flags, "--outpaint", "16,8")
    assert "'16,8' is not four whole numbers such as 128,0,128,0" in capsys.readouterr().err


def test_bad_sources_are_reported_before_the_model_is_loaded(
    generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    status, output = generate("--prompt", "cat", "--image", str(tmp_path / "bad.png"), model="nowhere.safetensors")
    assert status == 2
    assert "bad.png is not an image in a known format; save it as PNG or JPEG" in capsys.readouterr().err
    assert not output.exists()


def test_several_images(generate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, path = generate("--prompt", "cat", "--prompt", "dog", "--num-images", "2", "--steps", "1", "--seed", "7")
    assert status == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["7", "8", "9", "10"]
    assert all(path.with_stem(f"p-{n}").is_file() for n in (1, 2, 3, 4))


def test_latents(generate: Any, tmp_path: Path) -> None:
    start = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(6))
    save_file({"latents": start}, tmp_path / "start.safetensors")
    _, one = generate("--prompt", "cat", "--steps", "2", "--latents", str(tmp_path / "start.safetensors"))
    _, two = generate("--prompt", "cat", "--steps", "2", "--seed", "6", output="q.png")
    with Image.open(one) as a, Image.open(two) as b:
        assert a.tobytes() == b.tobytes()
    status, _ = generate("--from", str(one))
    assert status == 2
    save_file({"latents": start + 1}, tmp_path / "other.safetensors")
    with pytest.warns(sdxl.errors.SDXLWarning, match="--latents is not the one"):
        generate("--from", str(one), "--latents", str(tmp_path / "other.safetensors"), output="r.png")


def test_every_argument_has_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import fields

    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = capsys.readouterr().out
    for each in fields(sdxl.Request):
        assert "--" + (each.metadata["option"].flag or each.name).replace("_", "-") in text


def test_the_version_says_what_belongs_to_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"sdxl {sdxl.__version__} (torch {torch.__version__.partition('+')[0]}")


def files(folder: Path, tiny_folder: Path) -> dict[str, Path]:
    """Bad models."""
    sdxl.convert(tiny_folder, folder / "whole.safetensors")
    whole = load_file(folder / "whole.safetensors")
    data = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(data[: len(data) // 2])
    (folder / "text.safetensors").write_text("<html>404 not found, nothing to see here</html>")
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "other.gguf").write_bytes(b"GGUF" + bytes(60))
    torch.save({"a": torch.zeros(1)}, folder / "pickle.safetensors")
    (folder / "model.ckpt").write_bytes(b"anything at all")
    old = {"cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.zeros(1)}
    save_file(old | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, folder / "sd15.safetensors")
    module, pair = "lora_unet_input_blocks_4_1_proj_in", {"up": torch.zeros(64, 1), "down": torch.zeros(1, 64)}
    save_file({f"{module}.lora_{end}.weight": value for end, value in pair.items()}, folder / "lora.safetensors")
    no_vae = {key: value for key, value in whole.items() if not key.startswith("first_stage_model.")}
    save_file(no_vae, folder / "no_vae.safetensors")
    unet = {key: value for key, value in whole.items() if key.startswith("model.diffusion_model.")}
    save_file(unet, folder / "only_unet.safetensors")
    no_layer = {key: value for key, value in whole.items() if "resblocks.1.mlp" not in key}
    save_file(no_layer, folder / "no_layer.safetensors")
    return {path.stem: path for path in folder.iterdir()} | {"ckpt": folder / "model.ckpt"}


def test_bad_models(generate: Any, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    folder = tmp_path / "models"
    folder.mkdir()
    paths = files(folder, tiny_folder)
    shutil.copytree(tiny_folder, tmp_path / "no_unet")
    shutil.rmtree(tmp_path / "no_unet/unet")
    shutil.copytree(tiny_folder, tmp_path / "no_weights")
    (tmp_path / "no_weights/vae/diffusion_pytorch_model.safetensors").unlink()
    cases = {
        paths["cut"]: "it is truncated or damaged, download it again",
        paths["text"]: "is not a safetensors file; check its source",
        paths["empty"]: "is not a safetensors file",
        paths["other"]: "is a GGUF file, not a safetensors file; download the model as .safetensors",
        paths["pickle"]: "is a pickle, which can run code",
        paths["ckpt"]: "is a pickle, which can run code",
        paths["sd15"]: "is Stable Diffusion 1.x, not an SDXL model",
        paths["lora"]: "is a LoRA, not an SDXL model",
        paths["no_vae"]: "no_vae.safetensors has no VAE; give one as vae=",
        paths["only_unet"]: "is only a UNet; give it as unet=",
        paths["no_layer"]: "tensors",
        tmp_path / "no_unet": "unet is missing, but model_index.json names it; download the model again",
        tmp_path / "no_weights": "diffusion_pytorch_model.safetensors is missing; download it",
        tmp_path / "nowhere.safetensors": "does not exist; give a .safetensors file",
        tmp_path: "has no model_index.json",
    }
    for path, sentence in cases.items():
        status, output = generate("--prompt", "cat", "--steps", "1", model=path)
        error = capsys.readouterr().err
        assert status == 1, path
        assert error.startswith("error: ")
        assert error.count("\n") == 1, error
        assert sentence in error, error
        assert not output.exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--prompt", "cat", "--width", "1001"], "width is 1001"),
        (["--prompt", "cat", "--steps", "0"], "steps is 0"),
        (["--prompt", "cat", "--steps", "2000"], "steps is 2000"),
        (["--prompt", "cat", "--sampler", "plms"], "sampler is 'plms'"),
        (["--prompt", "cat", "--dtype", "int8"], "dtype is 'int8'"),
        (["--prompt", "cat", "--device", "gpu"], "device 'gpu' cannot be used"),
        ([], "there is nothing to generate"),
        (["--from", "nowhere.png"], "cannot be read as an image"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_arguments(flags: list[str], sentence: str, generate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, output = generate(*flags)
    error = capsys.readouterr().err
    assert status == 2
    assert sentence in error
    assert error.count("\n") == 1
    assert not output.parent.joinpath("p.png").exists()


def test_bad_outputs(generate: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, sentence in (
        ("file/p.png", "cannot be written"),
        ("p.gif", "is '.gif'; expected .png, .jpg, .jpeg or .webp. Try "),
        ("", "is a folder"),
    ):
        status, _ = generate("--prompt", "cat", "--steps", "1", output=name)
        assert status == 1
        assert sentence in capsys.readouterr().err


def test_foreign_png(generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png")
    status, _ = generate("--from", str(tmp_path / "foreign.png"))
    assert status == 2
    assert "has no recorded parameters; give an image that sdxl or another tool wrote" in capsys.readouterr().err


def test_inspect(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    paths = files(folder, tiny_folder)
    expected = {
        paths["whole"]: "SDXL base, single file",
        tiny_folder: "SDXL base, diffusers folder",
        tiny_folder / "vae/diffusion_pytorch_model.safetensors": "VAE only, folder layout",
        tiny_folder / "unet/diffusion_pytorch_model.safetensors": "SDXL UNet only, folder layout",
        paths["lora"]: "LoRA of SDXL",
        paths["sd15"]: "Stable Diffusion 1.x",
    }
    for path, report_kind in expected.items():
        assert main(["inspect", str(path)]) == 0
        assert capsys.readouterr().out.startswith(f"{path}: {report_kind}\n")
    report = sdxl.inspect(paths["whole"])
    assert report.missing == report.unexpected == []
    assert len(report.ignored) == 2
    assert main(["inspect", "--json", str(paths["whole"])]) == 0
    assert json.loads(capsys.readouterr().out)["parts"]["vae"]["tensors"] == report.parts["vae"].tensors
    assert main(["inspect", str(paths["pickle"])]) == 1


def test_convert(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "one.safetensors"
    assert main(["convert", str(tiny_folder), str(target)]) == 0
    assert main(["convert", str(tiny_folder), str(target)]) == 1
    assert "exists; remove it" in capsys.readouterr().err
    assert main(["convert", str(target), str(tmp_path / "one.safetensors" / "folder")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert main(["convert", str(target), str(tmp_path / "one.ckpt")]) == 1
    assert "one.ckpt would be a folder, and its name ends in .ckpt; expected" in capsys.readouterr().err
    assert not (tmp_path / "one.ckpt").exists()


def test_importing_needs_no_torch() -> None:
    code = "import sys, sdxl, sdxl.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--size", "64", "--repeats", "1", "--device", "cpu", "--dtype", "float32"]
    assert main(["bench", "--model", "miniature", *size]) == 0
    machine, layers, head, *lines = capsys.readouterr().out.splitlines()
    assert "threads" in machine and "arithmetic float32" in machine and "64 x 64" in machine
    assert layers.startswith("layers ")
    assert [line.split()[0] for line in (head, *lines)] == ["stage", "text", "step", "decode", "encode"]
    assert all(float(line.split()[1]) > 0 for line in lines)


def test_a_memory_limit_generates_the_same_image(
    generate: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdxl.runtime.memory.RESERVE", 10**12)  # as if much were needed beside the weights
    flags = ["--prompt", "a cat", "--steps", "2", "--seed", "1", "--dtype", "float32"]
    images = []
    for more in ([], ["--max-memory", "900"]):
        status, path = generate(*flags, *more)
        assert status == 0
        with Image.open(path) as image:
            images.append(torch.tensor(list(image.tobytes())))
    assert (images[0] - images[1]).abs().max() <= 1
    assert generate(*flags, "--max-memory", "-1")[0] == 2
    assert "max_memory is -1000000000 bytes, too few" in capsys.readouterr().err
    assert generate(*flags, "--max-memory", "0.001")[0] == 1
    assert "an image of 64 x 64 needs" in capsys.readouterr().err


def test_an_interval_is_replayed(generate: Any, tmp_path: Path) -> None:
    _, first = generate("--prompt", "a cat", "--steps", "4", "--seed", "1", "--guidance-interval", "0.5,6")
    _, second = generate("--from", str(first), model=None, output="second.png")
    with Image.open(first) as one, Image.open(second) as two:
        assert one.tobytes() == two.tobytes()
        assert json.loads(two.text["sdxl"])["request"]["guidance_interval"] == [0.5, 6.0]
    with pytest.raises(SystemExit):
        generate("--prompt", "a cat", "--guidance-interval", "high")


def test_default_file_names_overwrite_no_image(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["generate", "--model", str(tiny_folder), "--prompt", "cat", "--steps", "1", "--device", "cpu", "--quiet"]
    for more in ([], [], ["--num-images", "2"], []):
        assert main([*flags, *more]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["picture.png", "picture-2.png", "picture-2-1.png", "picture-2-2.png", "picture-3.png"]
    call = sdxl.Pipeline.__call__

    def beside(*arguments: Any, **more: Any) -> Any:
        """Another process is done first."""
        (tmp_path / "picture-4.png").write_bytes(b"another's")
        return call(*arguments, **more)

    monkeypatch.setattr(sdxl.Pipeline, "__call__", beside)
    assert main(flags) == 0
    assert capsys.readouterr().out.split()[0] == "picture-5.png"
    assert (tmp_path / "picture-4.png").read_bytes() == b"another's"


def test_names_of_files(generate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As long as the system allows, and no longer."""
    flags = ["--prompt", "cat", "--steps", "1"]
    assert generate(*flags, output="x" * 251 + ".png")[0] == 0
    assert generate(*flags, output="x" * 252 + ".png")[0] == 1
    assert "File name too long; choose another path" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_whose_name_is_not_unicode(single: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/mod\xe9le.safetensors"
    os.replace(single, odd)
    flags = [b"--model", odd, b"--prompt", b"cat", b"--steps", b"1", b"--device", b"cpu", b"--quiet"]
    command = [
        os.fsencode(sys.executable),
        b"-m",
        b"sdxl",
        b"generate",
        *flags,
        b"--output",
        os.fsencode(tmp_path / "p.png"),
    ]
    assert subprocess.run(command, check=False).returncode == 0
    with Image.open(tmp_path / "p.png") as image:
        assert "Model: mod?le, " in image.text["parameters"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--cfg-scale", "7"],
            "error: --cfg-scale is no flag here, perhaps --guidance-scale is meant; sdxl generate --help shows",
        ),
        (["--num-inference-steps", "3"], "perhaps --steps is meant; "),
        (["--qqq"], "error: --qqq is no flag here; sdxl generate --help shows all flags"),
        (["--width", "abc"], "error: argument --width: invalid int value: 'abc'; sdxl generate --help shows"),
    ],
)
def test_a_wrong_flag_is_one_line(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--prompt", "cat", *flags])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_closed_pipe_is_no_reason_for_a_message(single: Path) -> None:
    command = f"{sys.executable} -m sdxl inspect {single} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def test_the_parameters_for_other_programs() -> None:
    request = sdxl.Request("cat", clip_skip=1, sampler="euler", seed=1, schedule="leading")
    parameters = {"request": vars(request), "model": {"model": DEFAULT_MODEL}, "version": "1"}
    text = parameters_text(parameters, (64, 64))
    assert "Model: stable-diffusion-xl-base-1.0, " in text
    assert "Clip skip: 3, " in text, "AUTOMATIC1111's 2 is SDXL's default"
