"""How weights act on contexts: in float64 from transformers' text encoders, written anew, and against compel."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

import sdxl
from sdxl.text.chunks import Chunk, Reading
from sdxl.text.encode import TextStage, encode_prompts

PROMPTS = (
    "a (red:1.3) cat, [photo] of a ((dog))",
    "(a robot:0.4) in the favela",
    "a red cat, (expressionist style:1.5), " + "photo of a dog, " * 30 + "(the end:0.7)",
    "a cat BREAK (a dog:1.4) BREAK the favela",
    "(cat:0) (dog:-0.5)",
)


@pytest.fixture(scope="module")
def stages(tiny_folder: Any) -> list[TextStage]:
    return sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu").text


def states(number: int, rows: list[list[int]]) -> tuple[Tensor, Tensor | None]:
    """The hidden states in front of the last layer, and pooled, as transformers has them, in float64."""
    model = (tiny.clip_l() if number == 0 else tiny.clip_g()).double()
    with torch.no_grad():
        out = model(torch.tensor(rows), output_hidden_states=True)
    return out.hidden_states[-2], out.text_embeds if number else None


def expected(number: int, chunks: list[Chunk], emphasis: str) -> Tensor:
    """The context of a prompt (77 n, D), token by token."""
    rows = [list(chunk.ids) for chunk in chunks]
    plain, _ = states(number, rows)
    start, end = (tiny.vocabulary()[0][f"<|{name}oftext|>"] for name in ("start", "end"))
    empty, _ = states(number, [[start, end, *[0 if number else end] * 75]])
    parts = []
    for chunk, own in zip(chunks, plain, strict=True):
        lines = []
        for place, weight in enumerate(chunk.weights):
            if emphasis == "comfyui":
                lines.append(empty[0, place] + weight * (own[place] - empty[0, place]))
            else:
                lines.append(own[place] * weight)
        part = torch.stack(lines)
        if emphasis == "original":
            part = part * own.mean() / part.mean()
        parts.append(part if emphasis != "none" else own)
    return torch.cat(parts)


@pytest.mark.parametrize("emphasis", ["original", "no_norm", "comfyui", "none"])
@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_float64(syntax: str, emphasis: str, stages: list[TextStage], error: Any) -> None:
    reading = Reading(syntax, truncates=False, emphasis=emphasis)
    contexts, pooled = encode_prompts(stages, PROMPTS, PROMPTS, 0, reading)
    for number, text in enumerate(PROMPTS):
        chunks = [stage.chunks(text, reading) for stage in stages]
        wanted = torch.cat([expected(n, own, emphasis) for n, own in enumerate(chunks)], dim=1)
        assert error(contexts[number], wanted) < 1e-5, text
        _, first = states(1, [list(chunks[1][0].ids)])
        assert first is not None
        assert error(pooled[number : number + 1], first) < 1e-5, "the first chunk, without weights"


def test_they_differ(stages: list[TextStage], error: Any) -> None:
    kinds = ("original", "no_norm", "comfyui", "none")
    found = [encode_prompts(stages, PROMPTS[:1], PROMPTS[:1], 0, Reading("a1111", False, e))[0][0] for e in kinds]
    for n, one in enumerate(found):
        for other in found[:n]:
            assert error(one, other) > 1e-3


def test_a_chunk_without_weights_is_as_it_is(stages: list[TextStage]) -> None:
    """Beside one with weights, bit for bit."""
    text = "a red cat BREAK (a dog:1.4)"
    plain = encode_prompts(stages, [text], [text], 0, Reading("a1111", False, "none"))[0][0]
    for emphasis in ("original", "no_norm", "comfyui"):
        context = encode_prompts(stages, [text], [text], 0, Reading("a1111", False, emphasis))[0][0]
        assert torch.equal(context[:77], plain[:77])
        assert not torch.equal(context[77:], plain[77:])


@pytest.mark.filterwarnings("ignore")
def test_compel(stages: list[TextStage], error: Any) -> None:
    """Weights above 1 are the same formula there."""
    compel = pytest.importorskip("compel")
    first, second = tiny.tokenizers()
    kind = compel.ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
    theirs = compel.Compel(
        [first, second], [tiny.clip_l(), tiny.clip_g()], returned_embeddings_type=kind, requires_pooled=[False, True]
    )
    for ours, own in (
        ("a (red:1.3) cat", "a (red)1.3 cat"),
        ("(a robot:1.1) in the (favela:1.6)", "(a robot)1.1 in the (favela)1.6"),
    ):
        contexts, _ = encode_prompts(stages, [ours], [ours], 0, Reading("comfyui", False, "comfyui"))
        with torch.no_grad():
            wanted, _ = theirs(own)
        assert error(contexts[0], wanted[0]) < 1e-5
