"""From prompts to the text encoders' output: tokenizer, vocabulary, encoding, and size embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .encode import Sizes as Sizes
    from .encode import TextCache as TextCache
    from .encode import TextStage as TextStage
    from .encode import embed_sizes as embed_sizes
    from .encode import encode_text as encode_text
    from .encode import with_tokens as with_tokens
    from .learn import learn_vocabulary as learn_vocabulary
    from .tokenizer import Tokenizer as Tokenizer
    from .vocabulary import TokenizerConfig as TokenizerConfig
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "encode": ("Sizes", "TextCache", "TextStage", "embed_sizes", "encode_text", "with_tokens"),
            "learn": ("learn_vocabulary",),
            "tokenizer": ("Tokenizer",),
            "vocabulary": ("TokenizerConfig",),
        },
    )
