"""Layers whose weights lie in a form of their own."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import ArgumentError


class Sealed(nn.Module):
    """A layer whose weights are prepacked for a CPU, or in 8 bits. To read, change, copy or move them would silently
    miss most of a network, so it raises `ArgumentError`.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ArgumentError(
            "the weights are prepacked for a CPU or in 8 bits: they cannot be read, changed, copied or moved, and no "
            "gradients pass; load the model with offload block to do so"
        )

    _save_to_state_dict = _load_from_state_dict = _apply = __deepcopy__ = _refuse

    def checked(self, x: Tensor) -> Tensor:
        """x, unless gradients are to be recorded."""
        if x.requires_grad and torch.is_grad_enabled():
            self._refuse()
        return x
