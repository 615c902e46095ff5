"""From prompts and sizes to the UNet's context and vector (SDXL paper, sections 2.1 and 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.clip import Insert, TextEncoder
from ..models.layers import sinusoidal
from .chunks import Chunk, Reading, make_chunks, padded
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
        """Context (B, 77, D) and pooled (B, P) or None, float32, of texts that are cut off at 77 tokens."""
        contexts, pooled = self.encode_chunks([self.chunks(text, Reading()) for text in texts], clip_skip)
        return torch.stack(contexts), pooled

    def chunks(self, text: str, reading: Reading) -> list[Chunk]:
        """The chunks of a text, at least one."""
        words = {word: (self.tokenizer.ids(word), len(vectors)) for word, vectors in self.embeddings.items()}
        return make_chunks(self.tokenizer, text, reading, words)

    def encode_chunks(
        self, prompts: Sequence[Sequence[Chunk]], clip_skip: int, emphasis: str = "none"
    ) -> tuple[list[Tensor], Tensor | None]:
        """The contexts (L, D) of B prompts, 77 tokens for each chunk, and pooled (B, P) or None, of the first chunks;
        float32. Each chunk is encoded alone. `emphasis` says how the weights of tokens act.
        """
        layers = len(self.encoder.layers)
        if not 0 <= clip_skip < layers:
            raise ArgumentError(
                f"clip_skip is {clip_skip}; expected 0 to {layers - 1} for a text encoder of {layers} layers"
            )
        rows = [chunk for chunks in prompts for chunk in chunks]
        context, pooled = self._encode(rows, clip_skip)
        if emphasis != "none" and any(weight != 1 for row in rows for weight in row.weights):
            context = self._weighted(context, rows, clip_skip, emphasis)
        counts = [len(chunks) for chunks in prompts]
        contexts = [part.flatten(0, 1) for part in context.split(counts)]
        firsts = [sum(counts[:n]) for n in range(len(counts))]
        return contexts, pooled if pooled is None or len(rows) == len(prompts) else pooled[firsts]

    def _encode(self, rows: Sequence[Chunk], clip_skip: int) -> tuple[Tensor, Tensor | None]:
        ids = torch.tensor([row.ids for row in rows], dtype=torch.long, device=self.encoder.token_embed.weight.device)
        inserts = [
            Insert(number, start, self.embeddings[word][:count])
            for number, row in enumerate(rows)
            for word, start, count in row.inserts
        ]
        context, pooled = self.encoder(ids, clip_skip, inserts)
        return context.float(), None if pooled is None else pooled.float()

    def _weighted(self, context: Tensor, rows: Sequence[Chunk], clip_skip: int, emphasis: str) -> Tensor:
        """The contexts (N, 77, D) of chunks, with each token's weight in effect."""
        weights = torch.tensor([row.weights for row in rows], dtype=torch.float32).to(context)[..., None]
        if emphasis == "comfyui":  # towards and away from the empty prompt
            empty, _ = self._encode(self.chunks("", Reading()), clip_skip)
            return torch.where(weights == 1, context, empty + weights * (context - empty))
        weighted = context * weights
        if emphasis == "original":  # the mean of each chunk is what it was without weights
            weighted = weighted * (context.mean(dim=(1, 2), keepdim=True) / weighted.mean(dim=(1, 2), keepdim=True))
        is_plain = (weights == 1).all(dim=1, keepdim=True)
        return torch.where(is_plain, context, weighted)


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


def encode_prompts(
    stages: Sequence[TextStage],
    prompts: Sequence[str],
    prompts_2: Sequence[str],
    clip_skip: int | tuple[int, int],
    reading: Reading,
) -> tuple[list[Tensor], Tensor]:
    """The contexts (L, D) of B prompts, 77 tokens for each chunk, and pooled (B, P), float32.

    The contexts of both encoders are concatenated along D; the pooled embedding is the last encoder's. With two
    encoders the second encodes `prompts_2`; the shorter of both has empty chunks at its end. With one (the refiner)
    that encodes `prompts`, and `prompts_2` is not used. `clip_skip` is one number for all encoders, or a pair for the
    first and the second; the refiner's encoder is the second.
    """
    texts = [prompts, prompts_2][: len(stages)]
    chunks = [[stage.chunks(text, reading) for text in own] for stage, own in zip(stages, texts, strict=True)]
    counts = [max(map(len, same)) for same in zip(*chunks, strict=True)]
    skips = (clip_skip,) * len(stages) if isinstance(clip_skip, int) else clip_skip[-len(stages) :]
    encoded = [
        stage.encode_chunks(
            [padded(own, count, stage.tokenizer) for own, count in zip(rows, counts, strict=True)],
            skip,
            reading.emphasis,
        )
        for stage, rows, skip in zip(stages, chunks, skips, strict=True)
    ]
    pooled = encoded[-1][1]
    assert pooled is not None, "ModelConfig checks that the last text encoder has a projection"
    return [torch.cat(same, dim=-1) for same in zip(*(contexts for contexts, _ in encoded), strict=True)], pooled


def encode_text(
    stages: Sequence[TextStage], prompts: Sequence[str], prompts_2: Sequence[str], clip_skip: int = 0
) -> tuple[Tensor, Tensor]:
    """Context (B, 77, D) and pooled (B, P) of B prompts that are cut off at 77 tokens: see `encode_prompts`."""
    contexts, pooled = encode_prompts(stages, prompts, prompts_2, clip_skip, Reading())
    return torch.stack(contexts), pooled


_Key = tuple[str, str, int | tuple[int, int], Reading]
_Row = tuple[Tensor, Tensor]  # the context (L, D) of a text and its pooled (1, P)


class TextCache:
    """The encodings of the last texts. Each text is encoded alone, so that its encoding does not depend on the batch;
    or `together` with the others of its call, which is the same within rounding and fills a GPU better.
    """

    def __init__(self, most: int = 256, together: bool = False) -> None:
        self._most, self._together = most, together
        self._rows: dict[_Key, _Row] = {}

    def encode(
        self,
        stages: Callable[[], Sequence[TextStage]],
        prompts: Sequence[str],
        prompts_2: Sequence[str],
        skip: int | tuple[int, int],
        reading: Reading,
    ) -> tuple[list[Tensor], Tensor]:
        """As `encode_prompts`; `stages` is only called for texts that are not in the cache."""
        keys = [(first, second, skip, reading) for first, second in zip(prompts, prompts_2, strict=True)]
        found = {key: self._rows.pop(key) for key in dict.fromkeys(keys) if key in self._rows}
        absent = [key for key in dict.fromkeys(keys) if key not in found]
        for part in [absent] if self._together and absent else [[key] for key in absent]:
            firsts, seconds = [key[0] for key in part], [key[1] for key in part]
            own, pooled = encode_prompts(stages(), firsts, seconds, skip, reading)
            found |= zip(part, zip(own, pooled.split(1), strict=True), strict=True)
        self._rows |= {key: found[key] for key in dict.fromkeys(keys)}  # the most recent are last
        for key in list(self._rows)[: max(len(self._rows) - self._most, 0)]:
            del self._rows[key]
        rows = [found[key] for key in keys]
        return [context for context, _ in rows], torch.cat([pooled for _, pooled in rows])

    def clear(self) -> None:
        """Empty the cache, after the text encoders have changed."""
        self._rows.clear()


def embed_sizes(numbers: Sequence[float], dim: int) -> Tensor:
    """The micro-conditioning of one image, (1, len(numbers) * dim): a sinusoidal embedding of each number."""
    return sinusoidal(torch.tensor(numbers, dtype=torch.float32), dim).reshape(1, -1)
