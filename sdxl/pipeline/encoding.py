"""A prompt as the UNet sees it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Encoding:
    """The text of B images, float32: `context` (B, L, D) for the cross-attention, `pooled` (B, P), and `vector` (B, V),
    the pooled text with the embedded sizes behind it. `is_zero`: context and pooled text are zeros.
    """

    context: Tensor
    pooled: Tensor
    vector: Tensor
    is_zero: bool = False


@dataclass(frozen=True)
class EncodedPrompt:
    """The result of `Pipeline.encode_prompt`: of the prompt, and of the negative prompt, as in `Encoding`."""

    context: Tensor
    pooled: Tensor
    vector: Tensor
    negative_context: Tensor
    negative_pooled: Tensor
    negative_vector: Tensor
