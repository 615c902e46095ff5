"""Folders of adapters are sorted by what is in the files, whatever their names. The tests of `inspect` ask for the kind
of each layout too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdxl.adapters import kind as module
from sdxl.adapters.kind import AdapterKind, read_kind

ADAPTERS = Path(__file__).parents[2] / "weights/adapters"
NOTHING = {
    "a LoRA of Stable Diffusion 1.x": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 4)},
    "a LoRA of 2.x": {"lora_unet_x_attn2_to_k.lora_down.weight": (4, 1024), "lora_unet_x_attn2_to_k.alpha": ()},
    "a LoRA of Flux": {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (4, 4)},
    "Flux": {"double_blocks.0.img_attn.norm.query_norm.scale": (4,)},
    "an embedding of Stable Diffusion 1.x": {"emb_params": (2, 768)},
    "a UNet": {"input_blocks.0.0.weight": (4, 4, 3, 3), "x.alpha": ()},
    "a VAE": {"decoder.conv_in.weight": (4, 4, 3, 3), "decoder.mid.block_1.conv1.weight": (4, 4)},
    "a union without types": {
        "controlnet_cond_embedding.conv_in.weight": (4, 3, 3, 3),
        "add_embedding.linear_1.weight": (4, 4),
        "task_embedding": (),
    },
    "nothing": {"weight": (1,)},
}


def save(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
    return path


@pytest.mark.parametrize("name", NOTHING)
def test_what_no_list_has(name: str, tmp_path: Path) -> None:
    assert read_kind(save(tmp_path / "a.safetensors", NOTHING[name])) is None


def test_our_own() -> None:
    kinds = {path.stem: read_kind(path) for path in ADAPTERS.glob("*.safetensors")}
    names = {
        "sun": "embedding",
        "edges": "control",
        "colours": "reference",
        "tiny-decoder": None,
        "2x-scenes": "upscaler",
    }
    loras = dict.fromkeys(("heart", "large", "two-steps"), "lora")
    assert {name: each and each.name for name, each in kinds.items()} == {**names, **loras}
    assert read_kind(ADAPTERS / "image_encoder") is None


def test_embeddings_of_sdxl(tmp_path: Path) -> None:
    for first, second in (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")):
        path = save(tmp_path / f"{second}.safetensors", {first: (2, 768), second: (2, 1280)})
        assert read_kind(path) == AdapterKind("embedding")


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = module.TensorFile
    monkeypatch.setattr(module, "TensorFile", lambda path: opened.append(path) or real(path))
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"half a download")
    assert read_kind(path) is read_kind(path) is None
    shutil.copyfile(ADAPTERS / "sun.safetensors", path)
    assert read_kind(path) == read_kind(path) == AdapterKind("embedding")
    assert len(opened) == 2
    shutil.copyfile(ADAPTERS / "heart.safetensors", path)
    assert read_kind(path) == AdapterKind("lora")
    os.remove(path)
    assert read_kind(path) is None
    assert len(opened) == 3


def test_it_needs_no_torch() -> None:
    """A service lists its files before it has imported torch."""
    code = f"from sdxl.adapters.kind import read_kind; from pathlib import Path\nfolder = Path({str(ADAPTERS)!r})\n"
    code += "read_kind(folder / 'heart.safetensors'), read_kind(folder / 'edges.safetensors')\n"
    code += "import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
