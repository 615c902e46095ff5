"""Files of tiny VAEs: what they are taken for, and which are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vae_files import SMALL, reference, save_all

import sdxl
from sdxl.errors import CheckpointError, ConfigError, SDXLError
from sdxl.models.published import BASE
from sdxl.weights.checkpoint import open_component

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_all(reference(**SMALL), tmp_path_factory.mktemp("tiny_vae"))


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("folder", "tiny VAE (as TAESDXL), folder layout"),
        ("file", "tiny VAE (as TAESDXL), folder layout"),
        ("decoder", "tiny VAE (as TAESDXL), decoder alone, single layout"),
        ("encoder", "tiny VAE (as TAESDXL), encoder alone"),
        ("both", "tiny VAE (as TAESDXL), single layout"),
    ],
)
def test_inspect_names_the_kind(files: dict[str, Path], layout: str, kind: str) -> None:
    report = sdxl.inspect(files[layout])
    assert report.kind == kind
    assert report.missing == report.unexpected == report.wrong == []
    tensors: list[int] = [part.tensors for part in report.parts.values()]
    assert sum(tensors) > 30


def test_inspect_tells_taesd_by_its_name(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "taesd_decoder.safetensors"
    path.write_bytes(files["decoder"].read_bytes())
    assert sdxl.inspect(path).kind.startswith("tiny VAE (TAESD by its name, of Stable Diffusion 1 and 2)")


@pytest.mark.parametrize(
    "name",
    [
        "taesd_decoder.safetensors",
        "TAESD.safetensors",
        "sd15-taesd-fp16.safetensors",
        "taesd/diffusion_pytorch_model.safetensors",
        "models--madebyollin--taesd/snapshots/0123/vae.safetensors",
    ],
)
def test_taesd_is_refused_by_its_name(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(files["decoder"].read_bytes())
    with pytest.raises(CheckpointError, match="is named TAESD, which decodes the latents of Stable Diffusion 1 and 2"):
        open_component(path, "vae", BASE)


@pytest.mark.parametrize(
    "name",
    [
        "taesdxl_decoder.safetensors",
        "my-TAESDXL.safetensors",
        "draft.safetensors",
        "models--madebyollin--taesdxl/snapshots/0123/vae.safetensors",
    ],
)
def test_other_names_are_taken(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(files["decoder"].read_bytes())
    assert not open_component(path, "vae", BASE).config.has_encoder  # type: ignore[union-attr]


def without(key: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if name != key}


def given(**changed: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name.replace("__", "."): value for name, value in changed.items()}


@pytest.mark.parametrize(
    ("layout", "change", "sentence"),
    [
        ("encoder", dict, "has the encoder of a tiny VAE alone"),
        ("both", given(vae_scale=torch.tensor(0.18215)), r"of the scale 0\.18215; expected 0\.13025"),
        ("decoder", without("3.conv.2.bias"), r"1 tensors of the vae are missing: 3\.conv\.2\.bias"),
        ("decoder", without("16.bias"), r"are missing: 16\.bias"),
        ("decoder", given(extra__weight=torch.ones(2)), r"1 tensors do not belong to this SDXL model: extra\.weight"),
        ("decoder", {"3.conv.2.weight": torch.ones(16, 8, 3, 3)}, r"3\.conv\.2\.weight has shape \[16, 8, 3, 3\]"),
        ("decoder", {"1.weight": torch.ones(16)}, r"1\.weight has shape \[16\]; expected a convolution"),
        ("decoder", {"1.weight": torch.ones(16, 16, 3, 3)}, r"latents of 16 channels, and the model's have 4"),
        ("decoder", {"1.bias": torch.ones(16, dtype=torch.int8)}, "has dtype 'I8'"),
        ("file", without("encoder.layers.0.weight"), r"are missing: encoder\.layers\.0\.weight"),
    ],
)
def test_damaged_files(
    files: dict[str, Path], tmp_path: Path, layout: str, change: Any, sentence: str, tiny_folder: Path
) -> None:
    tensors = load_file(files[layout])
    save_file(tensors | change if isinstance(change, dict) else change(tensors), tmp_path / "x.safetensors")
    with pytest.raises(SDXLError, match=sentence) as caught:
        sdxl.Pipeline.from_pretrained(tiny_folder, vae=tmp_path / "x.safetensors", device="cpu", offload="stage")
    assert "x.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"act_fn": "silu"}, "act_fn is 'silu'"),
        ({"upsample_fn": "bilinear"}, "upsample_fn is 'bilinear'"),
        ({"num_decoder_blocks": [3, 1, 2], "decoder_block_out_channels": 16}, "encoder has 4 levels and its decoder 3"),
        ({"num_decoder_blocks": "many"}, "num_decoder_blocks is"),
        ({"decoder_block_out_channels": [16, 16, 32, 32]}, "only one for all is supported"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"num_decoder_blocks": [99, 1, 1, 1]}, "is not in 1 to 16"),
    ],
)
def test_configs(files: dict[str, Path], tmp_path: Path, config: dict[str, Any], sentence: str) -> None:
    written = json.loads((files["folder"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | config))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(files["file"].read_bytes())
    for path in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
        with pytest.raises(ConfigError, match=sentence):
            open_component(path, "vae", BASE)


def test_a_tiny_vae_is_no_other_component(files: dict[str, Path], tiny_folder: Path, tmp_path: Path) -> None:
    for layout in ("decoder", "file"):
        with pytest.raises(CheckpointError, match="is a tiny VAE, not a unet of SDXL; give it as vae="):
            open_component(files[layout], "unet", BASE)
        with pytest.raises(CheckpointError, match="is only a tiny VAE; give it as vae= together with a complete model"):
            sdxl.Pipeline.from_pretrained(files[layout], device="cpu")
    shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.copy(files["folder"] / "config.json", tmp_path / "model/vae/config.json")
    with pytest.raises(ConfigError, match="is that of a tiny VAE; expected AutoencoderKL"):
        sdxl.Pipeline.from_pretrained(tmp_path / "model", device="cpu")
