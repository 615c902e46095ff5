"""Layers that compute with weights of another place or dtype: in a mapped file, in host memory, in half precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.layers import Conv2d, Linear
from .scratch import cast, scratch

Change = Callable[[Tensor], Tensor]
"""A weight as its file has it, in float32, to the weight that is used in its place."""


@dataclass(frozen=True)
class Read:
    """A tensor of a file to the weight that is used: by its `product` with a scale, and then its `change`."""

    product: Change | None = None
    change: Change | None = None

    def __call__(self, stored: Tensor) -> Tensor:
        weight = stored if self.product is None else self.product(stored)
        return weight if self.change is None else self.change(weight.float())


PLAIN = Read()  # the weight is the file's tensor


@contextmanager
def fetched(weight: Tensor, held: torch.dtype | None, x: Tensor, read: Read = PLAIN) -> Iterator[Tensor]:
    """A weight where x is and in its dtype, rounded to `held` before, as if it had been kept in that. It is valid
    within the `with`; two that are fetched at once never share memory.
    """
    weight = read(weight)
    if not weight.device.type == x.device.type == "cpu" or torch.is_grad_enabled():
        yield sent(weight.to(held or weight.dtype), x.device, x.dtype)
    elif weight.dtype == x.dtype and held in (None, x.dtype):
        yield weight
    else:
        with scratch.lend(weight.shape, x.dtype) as buffer:
            yield cast(weight, buffer, held)


def sent(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A weight on another device and in another dtype. CUDA's copy from pinned memory need not be waited for. On
    Apple's GPU one that is not waited for reads memory that may be freed by then (pytorch/pytorch#189690).
    """
    return weight.to(device, dtype, non_blocking=device.type == "cuda")


class StreamedLinear(nn.Linear):
    """A linear layer that fetches its weight at every call; `held` and `read` as in `fetched`."""

    def __init__(self, plain: Linear, held: torch.dtype | None, read: Read) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self.held, self.read = held, read

    def forward(self, x: Tensor) -> Tensor:
        with fetched(self.weight, self.held, x, self.read) as weight:
            return F.linear(x, weight, self.bias)


class StreamedConv2d(nn.Conv2d):
    """A convolution that fetches its weight at every call; `held` and `read` as in `fetched`."""

    def __init__(self, plain: Conv2d, held: torch.dtype | None, read: Read) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({name: value for name, value in vars(plain).items() if not name.startswith("_")})
        self._reversed_padding_repeated_twice = plain._reversed_padding_repeated_twice
        self.weight, self.bias = plain.weight, plain.bias
        self.held, self.read = held, read

    def forward(self, x: Tensor) -> Tensor:
        with fetched(self.weight, self.held, x, self.read) as weight:
            return self._conv_forward(x, weight, self.bias)


def streamed(layer: nn.Module, held: torch.dtype | None = None, read: Read = PLAIN) -> nn.Module | None:
    """The layer that fetches its weight, for a linear layer or a convolution; None for another."""
    if isinstance(layer, Linear):
        return StreamedLinear(layer, held, read)
    return StreamedConv2d(layer, held, read) if isinstance(layer, Conv2d) else None
