"""What a block computes in place is its own: results, gradients and inputs are those of the plain formulas, and what
hooks have kept stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdxl.models.config import VAEConfig
from sdxl.models.layers import ResBlock
from sdxl.models.tiny_vae import TinyBlock
from sdxl.models.unet import GEGLU, Memory, TransformerBlock
from sdxl.models.vae import VAE

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


def attending(block: TransformerBlock) -> Callable[[Tensor], Tensor]:
    context = torch.randn(2, 7, 24)
    return lambda x: block(x, Memory((block.cross_attn.source(context),)))


@pytest.mark.parametrize("kind", ["residual", "transformer", "tiny VAE", "head", "every module"])
def test_what_a_hook_keeps_stays_as_it_was(kind: str, request: pytest.FixtureRequest) -> None:
    """Outputs that forward hooks keep, and gradients where backward hooks wrap outputs."""
    torch.manual_seed(0)
    block: nn.Module = TransformerBlock(32, 24, 2) if kind == "transformer" else ResBlock(32, 64, 8, 1e-5)
    block = TinyBlock(32) if kind == "tiny VAE" else block
    run: Callable[[Tensor], Tensor] = attending(block) if isinstance(block, TransformerBlock) else block
    x = torch.randn(2, 5, 32) if kind == "transformer" else torch.randn(2, 32, 8, 8)
    if kind == "head":
        vae = VAE(VAEConfig(channels=(32, 32, 32, 32), blocks=1, norm_groups=4, scaling_factor=1.0))
        block, run = vae.decoder, vae.decoder.head
    own = x.clone().requires_grad_()
    expected = run(own)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), own)

    kept: list[tuple[Tensor, Tensor]] = []
    backward: list[nn.Module] = []
    if kind == "every module":
        of_all = nn.modules.module
        handles = [of_all.register_module_forward_hook(lambda layer, args, y: kept.append((y, y.detach().clone())))]
        handles.append(of_all.register_module_full_backward_hook(lambda layer, grad, of_output: backward.append(layer)))
        for handle in handles:
            request.addfinalizer(handle.remove)
    else:
        for layer in block.modules():
            layer.register_forward_hook(lambda layer, args, y: kept.append((y, y.detach().clone())))
            layer.register_full_backward_hook(lambda layer, grad, of_output: backward.append(layer))
    output = run(own)
    (grad,) = torch.autograd.grad(output.square().sum(), own)
    assert torch.equal(output, expected)
    assert torch.equal(grad, expected_grad)
    assert len(kept) >= 2
    assert len(backward) >= 2
    assert all(torch.equal(*each) for each in kept)


class Wrapped(nn.Module):
    """A layer of one's own around another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


@pytest.mark.parametrize("name", ["ff", "self_attn"])
def test_a_layer_of_ones_own_in_a_transformer_block(name: str) -> None:
    """It needs no more than a call, and what a hook within it keeps stays as it was too."""
    torch.manual_seed(0)
    block = TransformerBlock(32, 24, 2)
    x, memory = torch.randn(2, 5, 32), Memory((block.cross_attn.source(torch.randn(2, 7, 24)),))
    wanted, inner, kept = block(x, memory), getattr(block, name), list[tuple[Tensor, Tensor]]()
    setattr(block, name, Wrapped(inner))
    assert torch.equal(block(x, memory), wanted)
    inner.register_forward_hook(lambda _, inputs, output: kept.append((output, output.clone())))
    assert torch.equal(block(x, memory), wanted)
    assert [torch.equal(output, as_it_was) for output, as_it_was in kept] == [True]
