"""A prompt as the UNet sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from .equality import equal_fields


@dataclass(frozen=True)
class Encoding:
    """The text of B images, float32: `contexts` (L, D) for the cross-attention, one for each image; `pooled` (B, P),
    and `vector` (B, V), the pooled text with the embedded sizes behind it. `is_zero`: contexts and pooled text are
    zeros.
    """

    contexts: tuple[Tensor, ...]
    pooled: Tensor
    vector: Tensor
    is_zero: bool = False

    @property
    def groups(self) -> tuple[Tensor, ...]:
        """The contexts (rows, L, D) of neighbouring images of one length."""
        return tuple(torch.stack(list(same)) for _, same in groupby(self.contexts, len))

    @property
    def context(self) -> Tensor:
        """The contexts as one tensor (B, L, D), each repeated as a whole to a common length, which leaves every
        attention to it what it is.
        """
        return torch.stack(of_one_length(self.contexts))


def of_one_length(contexts: Sequence[Tensor]) -> list[Tensor]:
    """Contexts (L, D), each repeated as a whole to the least common length."""
    length = math.lcm(*map(len, contexts))
    return [context.repeat(length // len(context), 1) for context in contexts]


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """The result of `Pipeline.encode_prompt`: `context` (B, L, D), `pooled` (B, P) and `vector` (B, V), as in
    `Encoding`, of the prompt and of the negative prompt. Contexts of several lengths are repeated as a whole to a
    common one.
    """

    context: Tensor
    pooled: Tensor
    vector: Tensor
    negative_context: Tensor
    negative_pooled: Tensor
    negative_vector: Tensor

    def __eq__(self, other: object) -> bool:
        return equal_fields(self, other) if isinstance(other, EncodedPrompt) else NotImplemented


def encoded_prompt(positive: Encoding, negative: Encoding) -> EncodedPrompt:
    """Both encodings as one value."""
    return EncodedPrompt(
        context=positive.context,
        pooled=positive.pooled,
        vector=positive.vector,
        negative_context=negative.context,
        negative_pooled=negative.pooled,
        negative_vector=negative.vector,
    )
