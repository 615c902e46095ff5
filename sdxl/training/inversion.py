"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): vectors for a word are trained, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, brief
from ..models.clip import Insert, TextEncoder
from ..weights.container import save_tensors
from ..weights.keymap import TEXT, TEXT_2
from ..weights.path import AnyPath

_KEYS = {TEXT: "clip_l", TEXT_2: "clip_g"}


class WordEncoder(nn.Module):
    """A frozen text encoder that takes `vectors` (N, dim) in place of the embeddings of a word's N tokens, `word`.

    The vectors begin as those embeddings. In use, a word may have another number of tokens than of vectors. Raises
    `ArgumentError` for a word without tokens.
    """

    def __init__(self, encoder: TextEncoder, word: Sequence[int]) -> None:
        super().__init__()
        if not len(word):
            raise ArgumentError("word has no tokens; expected their ids. Try tokenizer.ids('sks')")
        self.encoder, self.word = encoder.requires_grad_(False), tuple(word)
        ids = torch.tensor(word, dtype=torch.long, device=encoder.token_embed.weight.device)
        self.vectors = nn.Parameter(encoder.token_embed(ids).float().clone())

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ids (B, L) to what the encoder makes of them."""
        return self.encoder(ids, inserts=[Insert(row, start, self.vectors) for row, start in self._places(ids)])

    def _places(self, ids: Tensor) -> Iterator[tuple[int, int]]:
        """The rows and positions of the word, none of which overlap, from the left, as in use."""
        windows = ids.unfold(1, len(self.word), 1)
        end = 0, 0
        for row, start in (
            (windows == torch.tensor(self.word, dtype=torch.long, device=ids.device)).all(dim=2).nonzero().tolist()
        ):
            if (row, start) >= end:
                yield row, start
                end = row, start + len(self.word)


def save_embedding(path: AnyPath, encoders: Mapping[str, WordEncoder], metadata: Mapping[str, str]) -> None:
    """Write the vectors of both text encoders, `text_encoder` and `text_encoder_2`, as most tools do: `clip_l` and
    `clip_g`. Raises `OutputError`, and `ArgumentError` for others.
    """
    if encoders.keys() != _KEYS.keys():
        raise ArgumentError(f"encoders has {brief(list(encoders))}; expected {' and '.join(_KEYS)}")
    tensors = {_KEYS[name]: encoder.vectors.detach().cpu().half() for name, encoder in encoders.items()}
    save_tensors(tensors, path, {"modelspec.architecture": "stable-diffusion-xl-v1-base/textual-inversion", **metadata})
