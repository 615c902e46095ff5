"""diffusers' AutoencoderTiny with random weights, and its files in all layouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

diffusers = pytest.importorskip("diffusers")

SMALL: dict[str, Any] = {
    "encoder_block_out_channels": (16,) * 4,
    "decoder_block_out_channels": (16,) * 4,
    "num_encoder_blocks": (1, 2, 1, 3),
    "num_decoder_blocks": (3, 1, 2, 1),
}


def reference(**config: Any) -> Any:
    """The model with weights large enough that every layer is seen in the result."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderTiny(**config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    return model.eval()


def save_all(model: Any, path: Path) -> dict[str, Path]:
    """The files of a model by layout."""
    model.save_pretrained(path / "folder")
    file = path / "folder/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    files = {"folder": path / "folder", "file": file}
    halves: dict[str, dict[str, torch.Tensor]] = {"encoder": {}, "decoder": {}}
    for key, value in state.items():
        half, number, rest = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", key).groups()  # type: ignore[union-attr]
        # the bend of the latents is the first layer of the published decoder
        halves[half][f"{int(number) + (half == 'decoder')}.{rest}"] = value
    for half, tensors in halves.items():
        files[half] = path / f"taesdxl_{half}.safetensors"
        save_file(tensors, files[half])
    files["both"] = path / "both.safetensors"
    both = {f"taesd_{half}.{key}": value for half, tensors in halves.items() for key, value in tensors.items()}
    both |= {"vae_scale": torch.tensor(0.13025), "vae_shift": torch.tensor(0.0)}
    save_file(both, files["both"])
    return files
