"""Weights that are fetched: two at once never share memory, and a change is seen at every fetch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sdxl.models.layers import Conv2d, Linear
from sdxl.runtime.scratch import scratch
from sdxl.runtime.streamed import Read, fetched, streamed


def test_two_weights_at_once_do_not_alias() -> None:
    a, b = torch.randn(64, 64).half(), torch.randn(64, 64).half()
    x = torch.zeros(1)
    with torch.no_grad(), fetched(a, None, x) as first:
        place = first.data_ptr()
        with fetched(b, None, x) as second:
            assert second.data_ptr() != place
            with fetched(a, torch.bfloat16, x) as third:
                assert len({place, second.data_ptr(), third.data_ptr()}) == 3
            assert torch.equal(first, a.float()) and torch.equal(second, b.float())
        with fetched(b, None, x) as again:
            assert torch.equal(first, a.float()) and torch.equal(again, b.float())
    with torch.no_grad(), fetched(b, None, x) as later:
        assert later.data_ptr() == place, "and the memory is used again"


def test_a_failure_inside_gives_the_buffer_back() -> None:
    weight, x = torch.randn(8, 8).half(), torch.zeros(1)
    with torch.no_grad(), pytest.raises(ZeroDivisionError), fetched(weight, None, x):
        raise ZeroDivisionError
    assert not scratch._lent


def test_threads_have_their_own() -> None:
    weights = [torch.full((32, 32), float(n)).half() for n in range(8)]

    @torch.no_grad()
    def sums(n: int) -> float:
        total = 0.0
        for _ in range(50):
            with fetched(weights[n], None, torch.zeros(1)) as weight:
                total += float(weight.sum())
        return total

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(sums, range(8))) == [50 * n * 32 * 32 for n in range(8)]


@pytest.mark.parametrize("layer", [Linear(6, 4), Conv2d(3, 5, 3, stride=2, padding=1)], ids=["linear", "convolution"])
@torch.no_grad()
def test_a_change_acts_at_every_call(layer: torch.nn.Module) -> None:
    x = torch.randn(2, 6) if isinstance(layer, Linear) else torch.randn(2, 3, 9, 9)
    factor = [2.0]
    changed = streamed(layer, read=Read(change=lambda weight: factor[0] * weight))
    assert changed is not None
    for factor[0] in (2.0, -1.0):
        plain = layer(x) - layer.bias.view(-1, *[1] * (x.ndim - 2))  # type: ignore[union-attr]
        ours = changed(x) - layer.bias.view(-1, *[1] * (x.ndim - 2))  # type: ignore[union-attr]
        assert torch.allclose(ours, factor[0] * plain, atol=1e-6)
    assert changed.state_dict().keys() == layer.state_dict().keys()
    assert streamed(torch.nn.LayerNorm(3)) is None
