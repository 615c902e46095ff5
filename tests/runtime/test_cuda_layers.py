"""Layers for CUDA, with the kernels of batch norm restated for a CPU. tests/test_cuda.py has the kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdxl.models.unet import GEGLU
from sdxl.runtime import cuda_layers
from sdxl.runtime.cuda_layers import QuickGEGLU, QuickGroupNorm, quick
from sdxl.runtime.placement import Placement
from sdxl.runtime.settle import settle


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The mean and 1 / sqrt(variance + eps) of each channel of (1, C, L) or (1, C, H, W)."""
    variance, mean = torch.var_mean(x.flatten(2), dim=(0, 2), correction=0)
    return mean, torch.rsqrt(variance + eps)


def normalized(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, eps: float, out: Tensor | None = None
) -> Tensor:
    factor, bias, mean = (each.view(-1, *[1] * (x.ndim - 2)) for each in (rstd * weight, bias, mean))
    found = (x - mean) * factor + bias
    return found if out is None else out.copy_(found)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_layers, "_can", lambda x: True)
    monkeypatch.setattr(torch, "batch_norm_stats", stats)
    monkeypatch.setattr(torch, "batch_norm_elemt", normalized)


def exact(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """Its definition (Wu and He 2018, arXiv 1803.08494)."""
    groups = x.contiguous().view(len(x), layer.num_groups, -1)
    variance, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
    found = ((groups - mean) / (variance + layer.eps).sqrt()).view(x.shape)
    return found * layer.weight[:, None, None] + layer.bias[:, None, None]


def norm(groups: int, channels: int) -> nn.GroupNorm:
    torch.manual_seed(channels)
    made = nn.GroupNorm(groups, channels, eps=1e-6).double().requires_grad_(False)
    made.weight.normal_()
    made.bias.normal_()
    return made


@pytest.mark.parametrize("shape", [(1, 64, 5, 7), (3, 96, 8, 8), (2, 32, 1, 1), (2, 64, 256, 256), (1, 32, 256, 257)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_a_group_norm(kernels: None, shape: tuple[int, ...], layout: torch.memory_format, error: Any) -> None:
    plain = norm(32, shape[1])
    x = 20 + torch.randn(shape, dtype=torch.float64).to(memory_format=layout) * torch.rand(shape[1])[:, None, None]
    fast = quick("", plain)
    assert isinstance(fast, QuickGroupNorm)
    assert error(fast(x), exact(plain, x)) < 1e-12
    assert fast(x).stride() == x.stride() or x.is_contiguous()


def test_maps_with_more_numbers_than_a_kernel_counts(
    kernels: None, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    """They get the kernel for pixels that lie side by side, which counts in 64 bits."""
    plain = norm(32, 64)
    x = torch.randn(2, 64, 5, 7, dtype=torch.float64).to(memory_format=torch.channels_last)
    fast = QuickGroupNorm(plain)
    monkeypatch.setattr(cuda_layers, "MOST", x[0].numel())
    assert not fast(x).is_contiguous()
    monkeypatch.setattr(cuda_layers, "MOST", x[0].numel() - 1)
    assert fast(x).is_contiguous() and error(fast(x), exact(plain, x)) < 1e-12


def test_the_feed_forward_layer(kernels: None, error: Any) -> None:
    torch.manual_seed(1)
    plain, x = GEGLU(24).requires_grad_(False), torch.randn(2, 9, 24)
    fast = quick("", plain)
    assert isinstance(fast, QuickGEGLU)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    calls = list[nn.Module]()
    assert error(fast(x), plain(x)) < 1e-6
    fast.proj.register_forward_hook(lambda layer, *_: calls.append(layer))
    assert torch.equal(fast(x), plain(x)) and len(calls) == 2, "a hook sees the whole product"
    fast.proj = nn.Sequential(fast.proj)  # type: ignore[assignment]
    assert torch.equal(fast(x), plain(x))


def test_gradients_and_other_devices_get_torchs() -> None:
    plain = norm(8, 16)
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64, requires_grad=True)
    fast = quick("", plain)
    assert fast is not None
    with torch.no_grad():
        assert torch.equal(fast(x), plain(x))
    fast(x).sum().backward()
    assert x.grad is not None
    assert fast.state_dict().keys() == plain.state_dict().keys()


def test_which_layers_are_exchanged() -> None:
    assert quick("", nn.GroupNorm(4, 8, affine=False)) is None
    assert quick("", nn.LayerNorm(8)) is None
    assert quick("", QuickGroupNorm(norm(8, 16))) is None
    model = nn.Sequential(norm(8, 16).float())
    placed = settle(model, model.state_dict(), Placement(torch.device("cpu"), torch.float32, torch.float32))
    assert type(placed[0]) is nn.GroupNorm  # type: ignore[index]


def test_a_compiler_sees_the_plain_layers() -> None:
    for plain, x in ((norm(8, 16), torch.randn(2, 16, 4, 4).double()), (GEGLU(8), torch.randn(2, 3, 8))):
        plain.requires_grad_(False)
        fast = quick("", plain)
        assert fast is not None
        with torch.no_grad():
            assert torch.equal(torch.compile(fast, backend="eager", fullgraph=True)(x), plain(x))
