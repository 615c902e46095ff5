"""The tokens of a prompt, from Python and from the command line."""

from __future__ import annotations

from typing import Any

import pytest

import sdxl
from sdxl.cli.main import main


def test_one_entry_for_each_text_encoder(tiny_pipe: sdxl.Pipeline) -> None:
    first, second = tiny_pipe.tokenize("a (red:1.3) cat BREAK dog", prompt_syntax="a1111")
    assert (first.encoder, second.encoder) == ("text_encoder", "text_encoder_2")
    assert first.lengths == [3, 1]
    for each, stage in zip((first, second), tiny_pipe.text, strict=True):
        assert each.ids == stage.tokenizer(["a red cat", "dog"])
        assert each.weights == [[1, 1, 1.3] + [1] * 74, [1] * 77]
        assert [len(row) for rows in (each.ids, each.weights, each.tokens) for row in rows] == [77] * 6
        assert each.tokens[0][:5] == ["<|startoftext|>", "a ", "red ", "cat ", "<|endoftext|>"]


def test_text_by_text(tiny_pipe: sdxl.Pipeline) -> None:
    assert tiny_pipe.tokenize("a <lora:x:1>")[0].lengths[0] > 5
    assert tiny_pipe.tokenize("a <lora:x:1>", prompt_syntax="a1111")[0].lengths == [1]
    assert len(tiny_pipe.tokenize("cat " * 160)[0].ids) == 3
    with pytest.warns(sdxl.SDXLWarning, match="part was cut off"):
        assert len(tiny_pipe.tokenize("cat " * 160, long_prompt="truncate")[0].ids) == 1
    for text in ("a AND b", "[a:b:3]", "[a|b]"):
        with pytest.raises(sdxl.ArgumentError, match="; give one of them"):
            tiny_pipe.tokenize(text, prompt_syntax="a1111")
    with pytest.raises(sdxl.ArgumentError, match="prompt_syntax is 'sgml'"):
        tiny_pipe.tokenize("a", prompt_syntax="sgml")


def shown(capsys: Any, *arguments: str) -> list[str]:
    assert main(["tokens", *arguments]) == 0
    return str(capsys.readouterr().out).splitlines()


def test_the_command(capsys: Any) -> None:
    lines = shown(capsys, "a (red:1.3) cat BREAK a dog", "--prompt-syntax", "a1111")
    assert [line for line in lines if line.startswith("chunk")] == [
        "chunk 1 of 2: 3 of 75 tokens",
        "chunk 2 of 2: 2 of 75 tokens",
    ]
    assert [line.split() for line in lines[1:6]] == [
        ["0", "49406", "<|startoftext|>"],
        ["1", "320", "a"],
        ["2", "736", "red", "1.3"],
        ["3", "2368", "cat"],
        ["4", "49407", "<|endoftext|>"],
    ]
    assert lines[6].split() == ["49407", "/", "0", "72", "pads"]


def test_the_command_shows_parts_changes_and_loras(capsys: Any) -> None:
    arguments = ("[a:b:0.5] <lora:x:0.4:1> AND c :0.5", "--prompt-syntax", "a1111", "--steps", "4")
    lines = [line for line in shown(capsys, *arguments) if not line[0].isspace() and not line.startswith("chunk")]
    assert lines == [
        "LoRA x, weight 1, of the text encoders 0.4",
        "part 1, weight 1, up to step 2 of 4: a",
        "part 1, weight 1, up to step 4 of 4: b",
        "part 2, weight 0.5, up to step 4 of 4:  c",
    ]


def test_the_command_with_a_model_and_with_wrong_arguments(capsys: Any) -> None:
    assert "619" in shown(capsys, "a cat", "--model", "miniature")[-2]
    assert main(["tokens", "a", "--embedding-dir", "x"]) == 2
    assert main(["tokens", "a", "--steps", "0"]) == 2
    assert "give --model" in capsys.readouterr().err
