"""The grammars of prompts: against a second parser of AUTOMATIC1111's, and example by example."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest

import sdxl
from sdxl.text.editing import Tag, split_and, split_tags, stretches
from sdxl.text.emphasis import Span, a1111_spans, comfyui_spans

# ---- a second parser, letter by letter, that keeps a weight for each letter


def letters(text: str) -> list[tuple[str, float]]:
    """The letters of a prompt with their weights; "\0" is a break. Brackets are first numbered by their partners."""
    found: list[list[object]] = []
    round_, square = list[int](), list[int]()
    at = 0

    def scale(start: int, factor: float) -> None:
        for each in found[start:]:
            each[1] = float(each[1]) * factor  # type: ignore[arg-type]

    while at < len(text):
        letter = text[at]
        if letter == "\\":
            if text[at + 1 : at + 2] in tuple("()[]\\"):
                found.append([text[at + 1], 1.0])
                at += 1
        elif letter == "(":
            round_.append(len(found))
        elif letter == "[":
            square.append(len(found))
        elif letter == ":" and round_ and (end := number_end(text, at + 1)) is not None:
            scale(round_.pop(), float(text[at + 1 : end - 1].strip()))
            at = end - 1
        elif letter == ")" and round_:
            scale(round_.pop(), 1.1)
        elif letter == "]" and square:
            scale(square.pop(), 1 / 1.1)
        else:
            found.append([letter, 1.0])
        at += 1
    for start in round_:
        scale(start, 1.1)
    for start in square:
        scale(start, 1 / 1.1)
    return [(str(letter), float(weight)) for letter, weight in found]  # type: ignore[arg-type]


def number_end(text: str, at: int) -> int | None:
    """The place behind `  1.3  )`; None if this is not there."""
    while text[at : at + 1].isspace():
        at += 1
    if text[at : at + 1] in ("+", "-"):
        at += 1
    digits = dots = 0
    while text[at : at + 1].isdigit() or (text[at : at + 1] == "." and not dots):
        dots += text[at] == "."
        digits += text[at] != "."
        at += 1
    while text[at : at + 1].isspace():
        at += 1
    return at + 1 if digits and text[at : at + 1] == ")" else None


def spelled(spans: list[Span]) -> list[tuple[str, float]]:
    return [(letter, span.weight) for span in spans for letter in span.text]


def test_a_second_parser_agrees() -> None:
    choice = random.Random(0)
    alphabet = [
        "a",
        "b",
        " ",
        "cat",
        "(",
        ")",
        "[",
        "]",
        ":",
        "1",
        ".",
        "\\",
        ":1.2)",
        ":0.5 )",
        "((",
        "))",
        ",",
        "-",
        "é",
    ]
    for _ in range(5000):
        text = "".join(choice.choices(alphabet, k=choice.randint(0, 25)))
        ours, theirs = spelled(a1111_spans(text)), letters(text)
        assert [letter for letter, _ in ours] == [letter for letter, _ in theirs], text
        assert all(abs(a - b) < 1e-12 for (_, a), (_, b) in zip(ours, theirs, strict=True)), text


def test_neighbours_are_merged_and_ends_are_not_lost() -> None:
    choice = random.Random(1)
    for _ in range(500):
        spans = a1111_spans("".join(choice.choices(["(a)", "[b]", "c", " ", "(d:1.1)", "BREAK ", " BREAK"], k=8)))
        for first, second in pairwise(spans):
            assert first.breaks or first.weight != second.weight


A1111 = {
    "a (b) c": [("a ", 1), ("b", 1.1), (" c", 1)],
    "((a:1.2):1.2)": [("a", 1.44)],
    "(a (b:2):0.5)": [("a ", 0.5), ("b", 1)],
    "(a [b) c]": [("a ", 1.1), ("b", 1), (" c", 1 / 1.1)],
    "(50%:1.05)": [("50%", 1.05)],
    "(a)(b)": [("ab", 1.1)],
    "(red : 1.2 )": [("red ", 1.2)],
    "()": [("", 1)],
    "ratio 16:9": [("ratio 16:9", 1)],
    "(a:1.2.3)": [("a:1.2.3", 1.1)],  # AUTOMATIC1111 fails
    "a:1.3)": [("a:1.3)", 1)],
    "(a:-1)": [("a", -1)],
    r"\(a\) \[b\] \\ \c": [(r"(a) [b] \ c", 1)],
}


@pytest.mark.parametrize("text", A1111)
def test_examples_of_automatic1111(text: str) -> None:
    found = a1111_spans(text)
    assert [span.text for span in found] == [part for part, _ in A1111[text]]
    assert [span.weight for span in found] == pytest.approx([weight for _, weight in A1111[text]])


def test_breaks() -> None:
    def shape(text: str) -> list[tuple[str, bool]]:
        return [(span.text, span.breaks) for span in a1111_spans(text)]

    assert shape("a BREAK b") == [("a", True), ("b", False)]
    assert shape("BREAK BREAK") == [("", True), ("", True)]
    assert shape("BREAKING a") == [("BREAKING a", False)]
    assert [(s.text, s.weight, s.breaks) for s in a1111_spans("(a BREAK b:1.2)")] == [
        ("a", 1.2, True),
        ("b", 1.2, False),
    ]


COMFYUI = {
    "a (b) c": [("a ", 1), ("b", 1.1), (" c", 1)],
    "((a))": [("a", 1.21)],
    "(a (b:0.5):1.5)": [("a ", 1.5), ("b", 0.5)],
    "(a:b)": [("a:b", 1.1)],
    "(a:b:1.2)": [("a:b", 1.2)],
    "(a:1e-1)": [("a", 0.1)],
    "(a:nan)": [("a:nan", 1.1)],
    "a (b": [("a ", 1), ("(b", 1)],
    "a) (b)": [("a) (b)", 1)],
    r"\(a\)": [("(a)", 1)],
    "[a] BREAK b AND c": [("[a] BREAK b AND c", 1)],
    "(a:1.1)(b:1.1)": [("a", 1.1), ("b", 1.1)],
    "": [("", 1)],
}


@pytest.mark.parametrize("text", COMFYUI)
def test_examples_of_comfyui(text: str) -> None:
    found = comfyui_spans(text)
    assert [span.text for span in found] == [part for part, _ in COMFYUI[text]]
    assert [span.weight for span in found] == pytest.approx([weight for _, weight in COMFYUI[text]])


STRETCHES = {
    "[red:blue:0.5] ball": [("red ball", 3), ("blue ball", 6)],
    "[blue:3]": [("", 3), ("blue", 6)],
    "[red::2] x": [("red x", 2), (" x", 6)],
    "[a|b|c]": [("a", 1), ("b", 2), ("c", 3), ("a", 4), ("b", 5), ("c", 6)],
    "[a|]x": [("ax", 1), ("x", 2), ("ax", 3), ("x", 4), ("ax", 5), ("x", 6)],
    "[a:b]": [("[a:b]", 6)],
    "[a:b:c]": [("[a:b:c]", 6)],
    "[a:b:c:1]": [("[a:b:c:1]", 6)],
    "[a:b|c:2]": [("[a:b|c:2]", 6)],
    "[(red:1.2):blue:0.5]": [("(red:1.2)", 3), ("blue", 6)],
    "[[a:b:2]:c:4]": [("a", 2), ("b", 4), ("c", 6)],
    "[[a|b]:c:3]": [("a", 1), ("b", 2), ("a", 3), ("c", 6)],
    "[a (b:0.5]": [("[a (b:0.5]", 6)],
    r"\[a:b:2\]": [(r"\[a:b:2\]", 6)],
    "[a:b:1.0]": [("a", 6)],
    "[a:b:1]": [("a", 1), ("b", 6)],
    "[a:b:-1]": [("b", 6)],
    "[a:b:1e999]": [("a", 6)],
    "x [y] z": [("x [y] z", 6)],
}


@pytest.mark.parametrize("text", STRETCHES)
def test_editing(text: str) -> None:
    assert [(each.text, each.last) for each in stretches(text, 6)] == STRETCHES[text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[red:blue:0.5] ball", [("blue ball", 4)]),
        ("[red:blue:1.0] ball", [("blue ball", 4)]),
        ("[red:blue:1.5] ball", [("red ball", 2), ("blue ball", 4)]),
        ("[red:blue:2.0] ball", [("red ball", 4)]),
        ("[red:blue:10] ball", [("blue ball", 4)]),
        ("[red:blue:13] ball", [("red ball", 3), ("blue ball", 4)]),
        ("[a::0.8]x", [("x", 4)]),
        ("[a|b]", [("a", 1), ("b", 2), ("a", 3), ("b", 4)]),
        ("[[a:b:0.5]:c:1.25]", [("b", 1), ("c", 4)]),
    ],
)
def test_editing_in_a_second_pass(text: str, expected: list[tuple[str, int]]) -> None:
    """AUTOMATIC1111 subtracts the first pass's steps from whole numbers, and 1 from numbers with a point."""
    assert [(each.text, each.last) for each in stretches(text, 4, before=10)] == expected


