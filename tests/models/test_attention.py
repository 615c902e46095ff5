"""Attention in parts, on devices that cannot hold all of its scores at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sdxl.models import layers
from sdxl.models.layers import Source, dot_product


@pytest.mark.parametrize(
    ("most", "calls"), [(None, 1), (10**6, 1), (2 * 3 * 11 * 4 * 7, 1), (2 * 3 * 11 * 4 * 3, 3), (1, 7)]
)
def test_parts_are_the_whole(most: int | None, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 queries of 2 rows and 3 heads for 11 keys, in float32."""
    generator = torch.Generator().manual_seed(0)
    q, keys, values = (torch.randn(2, 3, length, 8, generator=generator) for length in (7, 11, 11))
    whole = F.scaled_dot_product_attention(q, keys, values)
    counted: list[torch.Size] = []

    def count(q: Any, *given: Any, **more: Any) -> Any:
        counted.append(q.shape)
        return attend(q, *given, **more)

    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", count)
    if most is not None:
        monkeypatch.setitem(layers.MOST_SCORES, "cpu", most)
    assert torch.allclose(dot_product(q, keys, values), whole, atol=1e-6)
    assert len(counted) == calls
    assert torch.allclose(Source(keys, values).attend(q), whole, atol=1e-6)


def test_causal_attention_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part would not know where it stands."""
    monkeypatch.setitem(layers.MOST_SCORES, "cpu", 1)
    x = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dot_product(x, x, x, causal=True), F.scaled_dot_product_attention(x, x, x, is_causal=True))


def test_an_image_of_the_native_size_is_not_cut() -> None:
    """Two branches of 10 heads with 4096 tokens, in float32."""
    assert layers.MOST_SCORES["mps"] >= 2 * 10 * 4096**2 * 4
