"""From prompts and sizes to what the UNet is told (SDXL paper, sections 2.1 and 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .clip import TextEncoder
from .errors import ArgumentError
from .nn import sinusoidal
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Sizes:
    """The micro-conditioning of one picture: sizes (height, width) and crop (top, left) in pixels."""

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]
    aesthetic_score: float

    def numbers(self, refiner: bool) -> tuple[float, ...]:
        """In the order in which SDXL is told; to the refiner the aesthetic score stands in place of the target size."""
        return (*self.original, *self.crop, *((self.aesthetic_score,) if refiner else self.target))


@dataclass(frozen=True)
class TextStage:
    """One text encoder with its tokenizer."""

    tokenizer: Tokenizer
    encoder: TextEncoder

    def encode(self, texts: Sequence[str], clip_skip: int) -> tuple[Tensor, Tensor | None]:
        """Context (B, 77, D) and pooled (B, P) or None, float32."""
        layers = len(self.encoder.layers)
        if not 0 <= clip_skip < layers:
            raise ArgumentError(
                f"clip_skip is {clip_skip}; with a text encoder of {layers} layers it is 0 to {layers - 1}"
            )
        ids = torch.tensor(self.tokenizer(texts), device=self.encoder.token_embed.weight.device)
        context, pooled = self.encoder(ids, clip_skip)
        return context.float(), None if pooled is None else pooled.float()


def encode_text(
    stages: Sequence[TextStage], prompts: Sequence[str], prompts_2: Sequence[str], clip_skip: int = 0
) -> tuple[Tensor, Tensor]:
    """Context (B, 77, D) and pooled (B, P) of B prompts.

    The contexts of the encoders stand side by side; the pooled embedding is the last encoder's. With two encoders
    `prompts_2` goes to the second, with one (the refiner) `prompts` goes to it and `prompts_2` is not used.
    """
    texts = [prompts, prompts_2][: len(stages)]
    encoded = [stage.encode(text, clip_skip) for stage, text in zip(stages, texts, strict=True)]
    pooled = encoded[-1][1]
    assert pooled is not None, "ModelConfig checks that the last text encoder has a projection"
    return torch.cat([context for context, _ in encoded], dim=-1), pooled


class TextMemo:
    """The encodings of the last texts. Each text is encoded by itself, so that its encoding is the same whatever others
    it came with.
    """

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._rows: dict[tuple[str, str, int], tuple[Tensor, Tensor]] = {}

    def encode(
        self, stages: Callable[[], Sequence[TextStage]], prompts: Sequence[str], prompts_2: Sequence[str], skip: int
    ) -> tuple[Tensor, Tensor]:
        """As `encode_text`; the encoders are asked for only if there is a text that is not known."""
        rows = []
        for key in zip(prompts, prompts_2, [skip] * len(prompts), strict=True):
            row = self._rows.pop(key, None)
            self._rows[key] = row or encode_text(stages(), [key[0]], [key[1]], skip)  # the last used is last
            rows.append(self._rows[key])
            if len(self._rows) > self._most:
                del self._rows[next(iter(self._rows))]
        contexts, pooled = zip(*rows, strict=True)
        return torch.cat(contexts), torch.cat(pooled)


def embed_sizes(numbers: Sequence[float], dim: int) -> Tensor:
    """The micro-conditioning of one picture, (1, len(numbers) * dim): a sinusoidal embedding of each number."""
    return sinusoidal(torch.tensor(numbers, dtype=torch.float32), dim).reshape(1, -1)
