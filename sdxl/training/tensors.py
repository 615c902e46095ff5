"""The tensors of a trained network as its file has them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..weights.keymap import Row


def file_tensors(network: nn.Module, rows: Iterable[Row], dtype: torch.dtype) -> dict[str, Tensor]:
    """A network's tensors by the keys that diffusers and transformers have for them, on the CPU."""
    state = network.state_dict()
    return {row.folder: state[row.ours].detach().cpu().to(dtype).contiguous() for row in rows}
