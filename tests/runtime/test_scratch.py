"""Weights cast into scratch memory."""

from __future__ import annotations

import pytest
import torch

from sdxl.runtime.device import DTYPES
from sdxl.runtime.scratch import Scratch, cast


@pytest.mark.parametrize("held", [None, *DTYPES.values()])
@pytest.mark.parametrize("into", DTYPES.values())
@pytest.mark.parametrize("kind", DTYPES.values())
def test_weights_are_cast_as_torch_casts_them(kind: torch.dtype, into: torch.dtype, held: torch.dtype | None) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = 30 * torch.randn(600, 700, generator=generator) * torch.randn(600, 1, generator=generator).exp()
    for source in (numbers.to(kind), numbers.to(kind).T):
        expected = source.to(held or kind).to(into)
        assert torch.equal(cast(source, torch.empty(source.shape, dtype=into), held), expected)


def test_lent_memory_is_lent_again() -> None:
    scratch = Scratch()
    with scratch.lend((4,), torch.float32) as first, scratch.lend((4,), torch.float32) as second:
        assert first.data_ptr() != second.data_ptr()
    with scratch.lend((4,), torch.float32) as again:
        assert again.data_ptr() == first.data_ptr()
