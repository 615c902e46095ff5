"""From prompts and sizes to the UNet's context and vector (SDXL paper, sections 2.1 and 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.clip import Insert, TextEncoder
from ..models.layers import sinusoidal
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Sizes:
    """The micro-conditioning of one image: sizes (height, width) and crop (top, left) in pixels."""

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]
    aesthetic_score: float

    def numbers(self, refiner: bool) -> tuple[float, ...]:
        """In SDXL's order; the refiner takes the aesthetic score in place of the target size."""
        return (*self.original, *self.crop, *((self.aesthetic_score,) if refiner else self.target))


@dataclass(frozen=True)
class TextStage:
    """One text encoder with its tokenizer. `embeddings` are learned vectors (N, dim) for words: textual inversion."""

    tokenizer: Tokenizer
    encoder: TextEncoder
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)

    def encode(self, texts: Sequence[str], clip_skip: int) -> tuple[Tensor, Tensor | None]:
        """Context (B, 77, D) and pooled (B, P) or None, float32."""
        layers = len(self.encoder.layers)
        if not 0 <= clip_skip < layers:
            raise ArgumentError(
                f"clip_skip is {clip_skip}; expected 0 to {layers - 1} for a text encoder of {layers} layers"
            )
        rows, inserts = self._tokens(texts)
        ids = torch.tensor(rows, device=self.encoder.token_embed.weight.device)
        context, pooled = self.encoder(ids, clip_skip, inserts)
        return context.float(), None if pooled is None else pooled.float()

    def _tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], list[Insert]]:
        """The ids of each text, and the learned vectors to insert for its words."""
        if not self.embeddings:
            return self.tokenizer(texts), []
        words = {word: (self.tokenizer.ids(word), len(vectors)) for word, vectors in self.embeddings.items()}
        rows, inserts = [], []
        for number, text in enumerate(texts):
            ids, found = self.tokenizer.replace(text, words)
            rows.append(ids)
            inserts += [Insert(number, start, self.embeddings[word][:count]) for word, start, count in found]
        return rows, inserts


def with_tokens(stage: TextStage, embeddings: Mapping[str, Tensor]) -> TextStage:
    """The stage with additional learned vectors (N, dim) for words. They replace the embeddings of the word's tokens,
    before the position embedding is added. Raises `ArgumentError` for vectors of another width.
    """
    width = stage.encoder.config.dim
    for word, vectors in embeddings.items():
        if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != width:
            raise ArgumentError(
                f"the vectors of {word!r} have shape {list(vectors.shape)}; expected (N, {width}) for this text encoder"
            )
        if not stage.tokenizer.ids(word):
            raise ArgumentError(f"{word!r} has no tokens and cannot occur in a prompt; choose another word")
    return replace(stage, embeddings={**stage.embeddings, **embeddings})


def encode_text(
    stages: Sequence[TextStage], prompts: Sequence[str], prompts_2: Sequence[str], clip_skip: int = 0
) -> tuple[Tensor, Tensor]:
    """Context (B, 77, D) and pooled (B, P) of B prompts, float32.

    The contexts are concatenated along D; the pooled embedding is the last encoder's. With two encoders the second
    encodes `prompts_2`. With one (the refiner) that encodes `prompts`, and `prompts_2` is not used.
    """
    texts = [prompts, prompts_2][: len(stages)]
    encoded = [stage.encode(text, clip_skip) for stage, text in zip(stages, texts, strict=True)]
    pooled = encoded[-1][1]
    assert pooled is not None, "ModelConfig checks that the last text encoder has a projection"
    return torch.cat([context for context, _ in encoded], dim=-1), pooled


class TextCache:
    """The encodings of the last texts. Each text is encoded alone: its encoding does not depend on the batch."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._rows: dict[tuple[str, str, int], tuple[Tensor, Tensor]] = {}

    def encode(
        self, stages: Callable[[], Sequence[TextStage]], prompts: Sequence[str], prompts_2: Sequence[str], skip: int
    ) -> tuple[Tensor, Tensor]:
        """As `encode_text`; `stages` is only called for texts that are not in the cache."""
        rows = []
        for key in zip(prompts, prompts_2, [skip] * len(prompts), strict=True):
            row = self._rows.pop(key, None)
            self._rows[key] = row or encode_text(stages(), [key[0]], [key[1]], skip)  # the most recent is last
            rows.append(self._rows[key])
            if len(self._rows) > self._most:
                del self._rows[next(iter(self._rows))]
        contexts, pooled = zip(*rows, strict=True)
        return torch.cat(contexts), torch.cat(pooled)

    def clear(self) -> None:
        """Empty the cache, after the text encoders have changed."""
        self._rows.clear()


def embed_sizes(numbers: Sequence[float], dim: int) -> Tensor:
    """The micro-conditioning of one image, (1, len(numbers) * dim): a sinusoidal embedding of each number."""
    return sinusoidal(torch.tensor(numbers, dtype=torch.float32), dim).reshape(1, -1)
