"""Layers whose weights lie in a form of their own."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import ArgumentError


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ArgumentError(
        "the weights are prepacked for a CPU or in 8 bits: they cannot be read, changed, copied or moved, and no "
        "gradients pass; load the model with trainable=True to do so, or with offload block to read them alone"
    )


class _NoParameters(dict[str, Any]):
    """The parameters of a layer that has none to give: `parameters()` of a network passes here."""

    items = _refuse


class Sealed(nn.Module):
    """A layer whose weights are prepacked for a CPU, or in 8 bits. To read, change, copy or move them would silently
    miss most of a network, so it raises `ArgumentError`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parameters = _NoParameters()

    _save_to_state_dict = _load_from_state_dict = _apply = __deepcopy__ = __reduce_ex__ = _refuse

    def checked(self, x: Tensor) -> Tensor:
        """x, unless gradients are to be recorded."""
        if x.requires_grad and torch.is_grad_enabled():
            _refuse()
        return x
