"""Weights in float8 with scales, as ComfyUI writes them, and quantized files that are not read."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from editing import edit
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.errors import CheckpointError
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.container import TensorFile, Weights
from sdxl.weights.quantized import scaled

UNET = "model.diffusion_model."
Tensors = dict[str, torch.Tensor]
CALL = {"steps": 1, "seed": 3, "output": "latent", "progress": False}


def matrices(tensors: Tensors) -> list[str]:
    """The linear layers of the UNet."""
    return [key for key in tensors if key.startswith(UNET) and key.endswith(".weight") and tensors[key].ndim == 2]


def quantize(weight: torch.Tensor, per_row: bool) -> tuple[torch.Tensor, torch.Tensor]:
    largest = weight.abs().amax(dim=1, keepdim=True) if per_row else weight.abs().max()
    scale = largest / 448
    return (weight / scale).to(torch.float8_e4m3fn), scale


def older(tensors: Tensors) -> None:
    for key in matrices(tensors):
        tensors[key], tensors[key.replace(".weight", ".scale_weight")] = quantize(tensors[key], False)
        tensors[key.replace(".weight", ".scale_input")] = torch.ones(())
    tensors[UNET + "scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)


def newer(tensors: Tensors) -> None:
    text = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    for key in matrices(tensors):
        tensors[key], tensors[key.replace(".weight", ".weight_scale")] = quantize(tensors[key], False)
        tensors[key.replace(".weight", ".comfy_quant")] = text.clone()


def by_rows(tensors: Tensors) -> None:
    for key in matrices(tensors):
        tensors[key], tensors[key.replace(".weight", ".weight_scale")] = quantize(tensors[key], True)
        tensors[key.replace(".weight", ".input_scale")] = torch.ones(())


def plain(tensors: Tensors, path: Path) -> None:
    """The products, as ComfyUI computes them in float16."""
    stored = load_file(path)
    for key in matrices(tensors):
        scales = (key.replace(".weight", ending) for ending in (".scale_weight", ".weight_scale"))
        scale = next(stored[name] for name in scales if name in stored)
        tensors[key] = (stored[key].float() * scale).half()


def unet(path: Path) -> Tensors:
    return dict(open_checkpoint(path).components["unet"].tensors())


@pytest.mark.parametrize("change", [older, newer, by_rows])
def test_the_product_is_the_weight(change: Callable[[Tensors], None], single: Path, tmp_path: Path) -> None:
    path = edit(single, tmp_path / "scaled.safetensors", change)
    same = edit(single, tmp_path / "plain.safetensors", lambda tensors: plain(tensors, path))
    assert not sdxl.inspect(path).unexpected  # type: ignore[union-attr]
    expected = unet(same)
    assert all(torch.equal(weight, expected.pop(name)) for name, weight in unet(path).items()) and not expected


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("shape", [(30, 257), (16, 8, 3, 3), (64,), ()], ids=str)
def test_products_are_rounded_once_in_pages_of_their_own(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The allocator kept 5 GB of holes where a full-size model's products came from it."""
    weight = (60 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).to(dtype)
    columns = torch.linspace(1e-5, 2, shape[0] if shape else 1)
    for scale in (torch.tensor(0.37), torch.tensor([2e-6]), torch.tensor(3.0).bfloat16(), columns, columns[:, None]):
        product = scaled(weight, scale)
        factors = scale.float() if scale.numel() == 1 else scale.view(-1, *[1] * (len(shape) - 1))
        assert torch.equal(product, (weight.float() * factors).half().view(shape))
        assert product.data_ptr() % mmap.PAGESIZE == 0


def test_a_scale_in_another_shard(tmp_path: Path) -> None:
    weight, scale = quantize(torch.linspace(-2, 3, 12).reshape(3, 4), True)
    shards = [{"a.weight": weight}, {"a.weight_scale": scale, "b.weight": torch.ones(2)}]
    paths = [tmp_path / f"{n}.safetensors" for n in (1, 2)]
    for tensors, path in zip(shards, paths, strict=True):
        save_file(tensors, path)
    weights = Weights([TensorFile(path) for path in paths])
    assert dict(weights) == {"a.weight": (3, 4), "b.weight": (2,)}
    assert torch.equal(weights.read("a.weight"), (weight.float() * scale).half())


def test_an_image_and_a_folder(single: Path, tmp_path: Path) -> None:
    path = edit(single, tmp_path / "scaled.safetensors", older)
    same = edit(single, tmp_path / "plain.safetensors", lambda tensors: plain(tensors, path))
    pipes = [sdxl.Pipeline.from_pretrained(each, dtype="float32", device="cpu") for each in (path, same)]
    assert torch.equal(*(pipe("a red cat", **CALL).images for pipe in pipes))
    sdxl.convert(path, tmp_path / "folder")
    assert open_checkpoint(tmp_path / "folder")


def test_a_weight_beyond_float16(single: Path, tmp_path: Path) -> None:
    key = UNET + "label_emb.0.0.weight"

    def change(tensors: Tensors) -> None:
        tensors[key] = torch.ones_like(tensors[key]).to(torch.float8_e4m3fn)
        tensors[key.replace(".weight", ".weight_scale")] = torch.tensor(1e6)

    component = open_checkpoint(edit(single, tmp_path / "a.safetensors", change)).components["unet"]
    weight = dict(component.tensors())["vector_embed.fc1.weight"]
    assert weight.dtype == torch.float32
    assert bool((weight == 1e6).all())


def whole_numbers(tensors: Tensors) -> None:
    for key in matrices(tensors):
        tensors[key] = tensors[key].to(torch.int8)
        tensors[key.replace(".weight", ".weight_scale")] = torch.ones(())


def blocks(tensors: Tensors) -> None:
    for key in matrices(tensors):
        tensors[key] = tensors[key].to(torch.float8_e4m3fn)
        tensors[key.replace(".weight", ".weight_scale")] = torch.ones(tensors[key].shape[0], 7)


def nf4(tensors: Tensors) -> None:
    for key in matrices(tensors):
        tensors[key] = torch.zeros(tensors[key].numel() // 2, 1, dtype=torch.uint8)
        tensors[f"{key}.absmax"] = torch.ones(3)
        tensors[f"{key}.quant_state.bitsandbytes__nf4"] = torch.zeros(9, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "name"),
    [(whole_numbers, "whole numbers"), (blocks, "scales of blocks"), (nf4, "nf4 of bitsandbytes")],
)
def test_other_quantizations_are_named(
    change: Callable[[Tensors], None], name: str, single: Path, tmp_path: Path
) -> None:
    path = edit(single, tmp_path / "a.safetensors", change)
    for read in (sdxl.inspect, open_checkpoint):
        with pytest.raises(CheckpointError, match=f"a.safetensors has layers that are quantized as .*{name}"):
            read(path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale", "comfy_quant"])
def test_a_scale_beside_a_weight_that_is_not_quantized(ending: str, dtype: str, single: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        key = matrices(tensors)[0]
        tensors[key] = tensors[key].to(getattr(torch, dtype))
        tensors[key.replace("weight", ending)] = torch.ones(1)

    path = edit(single, tmp_path / "a.safetensors", change)
    name = {"float16": "F16", "bfloat16": "BF16"}[dtype]
    for read in (sdxl.inspect, open_checkpoint):
        with pytest.raises(CheckpointError, match=f"{ending} beside a weight in {name}, which is not quantized"):
            read(path)
