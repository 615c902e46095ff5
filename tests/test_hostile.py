"""Broken and hostile files: each is refused with a sentence, in little time and memory, or loads as it declares."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import fuzz_checkpoint
import pytest
import torch
from damage import write_valid
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.errors import CheckpointError, ConfigError, SDXLError
from sdxl.models.published import BASE
from sdxl.pipeline.network_loading import load as load_network
from sdxl.runtime.placement import choose_placement
from sdxl.text.tokenizer import Tokenizer
from sdxl.weights.checkpoint import Checkpoint, open_checkpoint, open_component
from sdxl.weights.container import TensorFile, open_shards
from sdxl.weights.folder import MOST_JSON
from sdxl.weights.info import METADATA_KEY
from sdxl.weights.tokenizer_files import read_folder

NOT_THERE = object()
DEEP = "[" * 100_000
UNET_KEY = "model.diffusion_model.out.2.bias"


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.safetensors` and the diffusers folder `model`."""
    folder: Path = tmp_path_factory.mktemp("valid")
    write_valid(folder)
    return folder


@pytest.fixture
def folder(valid: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(valid / "model", tmp_path / "model"))


@pytest.fixture
def edit(valid: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], object]], Path]:
    """The single file with other tensors."""

    def make(change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        tensors = load_file(valid / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "edited.safetensors", TensorFile(valid / "model.safetensors").metadata)
        return tmp_path / "edited.safetensors"

    return make


def load(path: Path) -> Checkpoint:
    """Open, and read every weight."""
    checkpoint = open_checkpoint(path)
    for component in checkpoint.components.values():
        load_network(component, choose_placement(torch.device("cpu"), torch.float32))
    return checkpoint


def complaint(path: Path) -> str:
    """The error when a model is opened; empty if it opens. Errors that are not typed are raised."""
    try:
        open_checkpoint(path)
    except SDXLError as error:
        return str(error)
    return ""


# ---- headers -------------------------------------------------------------------------------------------------------

A, B = "first.weight", "second.weight"
HEADER: dict[str, Any] = {
    A: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    B: {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
}


def tensors(first: dict[str, Any] | None = None, second: dict[str, Any] | None = None, **more: Any) -> str:
    """The header with some fields of its two tensors changed."""
    return json.dumps({A: HEADER[A] | (first or {}), B: HEADER[B] | (second or {}), **more})


def write(path: Path, header: str | bytes, length: int | None = None, numbers: int = 32) -> Path:
    """A file with this header in front of its numbers."""
    data = header if isinstance(header, bytes) else header.encode()
    path.write_bytes((len(data) if length is None else length).to_bytes(8, "little") + data + bytes(numbers))
    return path


LIES = {
    "no JSON": (tensors()[:-1], "cannot be read as safetensors"),
    "not UTF-8": (tensors().encode().replace(b"first", b"\xff\xfe"), "cannot be read as safetensors"),
    "a list": ("[1, 2]", "is not a safetensors file"),
    "deep lists": ('{"a": ' + DEEP, "cannot be read as safetensors"),
    "deep objects": ('{"a": ' * 50_000, "cannot be read as safetensors"),
    "a long number": ('{"a": ' + "9" * 5000 + "}", "cannot be read as safetensors"),
    "a tensor twice": (tensors()[:-1] + f', "{A}": {json.dumps(HEADER[A])}}}', "'first.weight' occurs twice"),
    "a field twice": (tensors().replace('{"dtype"', '{"dtype": "F64", "dtype"', 1), "'dtype' occurs twice"),
    "no object": (tensors(third=[5]), "third is not described by dtype, shape and data_offsets"),
    "a field too few": (tensors(third={"dtype": "F32", "shape": []}), "third is not described"),
    "a field too many": (tensors({"stride": [3, 1]}), "first.weight is not described"),
    "dtype no string": (tensors({"dtype": 5}), "first.weight is not described"),
    "shape no list": (tensors({"shape": 6}), r"first.weight has the shape 6"),
    "shape of strings": (tensors({"shape": ["2", "3"]}), "first.weight has the shape"),
    "shape of booleans": (tensors({"shape": [True, 6]}), "first.weight has the shape"),
    "shape of fractions": (tensors({"shape": [2.0, 3.0]}), "first.weight has the shape"),
    "negative shape": (tensors({"shape": [-2, -3]}), r"first.weight has the shape \[-2, -3\]"),
    "overflowing number": (tensors({"shape": [2**64]}), "first.weight has the shape"),
    "overflowing shape": (tensors({"shape": [2**32, 2**32]}), "first.weight has the shape"),
    "overflowing empty shape": (
        tensors(third={"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [32, 32]}),
        "third has the shape",
    ),
    "too many dimensions": (tensors({"shape": [1] * 20 + [6]}), "first.weight has the shape"),
    "another shape": (tensors({"shape": [2, 2]}), r"first.weight has 24 bytes, F32 of shape \[2, 2\] takes 16"),
    "another dtype": (tensors({"dtype": "F64"}), r"first.weight has 24 bytes, F64 of shape \[2, 3\] takes 48"),
    "offsets no list": (tensors({"data_offsets": 0}), "first.weight has the data_offsets 0"),
    "three offsets": (tensors({"data_offsets": [0, 8, 24]}), "first.weight has the data_offsets"),
    "negative offsets": (tensors({"data_offsets": [-24, 0]}), r"first.weight has the data_offsets \[-24, 0\]"),
    "backward offsets": (tensors({"data_offsets": [24, 0]}), r"first.weight has the data_offsets \[24, 0\]"),
    "overlap": (tensors(None, {"data_offsets": [16, 24]}), "second.weight begins at byte 16, expected 24"),
    "the same bytes": (tensors(third=HEADER[B]), "begins at byte 24, expected 32"),
    "gap": (tensors(None, {"data_offsets": [28, 36]}), "second.weight begins at byte 28, expected 24"),
    "after the file": (tensors(third=HEADER[B] | {"data_offsets": [32, 40]}), "it has .* bytes, its header describes "),
    "unnamed bytes": (json.dumps({A: HEADER[A]}), "it has .* bytes, its header describes "),
    "metadata no object": (tensors(__metadata__=["a"]), "its __metadata__ is not an object of strings"),
    "metadata no strings": (tensors(__metadata__={"a": {"b": 1}}), "its __metadata__ is not an object of strings"),
    "name with an escape code": (tensors(**{"\x1b[2J": HEADER[B]}), r"'\\x1b\[2J' is not a valid name of a tensor"),
    "name of half a letter": (tensors(**{"\ud800": HEADER[B]}), "is not a valid name of a tensor"),
    "long name": (tensors(**{"x" * 10**6: HEADER[B]}), r"'xxx.*\.\.\..*xxx' is not a valid name of a tensor"),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(lie: str, tmp_path: Path) -> None:
    header, sentence = LIES[lie]
    with pytest.raises(CheckpointError, match=sentence) as caught:
        TensorFile(write(tmp_path / "lie.safetensors", header))
    assert str(caught.value).startswith(f"{tmp_path / 'lie.safetensors'} ")
    assert len(str(caught.value)) < 1000


def test_an_honest_header(tmp_path: Path) -> None:
    """Empty tensors, an unknown dtype that is not read, null metadata, trailing spaces, any order."""
    empty = {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [24, 24]}
    strange = {"dtype": "F4", "shape": [4], "data_offsets": [32, 34]}
    header = tensors(empty=empty, strange=strange, __metadata__=None) + "   "
    file = TensorFile(write(tmp_path / "a.safetensors", header, numbers=34))
    assert file.metadata == {}
    assert file.shapes == {A: (2, 3), B: (4,), "empty": (0, 2**40), "strange": (4,)}
    assert file.read(A).tolist() == [[0.0] * 3] * 2
    assert file.read("empty").shape == (0, 2**40)
    with pytest.raises(CheckpointError, match="strange has dtype 'F4', which this torch does not support"):
        file.read("strange")


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**40, 2**63, 2**64 - 1])
def test_lengths_that_lie(length: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        TensorFile(write(tmp_path / "lie.safetensors", tensors(), length))


WORST = {
    "lists": lambda: '{"a": [' + "[]," * (MOST_JSON // 3 - 10) + "[]]}",
    "objects": lambda: '{"a": [' + "{}," * 399_990 + "{}]}",
    "keys": lambda: "{" + ",".join(f'"{n:x}":0' for n in range(MOST_JSON // 10)) + "}",
    "numbers": lambda: '{"a": [' + "999," * (MOST_JSON // 4 - 10) + "1]}",
    "metadata": lambda: '{"__metadata__": {' + ",".join(f'"{n:x}":""' for n in range(MOST_JSON // 11)) + "}}",
}


@pytest.mark.parametrize("content", WORST)
def test_the_worst_header(content: str, tmp_path: Path) -> None:
    """A header below the limit takes a limited time."""
    path = write(tmp_path / "below.safetensors", WORST[content]())
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"below\.safetensors cannot be read as safetensors"):
        TensorFile(path)
    assert time.process_time() - began < 2


def test_a_large_header(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"header of {MOST_JSON + 1} bytes; expected at most {MOST_JSON}"):
        TensorFile(write(tmp_path / "above.safetensors", tensors().ljust(MOST_JSON + 1)))


def test_a_file_that_changes(valid: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(valid / "model.safetensors", tmp_path))
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        dict(checkpoint.components["unet"].tensors())


def test_a_file_of_the_same_size_that_takes_the_place_of_another(valid: Path, tmp_path: Path) -> None:
    """A model whose layers are read again, such as without a LoRA, would be a mixture of two."""
    path = Path(shutil.copy(valid / "model.safetensors", tmp_path))
    checkpoint = open_checkpoint(path)
    other = Path(shutil.copy(path, tmp_path / "other.safetensors"))
    os.utime(other, ns=(0, path.stat().st_mtime_ns + 1))
    os.replace(other, path)
    with pytest.raises(CheckpointError, match="has changed since it was opened; open the model again"):
        dict(checkpoint.components["unet"].tensors())


# ---- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_load(value: float, edit: Any) -> None:
    path = edit(lambda t: t[UNET_KEY].fill_(value))
    at = choose_placement(torch.device("cpu"), torch.float32, streamed=True)
    model = load_network(open_checkpoint(path).components["unet"], at)
    assert not all(value.isfinite().all() for value in model.parameters())


def test_eight_bit_and_mixed_floats_load(edit: Any, valid: Path) -> None:
    dtypes = (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64, torch.float16)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for n, key in enumerate(sorted(tensors)):
            tensors[key] = tensors[key].to(dtypes[n % len(dtypes)])

    path = edit(change)
    load(path)
    for name, component in open_checkpoint(path).components.items():
        expected = dict(open_checkpoint(valid / "model.safetensors").components[name].tensors())
        for key, value in component.tensors():
            torch.testing.assert_close(value.float(), expected[key].float(), rtol=0.13, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_integers_are_no_weights(dtype: torch.dtype, edit: Any) -> None:
    path = edit(lambda t: t.update({UNET_KEY: t[UNET_KEY].to(dtype)}))
    with pytest.raises(CheckpointError, match=r"out\.2\.bias has dtype '\w+'; expected F64, F32, F16"):
        open_checkpoint(path)


def test_integers_beside_the_weights_are_ignored(edit: Any) -> None:
    key = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"
    open_checkpoint(edit(lambda t: t.update({key: torch.arange(77)[None]})))


@pytest.mark.parametrize("kept", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["inferred", "described"])
def test_empty_tensors(kept: bool, valid: Path, tmp_path: Path) -> None:
    """Every tensor in turn without numbers, and without dimensions."""
    whole = load_file(valid / "model.safetensors")
    metadata = TensorFile(valid / "model.safetensors").metadata if kept else None
    for key in list(whole)[::24]:
        for empty in (torch.zeros(0), torch.zeros(0, 2**40), torch.zeros(())):
            if not key.endswith(("position_ids", "logit_scale")):
                save_file(whole | {key: empty}, tmp_path / "e.safetensors", metadata)
                with pytest.raises(CheckpointError, match=r"e\.safetensors"):
                    open_checkpoint(tmp_path / "e.safetensors")


# ---- JSON files ----------------------------------------------------------------------------------------------------

JSON_FILES = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/special_tokens_map.json",
    "unet/diffusion_pytorch_model.safetensors.index.json",
)
QUICK_FILES = ("model_index.json", "unet/config.json", "text_encoder/config.json")


@pytest.mark.filterwarnings("ignore::sdxl.errors.SDXLWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in QUICK_FILES else pytest.mark.slow) for each in JSON_FILES]
)
def test_every_field_of_any_type(name: str, folder: Path) -> None:
    """Each field in turn missing or of another type: the folder opens or a typed error is raised, without delay."""
    data = json.loads((folder / name).read_text())
    texts = ["null", "[]", '"x"', '{"a": 1}', "true", "-1", "1" + "0" * 400, "NaN", "[null]", DEEP[:900] + "]" * 900]
    for key in list(data)[:24]:
        without = {other: data[other] for other in data if other != key}
        for text in (*texts, None):
            spoilt = json.dumps(without)[:-1] + (", " if without else "") + f"{json.dumps(key)}: {text}}}"
            (folder / name).write_text(json.dumps(without) if text is None else spoilt)
            began = time.process_time()
            assert len(complaint(folder)) < 2000, (key, text)
            assert time.process_time() - began < 2, (key, text)


@pytest.mark.filterwarnings("ignore::sdxl.errors.SDXLWarning")
def test_every_field_of_the_metadata(valid: Path, tmp_path: Path) -> None:
    header, numbers = split(valid / "model.safetensors")
    info = json.loads(header["__metadata__"][METADATA_KEY])
    paths: list[Any] = [(key,) for key in info] + [("tokenizers", key) for key in info["tokenizers"]]
    paths += [("tokenizers", "text_encoder", key) for key in info["tokenizers"]["text_encoder"]]
    for keys in paths:
        values: list[Any] = [None, [], "x", {}, True, -1, 10**12, 1e300, float("nan"), [None, None]]
        for value in values:
            spoilt = json.loads(json.dumps(info))
            inner = spoilt
            for key in keys[:-1]:
                inner = inner[key]
            inner[keys[-1]] = value
            header["__metadata__"][METADATA_KEY] = json.dumps(spoilt)
            write(tmp_path / "m.safetensors", json.dumps(header), numbers=numbers)
            error = complaint(tmp_path / "m.safetensors")
            assert not error or error.startswith(str(tmp_path / "m.safetensors")), (keys, value)


def split(path: Path) -> tuple[dict[str, Any], int]:
    """A file's header, and the number of bytes after it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), len(data) - 8 - length


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 100_000, "[]", "5", "null"], ids=["lists", "objects", "[]", "5", "null"]
)
def test_metadata_that_is_no_object(text: str, valid: Path, tmp_path: Path) -> None:
    header, numbers = split(valid / "model.safetensors")
    header["__metadata__"][METADATA_KEY] = text
    path = write(tmp_path / "m.safetensors", json.dumps(header), numbers=numbers)
    with pytest.raises(CheckpointError, match=r"m\.safetensors, metadata sdxl\.model (cannot be read|is not)"):
        open_checkpoint(path)


SPOILERS: dict[str, Callable[[Path], object]] = {
    "bomb of lists": lambda path: path.write_text(DEEP),
    "bomb of objects": lambda path: path.write_text('{"a":' * 100_000),
    "long number": lambda path: path.write_text('{"in_channels": ' + "9" * 10_000 + "}"),
    "not UTF-8": lambda path: path.write_bytes(b'{"a": "\xff\xfe"}'),
    "too large": lambda path: path.write_text("{}".ljust(MOST_JSON + 1)),
    "too many lists": lambda path: path.write_text('{"a": [' + "[]," * 500_000 + "[]]}"),
    "a list": lambda path: path.write_text("[]"),
    "empty": lambda path: path.write_text(""),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe without a writer": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
    "an endless device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}
OPTIONAL = ("tokenizer/tokenizer_config.json", "tokenizer_2/special_tokens_map.json")


@pytest.mark.parametrize("spoiler", SPOILERS)
@pytest.mark.parametrize("name", [*JSON_FILES, "tokenizer/merges.txt"])
def test_json_files_that_are_none(name: str, spoiler: str, folder: Path) -> None:
    SPOILERS[spoiler](folder / name)
    ignored = name in OPTIONAL and not (folder / name).is_file()
    harmless = ignored or (name, spoiler) == ("tokenizer/merges.txt", "empty")
    began = time.process_time()
    with nullcontext() if harmless else pytest.raises(CheckpointError):
        open_checkpoint(folder)
    assert time.process_time() - began < 2


def change_json(path: Path, *keys: Any, value: Any) -> None:
    """Set one value in a JSON file, or remove it."""
    data = json.loads(path.read_text())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    if value is NOT_THERE:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(data))


ABSURD: list[tuple[str, str, Any, str]] = [
    ("unet", "layers_per_block", 10**9, "layers_per_block is"),
    ("unet", "transformer_layers_per_block", 10**9, "transformer layers of the UNet: 7000000000"),
    ("unet", "transformer_layers_per_block", 256, "transformer layers of the UNet: "),
    ("unet", "transformer_layers_per_block", [[1], [1, -1]], "transformer_layers_per_block has"),
    ("unet", "down_block_types", ["DownBlock2D"] * 1000, "down_block_types has 1000 levels"),
    ("unet", "down_block_types", [["DownBlock2D"]], "down_block_types is"),
    ("unet", "block_out_channels", [10**12, 10**12], "channels and widths of the UNet: 1000000000000"),
    ("unet", "block_out_channels", [-8, 16], "block_out_channels is"),
    ("unet", "block_out_channels", [12, 18], "18 channels does not divide into 4 norm groups"),
    ("unet", "attention_head_dim", [3, 5], "does not divide into 4 norm groups and 5 attention heads"),
    ("unet", "attention_head_dim", -2, "attention_head_dim is"),
    ("unet", "norm_num_groups", 7, "does not divide into 7 norm groups"),
    ("unet", "norm_num_groups", 0, "norm_num_groups is 0"),
    ("unet", "norm_eps", -1, "norm_eps: -1"),
    ("unet", "cross_attention_dim", [[1], [2]], "cross_attention_dim is"),
    ("unet", "cross_attention_dim", 2**70, "channels and widths of the UNet"),
    ("unet", "sample_size", 10**9, "sample_size: 1000000000"),
    ("unet", "sample_size", [8, 8, 8], "sample_size is"),
    ("unet", "in_channels", 5, "UNet and VAE are not of the same model"),
    ("unet", "out_channels", 3, "UNet and VAE are not of the same model"),
    ("unet", "addition_time_embed_dim", 3, "vector of width"),
    ("vae", "layers_per_block", 10**9, "blocks of a level of the VAE: 1000000000"),
    ("vae", "block_out_channels", [10**12, 10**12], "channels and norm groups of the VAE"),
    ("vae", "norm_num_groups", 3, "do not divide into 3 norm groups"),
    ("vae", "latent_channels", 10**12, "latent channels of the VAE"),
    ("vae", "scaling_factor", 0, "scaling_factor: 0"),
    ("vae", "in_channels", 4, "in_channels is 4 and out_channels is 3"),
    ("text_encoder", "num_hidden_layers", 10**9, "layers of the text encoder: 1000000000"),
    ("text_encoder", "hidden_size", 10**12, "widths of the text encoder"),
    ("text_encoder", "intermediate_size", 10**12, "widths of the text encoder"),
    ("text_encoder", "num_attention_heads", 3, "do not divide into 3 heads"),
    ("text_encoder", "vocab_size", 10**12, "vocab_size of the text encoder"),
    ("text_encoder", "vocab_size", 100, "gives ids up to .*, and the encoder's vocab_size is 100"),
    ("text_encoder", "max_position_embeddings", 10**12, "positions of the text encoder"),
    ("text_encoder", "max_position_embeddings", 2, "positions of the text encoder: 2 is not in 3"),
    ("text_encoder", "max_position_embeddings", 60, r"read different numbers of tokens, \[60, 77\]"),
    ("text_encoder", "layer_norm_eps", -1, "layer_norm_eps: -1"),
    ("text_encoder_2", "eos_token_id", -5, "eos_token_id: -5"),
    ("text_encoder_2", "eos_token_id", 10**6, "eos_token_id: 1000000"),
    ("text_encoder_2", "hidden_act", "relu" * 10**5, "hidden_act is 'relu"),
    ("scheduler", "num_train_timesteps", 10**12, "num_train_timesteps: 1000000000000"),
    ("scheduler", "steps_offset", 1000, "steps_offset: 1000"),
    ("scheduler", "beta_start", -0.5, "beta_start: -0.5"),
    ("scheduler", "beta_end", 1, "beta_end: 1"),
    ("scheduler", "beta_end", float("nan"), "beta_end is nan"),
    ("scheduler", "beta_end", 10**400, "beta_end is"),
    ("scheduler", "num_train_timesteps", 90_000, "leave nothing of an image"),
]


@pytest.mark.parametrize(("component", "field", "value", "sentence"), ABSURD)
def test_absurd_numbers(component: str, field: str, value: Any, sentence: str, folder: Path) -> None:
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    change_json(folder / component / name, field, value=value)
    began = time.process_time()
    with pytest.raises(ConfigError, match=sentence) as caught:
        open_checkpoint(folder)
    assert time.process_time() - began < 1
    assert str(caught.value).startswith(str(folder))
    assert len(str(caught.value)) < 1000


def test_odd_widths() -> None:
    """The embedding of a number is half cosines, half sines."""
    with pytest.raises(ConfigError, match="has 7 channels; it must be an even number"):
        replace(BASE.unet, channels=(7, 14, 28), heads=(1, 1, 1), norm_groups=7)
    with pytest.raises(ConfigError, match="embedded in 255 numbers; they must be an even number"):
        replace(BASE, unet=replace(BASE.unet, size_dim=255, vector_dim=1280 + 6 * 255))


# ---- tokenizers ----------------------------------------------------------------------------------------------------

VOCAB, SETTINGS, MERGES = "vocab.json", "tokenizer_config.json", "merges.txt"
TOKENIZERS: list[tuple[str, str, Any, str]] = [
    (VOCAB, "a", 10**12, "ids of the vocabulary are not 0 to"),
    (VOCAB, "a", -1, "ids of the vocabulary are not 0 to"),
    (VOCAB, "a", 5, "ids of the vocabulary are not 0 to"),
    (VOCAB, "a", "5", "ids of the vocabulary are not 0 to"),
    (VOCAB, "a", True, "ids of the vocabulary are not 0 to"),
    (VOCAB, "a", NOT_THERE, "ids of the vocabulary are not 0 to"),
    (VOCAB, "", 530, "not an object of tokens"),
    (VOCAB, "\ud800", 530, "not an object of tokens"),
    (SETTINGS, "bos_token", "", "are not strings"),
    (SETTINGS, "bos_token", "\ud800", "are not strings"),
    (SETTINGS, "bos_token", ["a"], r"the bos_token is \['a'\]"),
    (SETTINGS, "bos_token", {"lstrip": True}, "the bos_token is None"),
    (SETTINGS, "eos_token", "<stop>", "end token '<stop>' is not in its vocabulary"),
    (SETTINGS, "pad_token", "<pad>", "gives ids up to .*, and the encoder's vocab_size is"),
    (SETTINGS, "model_max_length", 0, "the tokenizer's length is 0; expected at least 3"),
    (SETTINGS, "model_max_length", 2, "the tokenizer's length is 2; expected at least 3"),
    (SETTINGS, "model_max_length", -77, "the tokenizer's length is 0; expected at least 3"),
    (SETTINGS, "model_max_length", "77", "model_max_length is '77'"),
    (SETTINGS, "model_max_length", float("nan"), "model_max_length is nan"),
]


@pytest.mark.parametrize(("name", "field", "value", "sentence"), TOKENIZERS)
def test_tokenizer_files(name: str, field: str, value: Any, sentence: str, folder: Path) -> None:
    (folder / "tokenizer/special_tokens_map.json").unlink()
    change_json(folder / "tokenizer" / name, field, value=value)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        open_checkpoint(folder)
    assert str(caught.value).startswith(str(folder))


@pytest.mark.parametrize("length", [10**400, 1e30, float("inf")])
def test_no_limit(length: float, folder: Path) -> None:
    change_json(folder / "tokenizer" / SETTINGS, "model_max_length", value=length)
    info = open_checkpoint(folder).info
    assert Tokenizer(info.tokenizers["text_encoder"]).length == 77


@pytest.mark.parametrize(
    ("merges", "sentence"),
    [
        ("zz y", r"lacks a token of the merge \('zz', 'y'\)"),
        ("y z", r"lacks a token of the merge \('y', 'z'\)"),
        ("a b c", "are not pairs of tokens"),
        ("a", "are not pairs of tokens"),
    ],
)
def test_merges(merges: str, sentence: str, folder: Path) -> None:
    with (folder / "tokenizer" / MERGES).open("a") as file:
        file.write(merges + "\n")
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "added", [{"<x>": 10**9}, {"<x>": "530"}, {"<x>": [1]}, {"<x>": None}, {"<x>": 530, "<y>": 530}, {"": 530}]
)
def test_added_tokens(added: dict[str, Any], folder: Path) -> None:
    (folder / "tokenizer/added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(CheckpointError, match=r"ids of the added tokens|are not strings"):
        open_checkpoint(folder)


def test_too_many_added_tokens(folder: Path) -> None:
    """`tokenizers` compares each with all others."""
    count = len(json.loads((folder / "tokenizer" / VOCAB).read_text()))
    added = {f"<{n}>": n for n in range(count, count + 200_000)}
    (folder / "tokenizer/added_tokens.json").write_text(json.dumps(added))
    began = time.process_time()
    with pytest.raises(CheckpointError, match="or too many"):
        open_checkpoint(folder)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("model",), []),
        (("model", "vocab"), ["a"]),
        (("model", "vocab"), 5),
        (("model", "merges"), None),
        (("model", "merges"), [["a", 5]]),
        (("model", "merges"), [[["a"], "b"]]),
        (("model", "merges"), ["a"]),
        (("added_tokens",), [{"content": ["a"], "id": 5}]),
        (("added_tokens",), [{"content": 7, "id": 5}]),
        (("added_tokens",), ["a"]),
        (("added_tokens",), 5),
        (("added_tokens",), {}),
    ],
)
def test_tokenizer_json(keys: tuple[str, ...], value: Any, folder: Path) -> None:
    tokenizer = folder / "tokenizer"
    merges = [line.split() for line in (tokenizer / MERGES).read_text().splitlines()[1:]]
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": json.loads((tokenizer / VOCAB).read_text())}
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": model | {"merges": merges}, "added_tokens": []}))
    (tokenizer / VOCAB).unlink()
    assert read_folder(tokenizer).vocabulary is not None
    change_json(tokenizer / "tokenizer.json", *keys, value=value)
    with nullcontext() if value == {} else pytest.raises(CheckpointError):
        read_folder(tokenizer)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("text_encoder"), "there are tokenizers for"),
        (lambda t: t.update(third=t["text_encoder"]), "there are tokenizers for"),
        (lambda t: t["text_encoder"].update(special=["<more>"]), "gives ids up to"),
        (lambda t: t["text_encoder"].update(vocabulary=None), "gives ids up to 49407"),
        (lambda t: t["text_encoder"].update(length=1), "the tokenizer's length is 1; expected at least 3"),
        (lambda t: t["text_encoder"].update(length=40), r"different numbers of tokens, \[40, 77\]"),
        (lambda t: t["text_encoder"].update(pad="<pad>"), "'<pad>' is not in its vocabulary"),
        (lambda t: t["text_encoder"]["vocabulary"]["ids"].update(a=10**10), "ids of the vocabulary"),
    ],
)
def test_tokenizers_in_the_metadata(change: Any, sentence: str, valid: Path, tmp_path: Path) -> None:
    header, numbers = split(valid / "model.safetensors")
    info = json.loads(header["__metadata__"][METADATA_KEY])
    change(info["tokenizers"])
    header["__metadata__"][METADATA_KEY] = json.dumps(info)
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(write(tmp_path / "m.safetensors", json.dumps(header), numbers=numbers))


# ---- names outside the folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("../text_encoder/model.safetensors", "names a shard outside its folder: '../text_encoder"),
        ("/etc/passwd", "names a shard outside its folder: '/etc/passwd'; do not trust this model"),
        ("a/b.safetensors", "outside its folder"),
        ("..", "outside its folder"),
        (".", "outside its folder"),
        ("", "outside its folder"),
        ("a\0.safetensors", "outside its folder"),
        ("a\n.safetensors", "outside its folder"),
        ("a" * 5000, "is missing, but model.safetensors.index.json names it"),
        ("folder", "is missing, but model.safetensors.index.json names it"),
        ("pipe", "is missing, but model.safetensors.index.json names it"),
        ("model.bin", "is a pickle, which can run code when it is opened"),
        (5, "a weight_map whose values are not file names"),
        (None, "a weight_map whose values are not file names"),
        ([DEEP[:500]], "a weight_map whose values are not file names"),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, str) or len(value) < 50 else "long",
)
def test_names_in_an_index(name: Any, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "model.bin").write_bytes(b"\x80\x04anything")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=sentence):
        open_shards(index)


@pytest.mark.parametrize("table", [None, [], {}, "a", 5, ["a"]])
def test_an_index_without_a_table(table: Any, tmp_path: Path) -> None:
    (tmp_path / "i.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        open_shards(tmp_path / "i.index.json")


def test_an_index_of_more_tensors_than_its_shards_have(tmp_path: Path) -> None:
    """Such as that of another version of the model, whose shards have the same names."""
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}))
    with pytest.raises(CheckpointError, match="names 1 tensors that no shard has, such as 'b'; download the model"):
        open_shards(index)


def test_an_index_of_very_many_names(tmp_path: Path) -> None:
    index = tmp_path / "i.index.json"
    for count, sentence in (
        (10**6, f"has more than {MOST_JSON} bytes"),
        (300_000, "names 300000 shards; expected at most"),
    ):
        index.write_text('{"weight_map": {' + ",".join(f'"{n}":"{n}"' for n in range(count)) + "}}")
        began = time.process_time()
        with pytest.raises(CheckpointError, match=sentence):
            open_shards(index)
        assert time.process_time() - began < 2


def test_links_are_followed(folder: Path, tmp_path: Path) -> None:
    """The hub's cache is made of links."""
    for number, path in enumerate(sorted(each for each in folder.rglob("*") if each.is_file())):
        path.rename(tmp_path / f"blob{number}")
        path.symlink_to(f"../../blob{number}" if path.parent != folder else f"../blob{number}")
    load(folder)


@pytest.mark.parametrize("value", ["abc", 5, {"a": 1}, True, [[], {}]])
def test_the_index_of_a_folder(value: Any, folder: Path) -> None:
    change_json(folder / "model_index.json", "unet", value=value)
    with nullcontext() if isinstance(value, list) else pytest.raises(ConfigError, match=r"unet is .*a library and a"):
        open_checkpoint(folder)


def test_the_class_of_a_folder(folder: Path) -> None:
    for value in (None, 5, ["StableDiffusionXLPipeline"], "x" * 10**6):
        change_json(folder / "model_index.json", "_class_name", value=value)
        with pytest.raises(CheckpointError, match=r"holds a .*, not an SDXL model") as caught:
            open_checkpoint(folder)
        assert len(str(caught.value)) < 1000


# ---- components and reports ----------------------------------------------------------------------------------------


def test_components_that_do_not_fit(valid: Path, tmp_path: Path) -> None:
    """A UNet of other channels in place of a model's own."""
    whole = open_checkpoint(valid / "model.safetensors")
    unet = {key: value for key, value in load_file(valid / "model.safetensors").items() if "diffusion_model" in key}
    key = "model.diffusion_model.input_blocks.0.0.weight"
    save_file(unet | {key: unet[key].repeat(1, 3, 1, 1)}, tmp_path / "u.safetensors")
    unet_alone = open_component(tmp_path / "u.safetensors", "unet", whole.info.config)
    with pytest.raises(ConfigError, match=r"u\.safetensors: .*UNet and VAE are not of the same model"):
        whole.with_component(unet_alone)


def test_foreign_files_without_dimensions(tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.1.1.attn2.to_k.weight"
    save_file({key: torch.zeros(())}, tmp_path / "f.safetensors")
    assert sdxl.inspect(tmp_path / "f.safetensors").kind == "a UNet without SDXL's vector"


@pytest.mark.parametrize(
    "reader", [sdxl.inspect, lambda path: open_component(path, "unet", BASE)], ids=["inspect", "component"]
)
def test_inferred_absurdities(reader: Any, valid: Path, tmp_path: Path) -> None:
    """An empty tensor may claim any width."""
    whole = load_file(valid / "model.safetensors")
    unet = {key: value for key, value in whole.items() if "diffusion_model" in key}
    key = "model.diffusion_model.input_blocks.0.0.weight"
    for tensors in (whole, unet):
        save_file(tensors | {key: torch.zeros(0, 2**50)}, tmp_path / "w.safetensors")
        with pytest.raises(ConfigError, match=r"w\.safetensors: channels and widths of the UNet: 1125899906842624"):
            reader(tmp_path / "w.safetensors")


def test_absurd_vaes(valid: Path, tmp_path: Path) -> None:
    whole = load_file(valid / "model.safetensors")
    vae = {key: value for key, value in whole.items() if key.startswith("first_stage_model.")}
    conv = "first_stage_model.encoder.conv_in.weight"
    save_file(vae | {conv: vae[conv].repeat(1, 2, 1, 1)}, tmp_path / "v.safetensors")
    with pytest.raises(ConfigError, match="a VAE of 6 image channels is not supported"):
        open_component(tmp_path / "v.safetensors", "vae", BASE)
    save_file({key: value for key, value in vae.items() if ".down.0." not in key}, tmp_path / "v.safetensors")
    with pytest.raises(ConfigError, match="levels of the VAE: 0 is not in 1 to 8"):
        open_component(tmp_path / "v.safetensors", "vae", BASE)


# ---- and everything else -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_mutants(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damaged checkpoints, each loaded or refused within bounded time of the processor and bounded memory.

    All of them are tried, however long a busy machine takes.
    """
    assert fuzz_checkpoint.run(count, seed=0, workers=1, seconds=math.inf, keep=tmp_path) == 0, capsys.readouterr().out
    assert f"{count} mutants" in capsys.readouterr().out
