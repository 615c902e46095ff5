"""Learns a vocabulary from texts, for a model that is trained from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import trainers

from .tokenizer import make_backend
from .vocabulary import CLIP_L, Vocabulary, make_vocabulary


def learn_vocabulary(texts: Iterable[str], size: int) -> Vocabulary:
    """A vocabulary of at most `size` tokens in CLIP's order, with the merges that byte-pair encoding finds in texts."""
    backend = make_backend(make_vocabulary([]), CLIP_L.eos)
    letters = [token for token in make_vocabulary([]).ids if len(token) == 1]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    found = json.loads(backend.to_str())["model"]["merges"]
    pairs = (
        merge.split(" ") if isinstance(merge, str) else merge for merge in found
    )  # a string before tokenizers 0.20
    return make_vocabulary([(a, b) for a, b in pairs][: size - 2 * len(letters) - 2])
