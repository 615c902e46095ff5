"""The real hub code path, against a local stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub

NAME = "owner/tiny"


@pytest.fixture(scope="module")
def hub(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    shutil.copytree(tiny_folder, folder)
    # what a repository has besides, and nobody needs
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "unet/openvino_model.xml").write_text("<xml/>")
    (folder / "README.md").write_text("card")
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", folder / "big_single_file.safetensors")
    for part in ("unet", "vae"):
        plain = folder / part / "diffusion_pytorch_model.safetensors"
        shutil.copy(plain, plain.with_suffix(".fp16.safetensors"))
    server = Hub(NAME, folder)
    yield server
    server.close()


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Any:
    """The command line in a process of its own, since huggingface_hub reads its environment once."""

    def call(*arguments: str, url: str = hub.url, offline: bool = False) -> tuple[int, str]:
        environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        flags = ["--prompt", "cat", "--steps", "1", "--quiet", "--device", "cpu", "--output", str(tmp_path / "p.png")]
        command = [sys.executable, "-m", "sdxl", "generate", *flags, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ") or "Traceback" in line]
        return done.returncode, "\n".join(errors)

    return call


NEEDED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


def test_only_what_is_needed_is_fetched_and_then_cached(run: Any, hub: Hub) -> None:
    hub.requested.clear()
    assert run("--model", NAME, "--dtype", "float32") == (0, "")
    assert hub.requested == NEEDED
    hub.requested.clear()
    assert run("--model", NAME, "--dtype", "float32") == (0, "")
    assert hub.requested == set()
    assert run("--model", NAME, "--dtype", "float32", offline=True) == (0, "")
    assert run("--model", NAME, "--dtype", "float32", url="http://127.0.0.1:9") == (0, "")


def test_half_precision_takes_the_fp16_files(run: Any, hub: Hub) -> None:
    hub.requested.clear()
    assert run("--model", NAME, "--dtype", "float16") == (0, "")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.requested
    assert "unet/diffusion_pytorch_model.safetensors" not in hub.requested


def test_a_part_alone(run: Any, hub: Hub, tiny_folder: Path) -> None:
    hub.requested.clear()
    assert run("--model", str(tiny_folder), "--vae", NAME, "--dtype", "float32") == (0, "")
    weights = {name for name in hub.requested if name.endswith(".safetensors")}
    assert weights == {"vae/diffusion_pytorch_model.safetensors"}


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("--model", NAME), {"offline": True}, "the hub cannot be reached"),
        (("--model", NAME), {"url": "http://127.0.0.1:9"}, "the hub cannot be reached"),
        (("--model", "owner/nothing"), {}, "neither a local path nor a model on the hub"),
        (("--model", NAME, "--revision", "v9"), {}, "no such revision"),
        (("--model", NAME + "/nothing.safetensors"), {}, "no such file on the hub"),
        (("--model", NAME + "/big_single_file.safetensors"), {}, "is only a VAE"),
    ],
    ids=["offline", "no network", "no repository", "no revision", "no file", "wrong file"],
)
def test_errors(arguments: tuple[str, ...], options: dict[str, Any], sentence: str, run: Any, tmp_path: Path) -> None:
    status, error = run(*arguments, **options)
    assert status == 1
    assert sentence in error
    assert error.count("\n") == 0
    assert not (tmp_path / "p.png").exists()
