"""Token ids and weights of prompts, against chunkers written from the description of AUTOMATIC1111 and ComfyUI."""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import groupby, pairwise
from typing import Any

import pytest
from test_grammar import letters

from sdxl.errors import ArgumentError, SDXLWarning
from sdxl.text.chunks import Chunk, Reading, make_chunks
from sdxl.text.tokenizer import Tokenizer
from sdxl.text.vocabulary import CLIP_G, CLIP_L, clip_vocabulary

START, END, COMMA, ROOM = 49406, 49407, 267, 75
Weighted = list[tuple[int, float]]

SUBJECTS = "a cat|two dogs, running|(a red (house:1.3))|[blurry]|1girl|(((masterpiece)))|portrait of a woman, 35mm"
PIECES = [
    "(best quality:1.4)",
    "[bad hands]",
    "((detailed))",
    r"\(original\)",
    "BREAK",
    "16:9",
    "a",
    ",",
    "sea",
    "(a, b:0.8)",
    "supercalifragilisticexpialidocious",
    "(",
    ")",
    "é",
    "(soft light:1.1), (warm:0.9)",
    "the old town",
    "\n",
    "[x:1]",
]


def prompts() -> list[str]:
    """Hand-made ones and random ones of up to five chunks."""
    choice = random.Random(3)
    made = SUBJECTS.split("|")
    made += ["", ",", "BREAK", "a BREAK b", "a BREAK BREAK b", "(a BREAK b:1.2)", "a BREAK", "()", "(a:0)", "(a:-1)"]
    made += [", ".join(["cat"] * n) for n in (37, 38, 39, 75)] + [" ".join(["cat"] * n) for n in (74, 75, 76, 150, 151)]
    made += [f"{'cat ' * before}, {'dog ' * 40}" for before in (53, 54, 55, 56, 70, 74, 75)]  # around 20 tokens back
    made += ["cat " * 70 + "(one two three four five six:1.2)", "cat " * 70 + "(a b c d e f g h i j:1.2) end"]
    while len(made) < 90:
        made.append(" ".join(choice.choices(PIECES, k=choice.randint(1, 120))))
    return made


@pytest.fixture(scope="module")
def clip() -> Any:
    """transformers' tokenizer, without start and end."""
    transformers = pytest.importorskip("transformers")
    table = clip_vocabulary()
    own = transformers.CLIPTokenizer(vocab=dict(table.ids), merges=list(table.merges))
    return cache(lambda text: own(text, add_special_tokens=False, verbose=False).input_ids)


def a1111_chunks(text: str, clip: Any) -> list[Weighted]:
    """From the description: a token list with break marks, from which chunks are cut off one by one."""
    marked = re.sub(r"\s*\bBREAK\b\s*", "\0", text)
    stream: list[tuple[int, float] | None] = []
    for (_, is_break), run in groupby(
        letters(marked), lambda pair: ("" if pair[0] == "\0" else pair[1], pair[0] == "\0")
    ):
        same = list(run)
        if is_break:
            stream += [None] * len(same)
        else:
            stream += [(token, same[0][1]) for token in clip("".join(letter for letter, _ in same))]
    chunks: list[Weighted] = []
    while stream:
        stop = stream.index(None) if None in stream else len(stream)
        part: Any = stream[:stop]
        if len(part) <= ROOM:
            chunks.append(part)
            stream = stream[stop + 1 :]
            continue
        cut = ROOM
        if part[ROOM][0] != COMMA:
            commas = [place for place in range(ROOM - 20, ROOM) if part[place][0] == COMMA]
            cut = commas[-1] + 1 if commas else ROOM
        chunks.append(part[:cut])
        stream = stream[cut:]
    return chunks or [[]]


def comfyui_pieces(text: str, weight: float = 1.0) -> list[tuple[str, float]]:
    """From the description: brackets by a count of open ones, escapes as one letter."""
    pieces, depth, current = list[tuple[str, float]](), 0, ""

    def inside(group: str) -> list[tuple[str, float]]:
        body = group[1:-1]
        head, colon, number = body.rpartition(":")
        try:
            if colon and head:
                return comfyui_pieces(head, float(number))
        except ValueError:
            pass
        return comfyui_pieces(body, weight * 1.1)

    def close(group: str) -> None:
        if len(group) > 1 and group[0] == "(" and group[-1] == ")":
            pieces.extend(inside(group))
        elif group:
            pieces.append((group, weight))

    for letter in text:
        if letter == "(" and not depth:
            close(current)
            current = ""
        depth += {"(": 1, ")": -1}.get(letter, 0)
        current += letter
        if letter == ")" and depth == 0:
            close(current)
            current = ""
    close(current)
    return pieces


def comfyui_chunks(text: str, clip: Any) -> list[Weighted]:
    chunks: list[Weighted] = [[]]
    for piece, weight in comfyui_pieces(text.replace(r"\(", "\x02").replace(r"\)", "\x03")):
        tokens = [(token, weight) for token in clip(piece.replace("\x02", "(").replace("\x03", ")"))]
        if len(tokens) < 8:
            if len(chunks[-1]) + len(tokens) > ROOM:
                chunks.append([])
            chunks[-1] += tokens
            continue
        while tokens:
            if len(chunks[-1]) == ROOM:
                chunks.append([])
            left = ROOM - len(chunks[-1])
            chunks[-1] += tokens[:left]
            tokens = tokens[left:]
    return chunks


