"""Weights in float8 with scales, as ComfyUI writes them, and quantized files that are not read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from editing import edit
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.errors import CheckpointError
from sdxl.runtime.int8 import can_quantize
from sdxl.runtime.streamed import StreamedLinear
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.container import TensorFile, Weights
from sdxl.weights.ops import Op, from_stored, stored_shape
from sdxl.weights.quantized import Product, product

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
def test_products_are_rounded_once(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight = (60 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).to(dtype)
    columns = torch.linspace(1e-5, 2, shape[0] if shape else 1)
    for scale in (torch.tensor(0.37), torch.tensor([2e-6]), torch.tensor(3.0).bfloat16(), columns, columns[:, None]):
        ours = product(weight, scale)(weight)
        factors = scale.float() if scale.numel() == 1 else scale.view(-1, *[1] * (len(shape) - 1))
        assert torch.equal(ours, (weight.float() * factors).half().view(shape))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_number_of_float8(dtype: torch.dtype) -> None:
    """Also NaN, infinity and those below the smallest normal one."""
    numbers = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    finite = numbers[numbers.view(dtype).float().isfinite()].view(dtype)
    for weight in (numbers.view(dtype).view(16, 16), finite[:, None], finite[:0, None]):
        for scale in (torch.tensor(1.0), torch.tensor(3e-5), torch.linspace(-1, 1, max(len(weight), 1))):
            made = product(weight, scale)
            expected = weight.float() * (scale[: len(weight), None] if scale.ndim else scale)
            assert torch.equal(made(weight).nan_to_num(9), expected.to(made.dtype).nan_to_num(9))


@pytest.mark.parametrize("op", Op)
def test_scales_of_rows_go_where_the_rows_go(op: Op) -> None:
    stored = torch.randn(stored_shape((4, 6), op)).to(torch.float8_e4m3fn)
    for scale in (torch.rand(len(stored)), torch.rand(1)):
        made = product(stored, scale)
        assert torch.equal(made.of(op)(from_stored(stored, op)), from_stored(made(stored), op))


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


def mixed(tensors: Tensors) -> None:
    """Every weight of every network, vectors and convolutions too, with one scale or one for each row."""
    for number, key in enumerate([key for key in tensors if key.endswith(".weight")]):
        weight, dtype = tensors[key].float(), (torch.float8_e4m3fn, torch.float8_e5m2)[number % 2]
        scale = weight.flatten(1).abs().amax(1) if weight.ndim > 1 and number % 3 else weight.abs().max()
        scale = scale.clamp(min=1e-6) / 448
        tensors[key] = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).to(dtype)
        tensors[key.replace(".weight", ".weight_scale")] = scale


def multiplied(tensors: Tensors) -> None:
    for key in [key for key in tensors if key.endswith(".weight_scale")]:
        name, scale = key.replace(".weight_scale", ".weight"), tensors.pop(key)
        tensors[name] = (tensors[name].float() * scale.view(-1, *[1] * (tensors[name].ndim - 1))).half()


MODES: list[dict[str, Any]] = [
    {"offload": "none"},
    {"offload": "stage", "dtype": "float16"},
    {"offload": "text", "dtype": "bfloat16"},
    {"offload": "block"},
    {"offload": "block", "dtype": "bfloat16"},
    {"offload": "none", "int8": True},
    {"offload": "none", "fp8": True},
    {"offload": "block", "fp8": True},
]


@pytest.mark.filterwarnings("ignore:fp8 saves no memory with offload block")
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(map(str, mode.values())))
def test_images_are_those_of_the_products(mode: dict[str, Any], single: Path, tmp_path: Path) -> None:
    if mode.get("int8") and not can_quantize(torch.device("cpu")):
        pytest.skip("this processor has no 8-bit layers")
    path = edit(single, tmp_path / "scaled.safetensors", mixed)
    same = edit(path, tmp_path / "plain.safetensors", multiplied)
    options = {"dtype": "float32", "device": "cpu", **mode}
    ours, theirs = (sdxl.Pipeline.from_pretrained(each, **options) for each in (path, same))
    before = ours("a red cat", **CALL).images
    assert torch.equal(before, theirs("a red cat", **CALL).images)
    assert torch.equal(ours.decode(before), theirs.decode(before))
    names = ["unet.down.1.attn.0.blocks.0.ff.proj.weight", "text_encoder.layers.0.attn.q.weight", "unet.conv_in.weight"]
    for pipe in (ours, theirs):
        pipe.change_weights({name: lambda weight: weight.roll(1, 0) * 1.1 for name in names})
    after = ours("a red cat", **CALL).images
    assert torch.equal(after, theirs("a red cat", **CALL).images) and not torch.equal(after, before)
    ours.change_weights({})
    assert torch.equal(ours("a red cat", **CALL).images, before)


def test_products_are_made_of_what_is_used(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all layers at once took 5 GB, and seconds for every LoRA."""
    path = edit(single, tmp_path / "scaled.safetensors", by_rows)
    made: list[tuple[int, ...]] = []
    call = Product.__call__

    def counted(product: Product, weight: torch.Tensor) -> torch.Tensor:
        made.append(tuple(weight.shape))
        return call(product, weight)

    monkeypatch.setattr(Product, "__call__", counted)
    pipe = sdxl.Pipeline.from_pretrained(path, dtype="float16", device="cpu", offload="block")
    layers = [each for each in pipe.unet.modules() if isinstance(each, StreamedLinear)]
    assert layers and all(layer.weight.dtype is torch.float8_e4m3fn for layer in layers) and not made
    pipe = sdxl.Pipeline.from_pretrained(path, dtype="float16", device="cpu", offload="none")
    assert len(made) == len(layers)
    made.clear()
    pipe.change_weights({"unet.down.1.attn.0.blocks.0.ff.proj.weight": lambda weight: -weight})
    assert made == [tuple(pipe.unet.down[1].attn[0].blocks[0].ff.proj.weight.shape)]


def test_a_sharded_folder(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    stored = load_file(path)
    path.unlink()
    whole = {}
    for key in [key for key in stored if key.endswith(".weight") and stored[key].ndim == 2]:
        stored[key], scale = quantize(stored[key].float(), True)
        stored[key.replace(".weight", ".weight_scale")] = scale
        whole[key] = (stored[key].float() * scale).half()
    keys = sorted(stored)
    shards = {f"diffusion_pytorch_model-0000{n + 1}-of-00002.safetensors": keys[n::2] for n in range(2)}
    for name, own in shards.items():
        save_file({key: stored[key] for key in own}, path.parent / name)
    table = {"weight_map": {key: name for name, own in shards.items() for key in own}}
    (path.parent / f"{path.name}.index.json").write_text(json.dumps(table))
    component = open_checkpoint(folder).components["unet"]
    expected = {row.ours: whole[row.folder] for row in component.rows if row.folder in whole}
    assert len(expected) == len(whole)
    tensors = dict(component.tensors())
    assert all(torch.equal(tensors[name], weight) for name, weight in expected.items())
    views, products = component.stored_state()
    assert all(torch.equal(products[name](views[name]), weight) for name, weight in expected.items())


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
