"""Where weights lie and in which dtype, and the bytes that they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sdxl
from sdxl.models.conditioned import Conditioning, precompute
from sdxl.models.unet import UNet
from sdxl.pipeline.network_loading import load as load_network
from sdxl.runtime.memory import RESERVE
from sdxl.runtime.placement import Placement, weight_bytes
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.container import TensorFile
from sdxl.weights.hub import resolve

CPU = torch.device("cpu")


def test_weights_in_half_precision_compute_in_float32(tiny_folder: Path, error: Any) -> None:
    checkpoint = open_checkpoint(tiny_folder)
    part = checkpoint.components["unet"]  # its weights are float16 numbers, so nothing is lost
    exact = load_network(part, Placement(CPU, torch.float32, torch.float32))
    light = load_network(part, Placement(CPU, torch.float16, torch.float32))
    for parameter in exact.parameters():  # mapped, and some processors round otherwise where memory is not aligned
        parameter.data = parameter.data.clone()
    x, config = torch.randn(1, 4, 8, 8), exact.config
    conditioning = Conditioning(torch.randn(1, 77, config.context_dim), torch.randn(1, config.vector_dim))
    runs = [precompute(model, {"all": conditioning}, [500.0])(x, 500.0) for model in (exact, light)]  # type: ignore[arg-type]
    assert {p.dtype for p in light.parameters() if p.ndim > 1} == {torch.float16}
    assert torch.equal(*runs)


def test_weights_take_their_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    sdxl.convert(tiny_folder, tmp_path / "whole.safetensors")
    for path in (tiny_folder, tmp_path / "whole.safetensors"):
        for part in open_checkpoint(path).components.values():
            count = sum(value.numel() for value in part.build().state_dict().values())
            assert weight_bytes(part.shapes(), torch.bfloat16) == 2 * count


def test_packed_weights_take_their_bytes() -> None:
    part = open_checkpoint(resolve("miniature", None, None)).components["unet"]
    network = load_network(part, Placement(CPU, torch.float32, torch.float32, packed=True))
    buffers = [value for module in network.modules() for value in vars(module).values() if torch.is_tensor(value)]
    plain = [value for module in network.modules() for value in vars(module)["_parameters"].values()]
    taken = sum(value.numel() for value in [*buffers, *plain])
    assert taken * 4 == weight_bytes(part.shapes(), torch.float32)


def test_too_little_memory_for_float32_takes_half_of_it(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(tiny_folder)
    largest = max(weight_bytes(part.shapes(), torch.float32) for part in checkpoint.components.values())
    load = sdxl.Pipeline.from_pretrained
    monkeypatch.setattr("sdxl.runtime.device.is_fast", lambda dtype, device: False)
    chosen = [
        load(tiny_folder, device="cpu", offload="auto", max_memory=int(RESERVE + share * largest))
        for share in (1, 0.5, 0.4)
    ]
    assert [(pipe.dtype, pipe.offload) for pipe in chosen] == [
        (torch.float32, "stage"),
        (torch.float16, "stage"),
        (torch.float16, "block"),
    ]
    assert all(pipe.experts[0].placement.arithmetic is torch.float32 for pipe in chosen)


def test_changes_leave_no_holes(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of their intermediate results goes back to the system, for which a plain load has no need."""
    trims: list[int] = []
    monkeypatch.setattr("sdxl.runtime.settle.trim", lambda: trims.append(1))
    part = open_checkpoint(tiny_folder).components["vae"]
    load_network(part, Placement(CPU, torch.float32, torch.float32))
    assert not trims
    load_network(part, Placement(CPU, torch.float32, torch.float32), {"quant_conv.weight": lambda x: 2 * x})
    assert trims == [1]


def test_streamed_keys_and_values_are_forgotten_one_by_one(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are computed for all blocks in turn, before the blocks run."""
    part = open_checkpoint(tiny_folder).components["unet"]
    forgotten: list[int] = []
    unet = load_network(part, Placement(CPU, torch.bfloat16, torch.float32, streamed=True))
    assert isinstance(unet, UNet)
    monkeypatch.setattr(TensorFile, "forget", lambda _: forgotten.append(1))
    memories = unet.context_kv(torch.randn(1, 7, unet.config.context_dim))
    assert len(forgotten) == len(memories) > 1
