"""What a block computes in place is its own: results, gradients and inputs are those of the plain formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdxl.models.layers import ResBlock
from sdxl.models.unet import GEGLU, Memory, TransformerBlock

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def check(module: nn.Module, run: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Both bitwise the same, forward and backward, and x as it was."""
    outcomes = []
    for compute in (run, plain):
        own = x.clone().requires_grad_()
        module.zero_grad()
        y = compute(own)
        y.float().square().sum().backward()
        assert torch.equal(own, x)
        assert own.grad is not None
        outcomes.append([y, own.grad, *(parameter.grad for parameter in module.parameters())])
    for ours, theirs in zip(*outcomes, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
    with torch.no_grad():
        assert torch.equal(run(x), plain(x))


@DTYPES
@pytest.mark.parametrize("out", [32, 64])
@pytest.mark.parametrize("emb_dim", [None, 16])
def test_a_residual_block(dtype: torch.dtype, out: int, emb_dim: int | None) -> None:
    torch.manual_seed(0)
    block = ResBlock(32, out, 8, 1e-5, emb_dim).to(dtype)
    emb = None if emb_dim is None else torch.randn(2, emb_dim, dtype=dtype)

    def plain(x: Tensor) -> Tensor:
        h = block.conv1(F.silu(block.norm1(x)))
        if block.emb is not None and emb is not None:
            h = h + block.emb(emb)[:, :, None, None]
        return block.skip(x) + block.conv2(F.silu(block.norm2(h)))

    check(block, lambda x: block(x, emb), plain, torch.randn(2, 32, 8, 6, dtype=dtype))


@DTYPES
def test_a_feed_forward_layer(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = GEGLU(16).to(dtype)

    def plain(x: Tensor) -> Tensor:
        h, gate = layer.proj(x).chunk(2, dim=-1)
        return layer.out(h * F.gelu(gate))

    check(layer, layer, plain, torch.randn(2, 5, 16, dtype=dtype))


@DTYPES
@pytest.mark.parametrize("first", [0, 1])
def test_a_transformer_block(dtype: torch.dtype, first: int) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(32, 24, 2).to(dtype)
    context = torch.randn(2 - first, 7, 24, dtype=dtype)

    def plain(x: Tensor) -> Tensor:
        x = x + block.self_attn(block.norm1(x))
        source = block.cross_attn.source(context, first)
        heard = x[first:] + block.cross_attn.attend(block.norm2(x[first:]), [source], first)
        if first:
            heard = torch.cat([x[:first] + block.cross_attn.out.bias, heard])
        return heard + block.ff(block.norm3(heard))

    def run(x: Tensor) -> Tensor:
        return block(x, Memory((block.cross_attn.source(context, first),)))

    check(block, run, plain, torch.randn(2, 5, 32, dtype=dtype))
