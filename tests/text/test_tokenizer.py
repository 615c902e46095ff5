"""The tokenizer against transformers' fast CLIP tokenizer, id by id."""

from __future__ import annotations

import random
import time
import warnings
from pathlib import Path

import pytest

from sdxl.errors import CheckpointError, SDXLWarning
from sdxl.text import vocabulary
from sdxl.text.learn import learn_vocabulary
from sdxl.text.tokenizer import Tokenizer
from sdxl.text.vocabulary import CLIP_G, CLIP_L
from sdxl.weights.tokenizer_files import read_folder, write_folder

NASTY = """
|a|A mecha robot in a favela in expressionist style|hello!|!|!!! wow !!|what?!|it's, we're, I'll, they'd|don't   stop
ΣΑΣ ὈΔΥΣΣΕΎΣ|İstanbul ıI|straße ﬁne ﬂow|café café|naïve coöperate|日本語のテキスト|漢字 kanji 한국어 조합|العربية نص|עברית|हिन्दी
👍🏽 emoji 👨‍👩‍👧‍👦 family|🇩🇪 flags ❤️|“curly” ‘quotes’ — dash…|ＦＵＬＬ　ｗｉｄｔｈ|&amp; &lt;b&gt; &quot;|a&nbsp;b|mojibake â€™ Ã©|\ufeffbom|zero\u200bwidth
tab\tand\nnewline\r\n|  leading and trailing  |\u00a0nbsp\u2003em space|control\x00\x01\x1f|\x7f del|1234567890|3.14 1,000 1/2 ½ ²|C++ C# .NET
<|startoftext|>|<|endoftext|>|a <|endoftext|> b|<|ENDOFTEXT|> upper|<start_of_text>|<end_of_text>|(masterpiece:1.2), [ugly], {best|quality}
__underscore__ snake_case|kebab-case|camelCase|http://example.com/?q=1&x=2#y|user@example.com|\\backslash \\(paren\\)|$100 €5 £3|100%
<lora:name:0.8>|a:b;c,d.e|....!!!,,,|--ar 16:9 --v 5|'s 't 're 've 'm 'll 'd|'S 'T|''''|\"\"\"|```|~~~|^^^|***|###|@@@
supercalifragilisticexpialidocious|pneumonoultramicroscopicsilicovolcanoconiosis|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|AAAA bbbb
"""


def texts() -> list[str]:
    """At least 200 varied strings."""
    generator = random.Random(0)
    strings = NASTY.strip("\n").replace("\n", "|").split("|")
    strings += [NASTY, NASTY[:200], " ".join(["word"] * 74), " ".join(["word"] * 75), " ".join(["word"] * 76)]
    words = [word for text in strings for word in text.split()]
    alphabet = "abcXYZ !?.,'’09éßñΣσжЖ中文字👍\n\t<>|&;:-_()[]{}\u0301\u200d"
    while len(strings) < 320:
        strings.append(" ".join(generator.choices(words, k=generator.randint(1, 30))))
        strings.append("".join(generator.choices(alphabet, k=generator.randint(1, 60))))
    return strings


