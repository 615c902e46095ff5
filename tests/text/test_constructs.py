"""Syntax of other programs is not taken for words in silence, and prose is not taken for syntax."""

from __future__ import annotations

import time
import warnings

import pytest

import sdxl
from sdxl.text.constructs import find_constructs

FOUND = {
    "a (red:1.3) cat": ["(red:1.3)"],
    "(red:.8)": ["(red:.8)"],
    "((best)) cat": ["((best))"],
    "(((best)), x)": ["(((best))"],
    "A ((BEST)) CAT": ["((BEST))"],
    "[[blurry]] x": ["[[blurry]]"],
    "[a] x [b]": ["[a]"],
    "[a] BREAK b": ["[a]", "BREAK"],
    "a cat BREAK a dog": ["BREAK"],
    "a cat AND a dog": ["AND"],
    "a [cat:dog:.5]": ["[cat:dog:.5]"],
    "a [cat:5]": ["[cat:5]"],
    "a [(cat:1.2):dog:5]": ["(cat:1.2)", "[(cat:1.2):dog:5]"],
    "a [cat|dog]": ["[cat|dog]"],
    "a {cat|dog}": ["{cat|dog}"],
    "a __colour__ cat": ["__colour__"],
    "<lora:foo:0.8> cat": ["<lora:foo:0.8>"],
    "embedding:foo, x": ["embedding:foo,"],
    "a red++ cat": ["red++"],
    "a (red cat)1.3": ["(red cat)1.3"],
    "a (red cat)--, x": ["(red cat)--"],
}
PROSE = [
    "a cat (at 9:30), broken: no",
    "a cat (it smiles :), a dog (colours: )",
    "a sign [in French] on a wall",
    "a sign (in French) on (each) wall",
    "the ratio (16:9), f/1.8, 50 %",
    "A CAT AND A DOG BREAK DOWN",
    "C:\\path\\file_name__x, snake_case",
    "a book: embedding: a story, 1 < 2 > 0",
    "{a set}, a|b",
    "a book on C++, a dog-- and a cat (red)-like, (a)1 (b)-c, x+y++z",
    "",
]


@pytest.mark.parametrize("text", FOUND)
def test_what_is_found(text: str) -> None:
    assert sorted(each.example for each in find_constructs(text, "plain")) == sorted(FOUND[text])


@pytest.mark.parametrize("text", PROSE)
def test_prose(text: str) -> None:
    assert find_constructs(text, "plain") == []


def test_what_a_syntax_reads_is_no_news() -> None:
    text = "(a:1.2) ((b)) [c] [d|e] BREAK AND <lora:x:1> embedding:y {f|g} __h__"
    assert [each.example for each in find_constructs(text, "a1111")] == ["embedding:y", "{f|g}", "__h__"]
    assert "(a:1.2)" not in [each.example for each in find_constructs(text, "comfyui")]
    negative = find_constructs("a AND <lora:x:1> [[b]]", "a1111", negative=True)
    assert [(each.example, each.readers) for each in negative] == [("AND", ()), ("<lora:x:1>", ())]
    assert find_constructs("<hypernet:x:1>", "a1111") == []  # it is left out, and a warning says so
    assert [each.example for each in find_constructs("<hypernet:x:1>", "a1111", negative=True)] == ["<hypernet:x:1>"]


def test_one_warning_lists_all(tiny_pipe: sdxl.Pipeline) -> None:
    request = sdxl.Request(
        "(a:1.2) ((b)) BREAK (c:0.5) {d|e}", negative_prompt=["[[f]]"], prompt_2="embedding:g <lora:h:1>"
    )
    with pytest.warns(sdxl.SDXLWarning) as caught:
        tiny_pipe.plan(request)
    (message,) = (str(each.message) for each in caught)
    assert message == (
        "the prompts have syntax that is words in prompt_syntax plain: prompt_syntax a1111 or comfyui reads '(a:1.2)' "
        "and 1 more, '((b))'; prompt_syntax a1111 reads 'BREAK', '<lora:h:1>', '[[f]]'; no "
        "prompt_syntax reads '{d|e}'; "
        "prompt_syntax comfyui reads 'embedding:g'"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_pipe.plan(sdxl.Request("(a:1.2) ((b)) [c] BREAK d", prompt_syntax="a1111"))


@pytest.mark.parametrize(
    "text",
    [
        *("(" * 40_000, "[" * 40_000, "(a:" * 20_000, "{" * 40_000, "__a" * 20_000, "<lora:" * 9999),
        *("[" + "|" * 99_999, "{" + "|" * 99_999, "-__a" * 25_000, "[a:" + "1" * 99_999, "(a:" + "1" * 99_999),
        *("a" * 99_999, "(" * 50_000 + "a", "a++" * 30_000),
    ],
)
def test_hostile_texts_take_little_time(text: str) -> None:
    began = time.perf_counter()
    find_constructs(text, "plain")
    assert time.perf_counter() - began < 2
