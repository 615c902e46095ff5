"""Layers in 8 bits: how near they are, and what they draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sdxl
from sdxl.errors import ArgumentError
from sdxl.miniature.exam import make_scenes, mark
from sdxl.models.layers import Linear
from sdxl.pipeline.model_request import ModelRequest
from sdxl.runtime.int8 import can_quantize, quantized
from sdxl.runtime.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.skipif(not can_quantize(CPU), reason="this processor has no 8-bit dot products")
def test_layers_in_8_bits_refuse_gradients() -> None:
    quick = quantized(Linear(32, 32), torch.float32)
    assert quick is not None
    with pytest.raises(ArgumentError, match="no gradients pass"):
        quick(torch.ones(3, 32, requires_grad=True))


@pytest.mark.skipif(not can_quantize(CPU), reason="this processor has no 8-bit dot products")
@pytest.mark.parametrize("shape", [(32, 32), (40, 96), (96, 40)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_8_bit_layers_are_about_the_same(shape: tuple[int, int], bias: bool, dtype: torch.dtype, error: Any) -> None:
    torch.manual_seed(3)
    layer = Linear(*shape, bias=bias).requires_grad_(False)
    x = torch.randn(99, 9, shape[0]) * torch.logspace(-3, 3, 9)[:, None]  # every token has its own scale
    x = x.to(dtype)
    quick = quantized(layer, dtype)
    assert quick is not None
    ours, exact = quick(x), layer(x.float())
    assert ours.dtype is dtype
    for row in range(99):
        for token in range(9):
            assert 0 < error(ours[row, token].float(), exact[row, token]) < 0.04


@pytest.mark.skipif(not can_quantize(CPU), reason="this processor has no 8-bit dot products")
@pytest.mark.parametrize("arithmetic", [Precision("float32", "float32"), Precision("bfloat16", "bfloat16")])
def test_a_model_in_each_arithmetic(arithmetic: Precision, error: Any) -> None:
    """Also where the attention to an empty prompt is the bias of a layer alone: its dtype is the arithmetic's."""
    request = ModelRequest("miniature", device="cpu", int8=True)
    pipe = sdxl.Pipeline.from_request(request, precision=arithmetic)
    exact = sdxl.Pipeline.from_request(ModelRequest("miniature", device="cpu"), precision=arithmetic)
    for more in ({}, {"negative_prompt": "a dog"}, {"guidance_scale": 1.0}):
        both = [
            each("a red circle", steps=2, seed=1, output="latent", progress=False, **more).images
            for each in (pipe, exact)
        ]
        assert 0 < error(*both) < 0.2


@pytest.mark.skipif(not can_quantize(CPU), reason="this processor has no 8-bit dot products")
@pytest.mark.slow
def test_8_bits_still_draw_what_the_prompt_says() -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", device="cpu", dtype="float32", int8=True)
    assert mark(pipe, make_scenes(20, 77, things=1)) >= 0.9
    assert pipe("a red circle", steps=1, progress=False).parameters[0]["model"]["int8"] is True
