"""The commands and the Python of the pages, run as they are, with the miniature in the place of full-size models."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from test_docs import PAGES, ROOT, blocks

import sdxl
from sdxl.cli.main import main
from sdxl.sampling import SAMPLERS, SCHEDULES
from sdxl.weights import open_checkpoint

MODEL = ROOT / "weights/miniature/base"
SMALLER = (  # what takes long or is far away, and what stands for it
    (r"stabilityai/stable-diffusion-xl-base-1\.0", "miniature"),
    (r"stabilityai/stable-diffusion-xl-refiner-1\.0", "miniature-refiner"),
    (r"madebyollin/taesdxl", "weights/adapters/tiny-decoder.safetensors"),
    (r"--size \S+", "--size 128x128"),
    (r"--(width|height) \d+", r"--\1 128"),
    (r"\bsize=\d+x\d+", "size=192x128"),
    (r"--steps \d+", "--steps 4"),
    (r"\b256,0,256,0\b", "32,0,32,0"),
    (r"steps=\d+", "steps=2"),
    (r"--output -(?= )", "--output out.png"),
)


GRAPH = {  # of ComfyUI
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "miniature"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red circle", "clip": ["1", 1]}},
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "4": {
        "class_type": "KSampler",
        "inputs": {
            **{"seed": 1, "steps": 2, "cfg": 5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1},
            **{"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]},
        },
    },
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
    "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0]}},
}


def smaller(text: str) -> str:
    for pattern, other in SMALLER:
        text = re.sub(pattern, other, text)
    return text


def commands(page: Path) -> list[str]:
    """The calls of the command line in a page, without comments and redirections."""
    lines = [line for code in blocks(page, "sh") for line in code.replace("\\\n", " ").splitlines()]
    plain = [re.sub(r"\s#.*|\s>.*", "", line).strip() for line in lines]
    found = [re.sub(r"^python -m sdxl\b", "sdxl", line) for line in plain]
    return [smaller(line) for line in found if re.match(r"sdxl (?!bench|serve)", line)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages speak of: a checkpoint, images, LoRAs, an embedding, a job."""
    folder = tmp_path_factory.mktemp("pages")
    sdxl.convert(MODEL, folder / "sd_xl_base_1.0.safetensors")
    shutil.copytree(ROOT / "weights/adapters", folder / "weights/adapters")
    for name in ("some_checkpoint", "weights/random_base", "sdxl_lightning_4step"):
        shutil.copy(folder / "sd_xl_base_1.0.safetensors", folder / f"{name}.safetensors")
    shutil.copytree(ROOT / "weights/adapters/image_encoder", folder / "image_encoder")
    for name, own in (("canny", "edges"), ("ip-adapter_sdxl_vit-h", "colours")):
        shutil.copy(ROOT / f"weights/adapters/{own}.safetensors", folder / f"{name}.safetensors")
    for name in ("photo.jpg", "photo.png", "style.jpg", "lion.png", "edges.png"):
        Image.new("RGB", (128, 128), "blue").save(folder / name)
    made = sdxl.Pipeline.from_pretrained("miniature")("a red circle", steps=2, progress=False)
    for name in ("picture.png", "cat.png"):
        made.save(folder / name)
    info = PngInfo()
    info.add_text("prompt", json.dumps(GRAPH))
    Image.new("RGB", (128, 128), "blue").save(folder / "ComfyUI_00042_.png", pnginfo=info)
    mask = Image.new("L", (128, 128))
    mask.paste(255, (32, 32, 80, 80))
    mask.save(folder / "mask.png")
    (folder / "job.jsonl").write_text(
        '{"prompt": "a red circle", "steps": 2}\n{"prompt": "a blue square", "steps": 2}\n'
    )
    checkpoint = open_checkpoint(MODEL)
    config = checkpoint.info.config
    assert config.text_encoder is not None
    widths = {"clip_l": config.text_encoder.dim, "clip_g": config.text_encoder_2.dim}
    save_file({key: torch.zeros(2, width) for key, width in widths.items()}, folder / "my-cat.safetensors")
    for name in ("style", "detail", "a", "b", "dmd2_sdxl_4step_lora"):
        save_file(lora(checkpoint), folder / f"{name}.safetensors")
    return folder


def lora(checkpoint: Any) -> dict[str, torch.Tensor]:
    """A LoRA of the UNet's attention."""
    component, state = checkpoint.components["unet"], {}
    weights = dict(component.tensors())
    for row in component.rows:
        if row.ours.endswith("attn.q.weight"):
            out, fan = weights[row.ours].shape
            module = "lora_unet_" + row.folder.removesuffix(".weight").replace(".", "_")
            state[f"{module}.lora_up.weight"] = torch.ones(out, 2) / out
            state[f"{module}.lora_down.weight"] = torch.ones(2, fan) / fan
    return state


@pytest.fixture
def _here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDXL_MODEL", "miniature")
    own = [(table, dict(table)) for table in (SAMPLERS, SCHEDULES)]  # pages put entries in
    yield
    for table, entries in own:
        table.clear()
        table.update(entries)  # type: ignore[arg-type]


NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
WITH_COMMANDS = [name for name in NAMES if commands(ROOT / name)]
SERVED = "docs/serve.md"  # whose examples need a running service: tests/serve/test_serve_page.py
WITH_PYTHON = [name for name in NAMES if blocks(ROOT / name, "python") and "/api/" not in name and name != SERVED]


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
@pytest.mark.filterwarnings("default::sdxl.errors.SDXLWarning")
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_the_commands_of_a_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands(ROOT / name):
        arguments = shlex.split(line)[1:]
        if "generate" in arguments and not {"--steps", "--from", "--batch", "--x"} & {*arguments}:
            arguments += ["--steps", "4"]
        assert main(arguments) == 0, (line, capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
@pytest.mark.filterwarnings("default::sdxl.errors.SDXLWarning")
@pytest.mark.parametrize("name", WITH_PYTHON)
def test_the_python_of_a_page(name: str) -> None:
    """All blocks of a page in one namespace, as a reader would type them who has a pipeline."""
    names: dict[str, Any] = {"sdxl": sdxl, "torch": torch, "pipe": sdxl.Pipeline.from_pretrained("miniature")}
    for code in blocks(ROOT / name, "python"):
        exec(compile(smaller(code), name, "exec"), names)


def test_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nsdxl generate a --steps 30 \\\n  --seed 1  # b\npip install x\npython -m sdxl a > b.png\n```\n"
    )
    assert [line.split() for line in commands(page)] == [
        ["sdxl", "generate", "a", "--steps", "4", "--seed", "1"],
        ["sdxl", "a"],
    ]
    assert {"README.md", "docs/adapters.md", "docs/models.md", "docs/jobs.md"} <= {*WITH_COMMANDS}
    assert {"README.md", "docs/adapters.md", "docs/networks.md"} <= {*WITH_PYTHON}
