"""Operations between the tensors of a single file and ours, each beside its inverse. Imports no torch."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Op(Enum):
    """How the tensor in a single file relates to ours."""

    SAME = "same"
    Q = "rows 0/3 to 1/3 of a fused in_proj"
    K = "rows 1/3 to 2/3 of a fused in_proj"
    V = "rows 2/3 to 3/3 of a fused in_proj"
    TRANSPOSE = "transposed"
    CONV1X1 = "a linear layer stored as a 1x1 convolution"


FUSED = (Op.Q, Op.K, Op.V)


def stored_shape(shape: tuple[int, ...], op: Op) -> tuple[int, ...]:
    """The shape in the file, for our `shape`."""
    if op in FUSED:
        return (3 * shape[0], *shape[1:])
    if op is Op.CONV1X1:
        return (*shape, 1, 1)
    return shape[::-1] if op is Op.TRANSPOSE else shape


def from_stored(tensor: Tensor, op: Op) -> Tensor:
    """Our tensor, from the file's."""
    if op in FUSED:
        return tensor.chunk(3)[FUSED.index(op)]
    if op is Op.CONV1X1:
        return tensor.reshape(tensor.shape[:2])
    return tensor.T.contiguous() if op is Op.TRANSPOSE else tensor


def to_stored(tensors: list[Tensor], op: Op) -> Tensor:
    """The inverse of `from_stored`; a fused tensor is concatenated from three."""
    if op in FUSED:
        import torch

        return torch.cat(tensors)
    if op is Op.CONV1X1:
        return tensors[0][:, :, None, None]
    return tensors[0].T.contiguous() if op is Op.TRANSPOSE else tensors[0].contiguous()
