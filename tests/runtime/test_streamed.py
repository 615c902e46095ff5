"""Streamed weights: what they compute, in several dtypes and threads, and with gradients."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from deep import deep_folder  # noqa: F401  fixtures
from torch.overrides import TorchFunctionMode

import sdxl
from sdxl.errors import ArgumentError
from sdxl.models.layers import Linear
from sdxl.runtime.fp8 import Fp8Linear
from sdxl.runtime.placement import choose_placement
from sdxl.runtime.streamed import streamed

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("streamed", [pytest.param("text", marks=pytest.mark.slow), "block"])
def test_streamed_weights_draw_the_same(tiny_folder: Path, dtype: str, streamed: str) -> None:
    settings: Any = {"steps": 2, "seed": 1, "output": "tensor", "progress": False}
    whole, other = (
        sdxl.Pipeline.from_pretrained(tiny_folder, dtype=dtype, device="cpu", offload=offload)(
            "a cat", **settings
        ).images
        for offload in ("none", streamed)
    )
    assert isinstance(whole, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    arithmetic = choose_placement(CPU, getattr(torch, dtype)).arithmetic
    assert (whole - other).abs().max() < (1e-4 if arithmetic is torch.float32 else 0.05)


def test_gradients_pass_a_streamed_model(tiny_folder: Path) -> None:
    unet = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload="block").unet
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    config = unet.config
    unet(x, torch.ones(1), torch.zeros(1, 77, config.context_dim), torch.zeros(1, config.vector_dim)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_a_streamed_layer_shows_its_sizes() -> None:
    assert "in_features=4, out_features=2" in repr(streamed(Linear(4, 2)))


def test_a_streamed_model_cannot_be_compiled(tiny_folder: Path) -> None:
    with pytest.raises(ArgumentError, match="cannot be compiled"):
        sdxl.Pipeline.from_pretrained(tiny_folder, device="cpu", offload="block").compile()


def test_weights_in_another_dtype_share_memory_without_mixing() -> None:
    """Several layers, one after the other and in two threads, and where gradients are recorded."""
    layers: Any = [streamed(Linear(64, 64).to(torch.bfloat16)) for _ in range(3)]
    for layer in layers:
        layer.bias.data = layer.bias.float()
    x = torch.randn(256, 64)

    def run(x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x = layer(x)
        return x

    def expected(x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x = torch.nn.functional.linear(x, layer.weight.float(), layer.bias)
        return x

    with torch.no_grad():
        right = expected(x)
        assert torch.equal(run(x), right)
        with ThreadPoolExecutor(2) as pool:
            assert all(torch.equal(result, right) for result in pool.map(lambda _: no_grad(run, x), range(200)))
    with ThreadPoolExecutor(1) as pool:  # a thread that has no such memory yet
        pool.submit(torch.inference_mode()(run), x).result()
        assert torch.equal(pool.submit(no_grad, run, x).result(), right), "what that mode has left can be written"
    run(x).sum().backward()
    gradients = [layer.weight.grad for layer in layers]
    for layer in layers:
        layer.weight.grad = None
    expected(x).sum().backward()
    for layer, gradient in zip(layers, gradients, strict=True):
        assert gradient is not None and torch.equal(gradient, layer.weight.grad)


def no_grad(run: Any, x: torch.Tensor) -> torch.Tensor:
    """The mode is each thread's own."""
    with torch.no_grad():
        result: torch.Tensor = run(x)
    return result


class Copies(TorchFunctionMode):
    """Notes whether each copy to another device waits for its end."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[bool] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.to and torch.device("meta") in args:
            self.waits.append(not (kwargs or {}).get("non_blocking"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("in_8_bits", [False, True])
def test_only_cuda_copies_without_waiting(in_8_bits: bool) -> None:
    """On another device the weight that is copied may be freed before it was read."""
    layer: Any = streamed(Linear(4, 4, bias=False), torch.float16)
    if in_8_bits:
        layer = Fp8Linear(Linear(4, 4, bias=False))
    with torch.no_grad(), Copies() as copies:
        assert layer(torch.ones(2, 4, device="meta")).shape == (2, 4)
    assert copies.waits and all(copies.waits)
