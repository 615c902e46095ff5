"""`tokens`: what the text encoders get of a prompt."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import ArgumentError
from ..text.grammars import LONG_PROMPTS, SYNTAXES
from .console import UNPRINTED, show
from .options import read_file
from .parser import Parser, command

if TYPE_CHECKING:
    from ..pipeline.tokens import Tokens
    from ..text.tokenizer import Tokenizer

_STEPS = 30


def tokens_parser() -> Parser:
    """The command and its flags."""
    parser = command("tokens", "Show the chunks, tokens and weights of a prompt.", usage="PROMPT [flags]")
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt, in quotes")
    parser.add_argument("--model", metavar="MODEL", help="whose tokenizer (default: SDXL's, which is CLIP's)")
    parser.add_argument("--prompt-syntax", choices=SYNTAXES, default="plain", help="how it is read (default: plain)")
    parser.add_argument("--long-prompt", choices=LONG_PROMPTS, default="chunk", help="as for images (default: chunk)")
    parser.add_argument("--steps", type=int, default=_STEPS, metavar="N", help="for prompts that change (default: 30)")
    parser.add_argument("--embedding-dir", type=read_file, metavar="DIR", help="a folder with learned words")
    parser.set_defaults(run=_show)
    return parser


def _show(options: argparse.Namespace) -> int:
    from ..pipeline.cautions import warn_of_syntax
    from ..pipeline.prompts import reading_of
    from ..pipeline.request import Request
    from ..pipeline.tags import tagged_loras
    from ..pipeline.tokens import tokenize, variants

    syntax = options.prompt_syntax
    request = Request(options.prompt, prompt_syntax=syntax, long_prompt=options.long_prompt, steps=options.steps)
    warn_of_syntax(request)
    tokenizers, counts = _open(options)
    own = variants(options.prompt, syntax, options.steps)
    lines = [
        f"LoRA {lora.file}, weight {lora.weight:g}, of the text encoders {lora.strength('text_encoder'):g}"
        for lora in tagged_loras(request)
    ]
    for each in own:
        if len(own) > 1:
            lines.append(
                f"part {each.part}, weight {each.weight:g}, up to step {each.last} of {options.steps}: {each.text}"
            )
        lines += _lines(tokenize(tokenizers, each.text, reading_of(request), counts))
    return 0 if show(*lines) else UNPRINTED


def _open(options: argparse.Namespace) -> tuple[dict[str, Tokenizer], dict[str, int]]:
    """The tokenizer of each text encoder, and the numbers of the vectors of learned words."""
    from ..text.tokenizer import Tokenizer
    from ..text.vocabulary import CLIP_G, CLIP_L

    if options.model is None:
        if options.embedding_dir is not None:
            raise ArgumentError("--embedding-dir needs the model that the embeddings are for; give --model")
        return {"text_encoder": Tokenizer(CLIP_L), "text_encoder_2": Tokenizer(CLIP_G)}, {}
    from ..adapters.lookup import own_folders
    from ..pipeline.adapters import Adapters
    from ..pipeline.tokens import tokenizers_of
    from ..weights.checkpoint import open_checkpoint
    from ..weights.hub import resolve

    checkpoint = open_checkpoint(resolve(options.model))
    adapters = Adapters([checkpoint], (), own_folders(options.embedding_dir, "embedding_dir"))
    return tokenizers_of(checkpoint.info), adapters.counts(adapters.open_embeddings(()), ())


def _lines(encoders: Sequence[Tokens]) -> Iterator[str]:
    """A table for each chunk. The encoders have the same tokens but for their pads and the tokens of their own."""
    first = encoders[0]
    for number, length in enumerate(first.lengths):
        rows = [each.ids[number] for each in encoders]
        yield f"chunk {number + 1} of {len(first.lengths)}: {length} of {len(rows[0]) - 2} tokens"
        for place in range(length + 2):
            ids = " / ".join(dict.fromkeys(str(row[place]) for row in rows))
            weight = first.weights[number][place]
            shown = "" if weight == 1 else f"  {weight:g}"
            yield f"{place:4}  {ids:>13}  {first.tokens[number][place]}{shown}".rstrip()
        if pads := len(rows[0]) - length - 2:
            yield f"      {' / '.join(dict.fromkeys(str(row[-1]) for row in rows)):>13}  {pads} pads"