@pytest.mark.filterwarnings("ignore::sdxl.errors.SDXLWarning")
@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"], ids=["tokenizer", "tokenizer_2"])
@pytest.mark.parametrize("saved_by", ["files", "tokenizer.json"])
def test_ids_equal_transformers(pad: str, saved_by: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    table = vocabulary.clip_vocabulary()
    reference = transformers.CLIPTokenizer(
        vocab=dict(table.ids), merges=list(table.merges), pad_token=pad, model_max_length=77
    )
    if saved_by == "files":
        config = vocabulary.TokenizerConfig(pad=pad)
        write_folder(config, tmp_path)
        reference = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    else:
        reference.save_pretrained(tmp_path)
        assert not (tmp_path / "vocab.json").exists()
    ours = Tokenizer(read_folder(tmp_path))
    assert ours.config.vocabulary is None, "CLIP's own vocabulary is recognised"
    strings = texts()
    assert len(strings) >= 200
    expected = reference(strings, padding="max_length", truncation=True, max_length=77).input_ids
    for text, row, want in zip(strings, ours(strings), expected, strict=True):
        assert row == want, repr(text)


def test_known_ids() -> None:
    """Ids published with CLIP and OpenCLIP."""
    assert len(vocabulary.clip_vocabulary().ids) == 49408
    row = Tokenizer(CLIP_L)(["hello!"])[0]
    assert row[:4] == [49406, 3306, 256, 49407]
    assert set(row[4:]) == {49407}
    assert len(row) == 77
    row = Tokenizer(CLIP_G)(["hello!"])[0]
    assert row[:4] == [49406, 3306, 256, 49407], "without files, an exclamation mark is an ordinary token"
    assert set(row[4:]) == {0}


def test_exclamation_mark_in_a_folder(tmp_path: Path) -> None:
    write_folder(CLIP_G, tmp_path)
    row = Tokenizer(read_folder(tmp_path))(["hello!"])[0]
    assert row[:4] == [49406, 3306, 0, 49407]


def test_truncation_names_the_text_that_is_cut_off() -> None:
    text = " ".join(["cat"] * 75) + " A Dog, and more"
    with pytest.warns(SDXLWarning, match=r"80 tokens and the text encoder takes 75; .*cut off: 'A Dog, and more'"):
        row = Tokenizer(CLIP_L)([text])[0]
    assert len(row) == 77
    assert row[-1] == 49407


@pytest.mark.parametrize(
    "text", ["a red cat, ", "\n猫 ", "abcdefg", "(: ", "a" + " " * 40_000], ids=lambda text: repr(text[:9])
)
def test_a_huge_text_costs_no_more_than_its_beginning(text: str) -> None:
    """The ids are those of all of it, and the warning repeats little of it."""
    huge, tokenizer = text * (10**6 // len(text)), Tokenizer(CLIP_L)
    is_short = len(text) > 99
    whole = tokenizer._backend.encode(huge[: None if is_short else 100_000], add_special_tokens=False).ids
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        row = tokenizer([huge])[0]
    assert time.perf_counter() - began < 1
    assert row[1:-1] == (whole + [49407] * 75)[:75]
    assert all(len(str(each.message)) < 300 for each in caught)
    assert len(caught) == (not is_short)


def test_shorter_encoder() -> None:
    assert Tokenizer(CLIP_L, positions=12)(["a cat"])[0][-8:] == [49407] * 8
    assert len(Tokenizer(CLIP_L, positions=12)(["a cat"])[0]) == 12


def test_json_round_trip() -> None:
    import json

    import tiny

    ids, merges = tiny.vocabulary()
    own = vocabulary.TokenizerConfig(pad="!", length=40, vocabulary=vocabulary.Vocabulary(ids, tuple(merges)))
    for config in (CLIP_L, CLIP_G, own):
        assert vocabulary.TokenizerConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither vocab\.json"):
        read_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    with pytest.raises(CheckpointError, match="not a CLIP tokenizer"):
        read_folder(tmp_path)


def test_a_vocabulary_is_learned() -> None:
    """The words that are there often become tokens of their own, by pairs of what was a token before."""
    texts = ["a red cat in the favela", "a red dog"]
    learned = learn_vocabulary(texts, 518)
    assert len(learned.ids) == 518
    assert {"a</w>", "red</w>"} <= set(learned.ids)
    assert "favela</w>" not in learned.ids, "there is no room for all words"
    known = {token for token in learned.ids if len(token.removesuffix("</w>")) == 1}
    for first, second in learned.merges:
        assert {first, second} <= known
        known.add(first + second)
    assert known | {CLIP_L.bos, CLIP_L.eos} == set(learned.ids)
