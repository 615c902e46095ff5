"""The UNet with its conditioning computed once, and fused attention, against the plain networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sdxl.models.conditioned import ConditionedUNet, Conditioning, Steer, precompute
from sdxl.models.control_config import ControlNetConfig
from sdxl.models.controlnet import ControlNet
from sdxl.models.layers import Attention
from sdxl.models.unet import Residuals, UNet
from sdxl.models.unet_config import UNetConfig
from sdxl.runtime.cuda_graph import FusedAttention, mapped, signature, tensors_of

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


def test_the_embedded_guidance_scale_is_that_of_the_step_under_way() -> None:
    """Samplers of two calls ask for timesteps between those of the steps."""
    torch.manual_seed(1)
    unet = UNet(replace(CONFIG, guidance_dim=16)).double().requires_grad_(False).eval()
    x, conditioning = given(3)
    network = precompute(unet, {"positive": conditioning}, [900.0, 500.0], [7.0, 3.0])
    for t, scale in ((950.0, 7.0), (900.0, 7.0), (700.0, 7.0), (500.0, 3.0), (300.0, 3.0)):
        more = conditioning.context, conditioning.vector, torch.full((3,), scale)
        expected = unet(x, torch.full((3,), t), *more)
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


def steered(
    unet: UNet, net: ControlNet, seed: int, branches: tuple[str, ...] = ("negative", "positive")
) -> ConditionedUNet:
    """A UNet of two branches under a ControlNet that acts on the last one, and features that are added inside."""
    _, given_ = given(seed)
    conditionings = {name: Conditioning(given_.context[:1] + n, given_.vector[:1]) for n, name in enumerate(branches)}
    conditioned, own = (precompute(each, conditionings, [500.0, 100.0]) for each in (unet, net))
    generator = torch.Generator().manual_seed(seed)
    hint = torch.randn(1, 16, 8, 6, generator=generator, dtype=torch.float64)
    steer = Steer(net, own.select(branches[1:]), hint, (0.5,) * 5, (False, True))
    added = Residuals(path={3: torch.randn(1, 32, 4, 3, generator=generator, dtype=torch.float64)})
    return replace(conditioned, steers=(steer,), added=added)


@torch.no_grad()
def test_a_graphs_copy_of_what_is_fixed(unet: UNet) -> None:
    """A recorded step runs on copies of the tensors: filled with those of another conditioning they give its output."""
    torch.manual_seed(1)
    net = ControlNet(ControlNetConfig(CONFIG, (4, 8))).double().requires_grad_(False).eval()
    first, second = steered(unet, net, 2), steered(unet, net, 3)
    x = torch.randn(2, 4, 8, 6, dtype=torch.float64)
    static = mapped(first.without_steps(), torch.Tensor.clone)
    assert torch.equal(static.predict(x, first.step(500.0)), first(x, 500.0))
    for copy, tensor in zip(tensors_of(static), tensors_of(second.without_steps()), strict=True):
        copy.copy_(tensor)
    assert torch.equal(static.predict(x, second.step(100.0)), second(x, 100.0))
    assert not torch.equal(first(x, 100.0), second(x, 100.0))
    same = steered(unet, net, 3, ("a", "b"))
    assert signature(first.without_steps()) == signature(second.without_steps()) == signature(same.without_steps())
    others = [
        replace(first, steers=()),
        replace(first, added=Residuals()),
        replace(first, steers=(replace(first.steers[0], factors=(1.0,) * 5),)),
        replace(first, steers=(replace(first.steers[0], acts=(True, False)),)),
    ]
    signatures = {signature(each.without_steps()) for each in (first, *others)}
    assert len(signatures) == 5, "a window, a scale and the rows change the graph"


@torch.no_grad()
def test_a_controlnet_acts_on_its_branches_alone(unet: UNet) -> None:
    """Its residuals are zero for the others, so that their rows are bitwise without control."""
    torch.manual_seed(1)
    net = ControlNet(ControlNetConfig(CONFIG, (4, 8))).double().requires_grad_(False).eval()
    conditioned = replace(steered(unet, net, 2), added=Residuals())
    x = torch.randn(2, 4, 8, 6, dtype=torch.float64)
    bare = replace(conditioned, steers=())(x, 500.0)
    both = conditioned(x, 500.0)
    assert torch.equal(both[:1], bare[:1])
    assert not torch.allclose(both[1:], bare[1:])


def test_one_row_of_text_stands_for_all_images() -> None:
    """Rows that no source belongs to attend to nothing, so one context for all is repeated, and others are errors."""
    torch.manual_seed(0)
    unet = UNet(CONFIG)
    x, t = torch.randn(2, CONFIG.in_channels, 8, 8), torch.tensor([3.0, 700.0])
    context, vector = torch.randn(1, 7, CONFIG.context_dim), torch.randn(1, CONFIG.vector_dim)
    with torch.no_grad():
        expected = unet(x, t, context.repeat(2, 1, 1), vector.repeat(2, 1))
        assert torch.allclose(unet(x, t, context, vector), expected, atol=1e-6)
        with pytest.raises(RuntimeError, match="expanded size"):
            unet(x, t, context.repeat(3, 1, 1), vector)
