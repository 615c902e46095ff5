"""Weights cast into scratch memory."""

from __future__ import annotations

import pytest
import torch

from sdxl.runtime.device import DTYPES
from sdxl.runtime.scratch import Scratch, cast


@pytest.mark.parametrize("held", [None, *DTYPES.values()])
@pytest.mark.parametrize("into", DTYPES.values())
@pytest.mark.parametrize("kind", [*DTYPES.values(), torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_are_cast_as_torch_casts_them(kind: torch.dtype, into: torch.dtype, held: torch.dtype | None) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = 30 * torch.randn(600, 700, generator=generator) * torch.randn(600, 1, generator=generator).exp()
    numbers[-1, -1] = torch.nan
    source = (numbers / 30 if kind.itemsize == 1 else numbers).to(kind)
    assert source.float().isfinite().flatten()[:-1].all()
    for each in (source, source.T):
        ours = cast(each, torch.empty(each.shape, dtype=into), held)
        torch.testing.assert_close(ours, each.to(held or kind).to(into), rtol=0, atol=0, equal_nan=True)


def test_lent_memory_is_lent_again() -> None:
    scratch = Scratch()
    with scratch.lend((4,), torch.float32) as first, scratch.lend((4,), torch.float32) as second:
        assert first.data_ptr() != second.data_ptr()
    with scratch.lend((4,), torch.float32) as again:
        assert again.data_ptr() == first.data_ptr()
