"""The UNet with its conditioning computed once, and fused attention, against the plain networks."""

from __future__ import annotations

import pytest
import torch

from sdxl.models.conditioned import Conditioning, precompute
from sdxl.models.layers import Attention
from sdxl.models.unet import UNet
from sdxl.models.unet_config import UNetConfig
from sdxl.runtime.cuda_graph import FusedAttention

CONFIG = UNetConfig(
    channels=(16, 32),
    down=((None,), (2,)),
    mid=1,
    up=((2, 2), (None, None)),
    heads=(1, 2),
    context_dim=24,
    vector_dim=40,
    size_dim=8,
    norm_groups=4,
    sample_size=(8, 8),
)


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(CONFIG).double().requires_grad_(False).eval()


def given(rows: int) -> tuple[torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 4, 8, 6, generator=generator, dtype=torch.float64)
    context = torch.randn(rows, 77, 24, generator=generator, dtype=torch.float64)
    return x, Conditioning(context, torch.randn(rows, 40, generator=generator, dtype=torch.float64))


def test_conditioning_given_once_serves_every_step(unet: UNet) -> None:
    x, conditioning = given(3)
    network = precompute(unet, {"positive": conditioning}, [900.0, 400.5, 1.0])
    for t in (1.0, 900.0, 400.5):
        expected = unet(x, torch.full((3,), t), conditioning.context, conditioning.vector)
        assert torch.allclose(network(x, t), expected, atol=1e-6)


def test_a_context_of_zeros_is_skipped_and_changes_nothing(unet: UNet) -> None:
    x, positive = given(2)
    zeros = torch.zeros_like(positive.context)
    negative = Conditioning(zeros, positive.vector, is_zero=True)
    network = precompute(unet, {"negative": negative, "positive": positive}, [500.0])
    sources = [source for memory in network.memories for source in memory.cross]
    assert {(len(source.values), source.first) for source in sources} == {(2, 2)}, "nothing is kept for the zero rows"
    both = torch.cat([zeros, *positive.groups]), torch.cat([positive.vector] * 2)
    whole = unet(torch.cat([x, x]), torch.full((4,), 500.0), *both)
    assert torch.allclose(network(torch.cat([x, x]), 500.0), whole, atol=1e-6)
    assert torch.allclose(network.select(("positive",))(x, 500.0), whole[2:], atol=1e-6)


def test_fused_attention_is_attention() -> None:
    torch.manual_seed(2)
    plain = Attention(32, 32, heads=4, bias=False).double().requires_grad_(False)
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    assert torch.allclose(FusedAttention(plain)(x), plain(x), atol=1e-12)