def test_and_and_tags() -> None:
    assert split_and("a cat :1.2 AND a dog") == [("a cat", 1.2), (" a dog", 1)]
    assert split_and("a cat AND a dog:-0.5 ") == [("a cat", 1), (" a dog", -0.5)]
    assert split_and("ratio 16:9") == [("ratio 16:9", 1)]
    assert split_and("SAND ANDROID") == [("SAND ANDROID", 1)]
    text, tags = split_tags("a <lora:ink:0.5:1> b <hypernet:x:te=1>")
    assert text == "a  b "
    assert tags == [Tag("lora", "ink", ("0.5", "1")), Tag("hypernet", "x", ("te=1",))]


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "(" * 50_000, "[a:" * 20_000, "(a:" * 20_000, "[a|b]" * 10_000, "<lora:" * 20_000]
)
def test_hostile_texts_take_little_time(text: str) -> None:
    start = time.perf_counter()
    for each in stretches(text, 4):
        a1111_spans(each.text)
    comfyui_spans(text)
    comfyui_spans("(" * 20_000 + text + ")" * 20_000)
    split_and(text)
    split_tags(text)
    assert time.perf_counter() - start < 5


def test_a_prompt_that_is_parsed_has_a_bound() -> None:
    for text in ("(" * 10**6, "[a:" * 10**6):
        sdxl.Request(text)
        with pytest.raises(
            sdxl.ArgumentError, match=r"has .* characters; expected at most 65536 with prompt_syntax 'a1111'"
        ):
            sdxl.Request(text, prompt_syntax="a1111")


BLANKS, DIGITS = " \n" * 50_000, "1" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        *(BLANKS, f"a{BLANKS}b", f"a AND b{BLANKS}c", f"a AND b :{BLANKS}c", f"a AND b :{DIGITS}c"),
        *(f"(a:{BLANKS}", f"(a:{DIGITS}", f"[a:{DIGITS}]", f"[a:{BLANKS}]", f"[a:b:{DIGITS}c]", f"<lora:{BLANKS}"),
        *(f"a{BLANKS}BREAK{BLANKS}b", "BREAK " * 20_000, "[a|" * 30_000, "<" * 99_999, "\\" * 99_999),
    ],
    ids=repr,
)
def test_a_long_text_takes_time_in_proportion(text: str) -> None:
    began = time.perf_counter()
    split_tags(text)
    split_and(text)
    stretches(text, 4)
    a1111_spans(text)
    comfyui_spans(text)
    assert time.perf_counter() - began < 2


def test_parts_have_a_bound() -> None:
    """Each is a pass of the network at each step."""
    assert len(split_and(" AND ".join(["a"] * 32))) == 32
    with pytest.raises(sdxl.ArgumentError, match="has 33 parts joined by AND; expected at most 32"):
        split_and(" AND ".join(["a"] * 33))
