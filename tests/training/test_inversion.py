"""Textual inversion: the vectors alone are trained, and the file has what a prompt needs."""

from pathlib import Path

import pytest
import torch

import sdxl
from sdxl.errors import ArgumentError
from sdxl.models.clip import TextEncoder
from sdxl.text import with_tokens
from sdxl.training.inversion import WordEncoder, save_embedding
from sdxl.training.lora import load_network
from sdxl.weights import TensorFile, open_checkpoint
from sdxl.weights.keymap import TEXT, TEXT_2


def test_a_word_encoder_encodes_as_with_tokens_does(
    tiny_folder: Path, tiny_pipe: sdxl.Pipeline, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    components, saved = open_checkpoint(tiny_folder).components, {}
    texts = ["a zyx cat", "zyx zyx", "a dog"]
    for name, stage in zip((TEXT, TEXT_2), tiny_pipe.text, strict=True):
        plain, word = load_network(components[name]), stage.tokenizer.ids("zyx")
        ids = torch.tensor(stage.tokenizer(texts))
        encoder = saved[name] = WordEncoder(plain, word)
        assert torch.equal(encoder(ids)[0], plain(ids)[0])

        torch.nn.init.normal_(encoder.vectors)
        states, pooled = encoder(ids)
        states.square().sum().backward()
        assert encoder.vectors.grad is not None
        assert encoder.vectors.grad.any(dim=1).all()
        assert all(weight.grad is None for weight in plain.parameters())
        expected = with_tokens(stage, {"zyx": encoder.vectors.detach()}).encode(texts, 0)
        assert torch.allclose(states, expected[0], atol=1e-5)
        assert pooled is None or torch.allclose(pooled, expected[1], atol=1e-5)

    save_embedding(tmp_path / "zyx.safetensors", saved, {"modelspec.title": "zyx"})
    file = TensorFile(tmp_path / "zyx.safetensors")
    assert {key: tuple(shape) for key, shape in file.shapes.items()} == {"clip_g": (3, 32), "clip_l": (3, 16)}
    assert torch.equal(file.read("clip_l"), saved[TEXT].vectors.half())


def test_a_word_that_overlaps_itself_is_found_as_in_use(tiny_folder: Path, tiny_pipe: sdxl.Pipeline) -> None:
    stage, word = tiny_pipe.text[0], "ha ha"
    encoder = load_network(open_checkpoint(tiny_folder).components[TEXT])
    assert isinstance(encoder, TextEncoder)
    learned = WordEncoder(encoder, stage.tokenizer.ids(word))
    torch.nn.init.normal_(learned.vectors)
    texts = ["ha ha ha ha ha ha", "ha"]
    expected = with_tokens(stage, {word: learned.vectors.detach()}).encode(texts, 0)[0]
    assert torch.allclose(learned(torch.tensor(stage.tokenizer(texts)))[0], expected, atol=1e-5)


def test_no_word_and_the_vectors_of_one_encoder_are_errors(tiny_folder: Path, tmp_path: Path) -> None:
    encoder = load_network(open_checkpoint(tiny_folder).components[TEXT])
    assert isinstance(encoder, TextEncoder)
    with pytest.raises(ArgumentError, match="word has no tokens"):
        WordEncoder(encoder, [])
    for names in ([TEXT], ["text", TEXT_2]):
        learned = {name: WordEncoder(encoder, [5]) for name in names}
        with pytest.raises(ArgumentError, match="expected text_encoder and text_encoder_2"):
            save_embedding(tmp_path / "word.safetensors", learned, {})