def framed(chunk: Weighted, pad: int) -> tuple[list[int], list[float]]:
    rest = ROOM - len(chunk)
    ids = [START, *(token for token, _ in chunk), END, *[pad] * rest]
    return ids, [1.0, *(weight for _, weight in chunk), 1.0, *[1.0] * rest]


tokenizer = cache(Tokenizer)


def ours(text: str, syntax: str, config: Any = CLIP_L) -> list[Chunk]:
    return make_chunks(tokenizer(config), text, Reading(syntax, truncates=False))


@pytest.mark.parametrize(("config", "pad"), [(CLIP_L, END), (CLIP_G, 0)], ids=["first", "second"])
@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_ids_and_weights(syntax: str, config: Any, pad: int, clip: Any) -> None:
    chunker = {"a1111": a1111_chunks, "comfyui": comfyui_chunks}[syntax]
    counts = set()
    for text in prompts():
        found, wanted = ours(text, syntax, config), chunker(text, clip)
        assert len(found) == len(wanted), text
        counts.add(len(found))
        for chunk, own in zip(found, wanted, strict=True):
            ids, weights = framed(own, pad)
            assert list(chunk.ids) == ids, text
            assert list(chunk.weights) == pytest.approx(weights), text
    assert counts >= {1, 2, 3, 4}


def test_a_chunk_ends_behind_a_comma_that_is_near() -> None:
    """The comma may be 20 tokens back, not 21; a comma in the first place of a chunk never is."""
    for before, first in ((54, 75), (55, 56), (74, 75), (75, 75)):
        chunks = ours(f"{'cat ' * before}, {'dog ' * 40}", "a1111")
        assert list(chunks[0].ids).index(END) - 1 == first, before


@pytest.mark.parametrize("syntax", ["plain", "a1111", "comfyui"])
def test_plain_text_in_one_chunk_is_what_it_always_was(syntax: str) -> None:
    for text in ("", "a red cat", "hello! it's 50 %, {a} <b> - c_d", "cat " * 75):
        (chunk,) = ours(text, syntax)
        assert list(chunk.ids) == tokenizer(CLIP_L)([text])[0]
        assert set(chunk.weights) == {1.0}


def test_a_long_plain_text_has_the_comma_rule_too() -> None:
    text = ", ".join(["a red cat"] * 40)
    assert ours(text, "plain") == ours(text, "a1111")
    assert len(ours(text, "plain")) == 3
    (cut,) = make_chunks(tokenizer(CLIP_L), "cat " * 60, Reading("a1111", truncates=True))
    assert len(cut.ids) == 77


WORDS = {"robot": ([tokenizer(CLIP_L).ids("robot")[0]], 4), "sea town": (tokenizer(CLIP_L).ids("sea town"), 2)}


def places(chunks: list[Chunk]) -> list[tuple[str, int, int]]:
    return [(word, number, place) for number, chunk in enumerate(chunks) for word, place, _ in chunk.inserts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a robot", [("robot", 0, 2)]),
        ("(a robot:1.2) x", [("robot", 0, 2)]),
        ("a sea town", [("sea town", 0, 2)]),
        ("cat " * 71 + "robot", [("robot", 0, 72)]),  # it just fits
        ("cat " * 72 + "robot", [("robot", 1, 1)]),  # not torn
        ("cat " * 60 + ", " + "cat " * 10 + "robot dog", [("robot", 1, 11)]),
        ("cat " * 60 + ", cat cat robot " + "dog " * 20, [("robot", 1, 3)]),  # moved, and its place with it
        ("robot, " + "cat " * 80, [("robot", 0, 1)]),
        (
            "cat " * 60 + ", robot robot robot robot",
            [("robot", 0, 62), ("robot", 0, 66), ("robot", 0, 70), ("robot", 1, 1)],
        ),
    ],
)
def test_learned_words(text: str, expected: list[tuple[str, int, int]]) -> None:
    """Their places, also where a chunk ends; all of a word's places have its weight, and the id 0."""
    chunks = make_chunks(tokenizer(CLIP_L), text, Reading("a1111", truncates=False), WORDS)
    assert places(chunks) == expected
    for chunk in chunks:
        assert len(chunk.ids) == len(chunk.weights) == 77
        for _, place, count in chunk.inserts:
            assert chunk.ids[place : place + count] == (0,) * count
            assert len(set(chunk.weights[place : place + count])) == 1
        for (_, one, count), (_, other, _) in pairwise(chunk.inserts):
            assert one + count <= other


def test_more_chunks_than_anybody_means_are_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"takes more than 32 chunks of 75 tokens; shorten it"):
        ours("cat, " * 3000, "plain")


def test_truncation_of_a_weighted_prompt_names_what_is_cut_off() -> None:
    with pytest.warns(SDXLWarning, match="cut off: 'the end'"):
        (chunk,) = make_chunks(tokenizer(CLIP_L), "(cat:1.2) " + "dog " * 74 + "the end", Reading("a1111"))
    assert chunk.weights[1:3] == (1.2, 1.0)


def test_a_break_that_is_none_is_a_warning() -> None:
    with pytest.warns(SDXLWarning, match="BREAK has no effect where a long prompt is truncated"):
        (chunk,) = make_chunks(tokenizer(CLIP_L), "a BREAK b", Reading("a1111"))
    assert chunk.length == 2
