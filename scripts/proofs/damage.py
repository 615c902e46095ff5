"""Damage to a safetensors file, for the fuzzers: bits, lengths, headers, entries, numbers; and a checkpoint to damage,
the smallest that has every kind of part.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from make_checkpoint import random_state

from sdxl.models.config import ModelConfig, TextConfig, VAEConfig
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.models.unet_config import UNetConfig
from sdxl.text.learn import learn_vocabulary
from sdxl.text.vocabulary import TokenizerConfig
from sdxl.weights.container import TensorFile, save_tensors
from sdxl.weights.info import METADATA_KEY, ModelInfo
from sdxl.weights.save import save_folder, save_single

Random = random.Random


# ---- the valid checkpoint ------------------------------------------------------------------------------------------


def describe() -> ModelInfo:
    """The smallest model that has every kind of part."""
    words = learn_vocabulary(["a red cat in the favela", "a red dog"], 530)
    count = len(words.ids)
    unet = UNetConfig(
        channels=(8, 16),
        down=((0,), (1,)),
        mid=1,
        up=((1, 1), (0, 0)),
        heads=(1, 2),
        context_dim=24,
        vector_dim=16 + 6 * 4,
        size_dim=4,
        norm_groups=4,
        sample_size=(8, 8),
    )
    first = TextConfig(count, dim=8, ff_dim=16, layers=2, heads=2)
    second = TextConfig(count, dim=16, ff_dim=32, layers=2, heads=2, activation="gelu", projection_dim=16)
    config = ModelConfig(unet, VAEConfig(channels=(4, 8), blocks=1, norm_groups=2), first, second)
    tokenizers = {
        "text_encoder": TokenizerConfig(vocabulary=words),
        "text_encoder_2": TokenizerConfig(pad="!", vocabulary=words),
    }
    return ModelInfo(config, ScheduleConfig(), True, tokenizers)


def write_valid(folder: Path) -> None:
    """`model.safetensors` and the diffusers folder `model`, the UNet of the latter in two shards."""
    info = describe()
    state = random_state(info.config, torch.float32, 0)
    state["unet"] = {key: value.half() for key, value in state["unet"].items()}
    save_single(folder / "model.safetensors", info, state)
    save_folder(folder / "model", info, state)
    whole = folder / "model/unet/diffusion_pytorch_model.safetensors"
    file = TensorFile(whole)
    table: dict[str, Any] = {}
    for n in (1, 2):
        name = f"diffusion_pytorch_model-0000{n}-of-00002.safetensors"
        keys = list(file.shapes)[n - 1 :: 2]
        save_tensors({key: file.read(key) for key in keys}, whole.with_name(name), {})
        table |= dict.fromkeys(keys, name)
    whole.with_name(whole.name + ".index.json").write_text(json.dumps({"weight_map": table}))
    whole.unlink()


# ---- mutations -----------------------------------------------------------------------------------------------------

_BOMB = "@bomb@"
JUNK: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 5, 77, 1000, 10**6, 10**9, 10**12, 2**31, 2**63, 2**64, -(2**63), 10**400),
    *(0.5, -0.5, 1e-300, 1e300, math.nan, math.inf, -math.inf),
    *(
        "",
        "x",
        "0",
        "-inf",
        "\ud800",
        "\0",
        "\n",
        "..",
        "../model_index.json",
        "/dev/zero",
        "é" * 1000,
        "F8_E4M3",
        "U64",
    ),
    *([], [[]], [0], [1, 2, 3], [None] * 3, [2**62] * 3, [0, 2**62, 2**62], ["DownBlock2D"] * 100, [1] * 10_000),
    *({}, {"a": 1}, {"content": None}, _BOMB),
)


def dump(data: Any) -> str:
    """JSON, with the nested lists that no writer would write."""
    return json.dumps(data).replace(json.dumps(_BOMB), "[" * 50_000 + "]" * 50_000)


def spoil(r: Random, data: Any) -> Any:
    """JSON with one value changed, removed, doubled or swapped, at any depth."""
    holder, at = data, None
    while isinstance(holder, (dict, list)) and holder:
        parent = holder
        at = r.choice(list(holder)) if isinstance(holder, dict) else r.randrange(len(holder))
        holder = holder[at]
        if r.random() < 0.2:
            break
    if at is None:
        return r.choice(JUNK)
    other = r.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    change = r.randrange(6)
    if change == 0:
        del parent[at]
    elif change == 1:
        parent[at], parent[other] = parent[other], parent[at]
    elif change == 2 and isinstance(holder, int):
        parent[at] = holder + r.choice((-1, 1, 8, holder, -2 * holder))
    elif change == 3 and isinstance(parent, dict):
        parent[r.choice(("", "x" * 2000, "\0", str(other) + "x", "__metadata__"))] = parent.pop(at)
    else:
        parent[at] = r.choice(JUNK)
    return data


def flip(r: Random, data: bytes) -> bytes:
    """Up to 8 bits turned, near the start more often than far from it."""
    changed, end = bytearray(data), len(data) if r.random() < 0.5 else min(len(data), r.choice((8, 200, 50_000)))
    for _ in range(r.randint(1, 8)):
        if end:
            changed[r.randrange(end)] ^= 1 << r.randrange(8)
    return bytes(changed)


def cut(r: Random, data: bytes) -> bytes:
    """Truncated, extended, a piece removed, doubled, or replaced by noise."""
    a, b = sorted(r.randrange(len(data) + 1) for _ in range(2))
    b = min(b, a + r.choice((1, 8, 1000, len(data))))
    pieces = (data[:a], data + r.randbytes(b - a), data[:a] + data[b:], data[:b] + data[a:])
    return r.choice((*pieces, data[:a] + r.randbytes(b - a) + data[b:]))


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the numbers behind it."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: str, numbers: bytes) -> bytes:
    """The inverse of `split`."""
    text = header.encode()
    return len(text).to_bytes(8, "little") + text + numbers


def lie(r: Random, data: bytes) -> bytes:
    """Another length of the header."""
    return (
        r.choice((0, 1, 7, len(data), 10**8, 2**63, 2**64 - 1, r.randrange(len(data)))).to_bytes(8, "little") + data[8:]
    )


def edit_header(r: Random, data: bytes) -> bytes:
    """A header changed in up to three places."""
    header, numbers = split(data)
    for _ in range(r.randint(1, 3)):
        header = spoil(r, header)
    return join(dump(header), numbers)


def edit_entries(r: Random, data: bytes) -> bytes:
    """Two tensors that exchange name, dtype, shape or place; or one with another name, or twice."""
    header, numbers = split(data)
    a, b = r.sample([key for key in header if key != "__metadata__"], 2)
    change = r.choice(("dtype", "shape", "data_offsets", "name", "retype", "twice"))
    if change == "name":
        header[a], header[b] = header[b], header[a]
    elif change == "twice":
        return join(dump(header)[:-1] + f", {json.dumps(a)}: {json.dumps(header[b])}}}", numbers)
    elif change == "retype":  # another type of the same size: numbers that mean something else
        sizes = {"F32": ("I32", "F64", "F16"), "F16": ("BF16", "I16", "F8_E5M2")}
        header[a]["dtype"] = r.choice(sizes.get(header[a]["dtype"], ("BOOL",)))
    else:
        header[a][change], header[b][change] = header[b][change], header[a][change]
    return join(dump(header), numbers)


def edit_metadata(r: Random, data: bytes) -> bytes:
    """The description of the model changed, damaged as a text, or gone."""
    header, numbers = split(data)
    table = header["__metadata__"]
    change = r.random()
    if change < 0.8:
        table[METADATA_KEY] = dump(spoil(r, json.loads(table[METADATA_KEY])))
    elif change < 0.95:
        table[METADATA_KEY] = flip(r, table[METADATA_KEY].encode()).decode(errors="replace")
    else:
        del table[METADATA_KEY]
    return join(json.dumps(header), numbers)


def edit_numbers(r: Random, data: bytes) -> bytes:
    """The numbers of a tensor: NaN, infinity, noise, zeros, or those of another."""
    header, numbers = split(data)
    a, b = (r.choice([entry for key, entry in header.items() if key != "__metadata__"])["data_offsets"] for _ in "ab")
    size = a[1] - a[0]
    other = (numbers[b[0] : b[1]] * (size // max(b[1] - b[0], 1) + 1))[:size]
    new = r.choice((b"\xff" * size, b"\x00\x7c" * (size // 2), r.randbytes(size), bytes(size), other))
    return join(json.dumps(header), numbers[: a[0]] + new + numbers[a[1] :])


FILE_MUTATIONS: tuple[Callable[[Random, bytes], bytes], ...] = (
    flip,
    cut,
    lie,
    edit_header,
    edit_entries,
    edit_metadata,
    edit_numbers,
)


def mutate_file(r: Random, data: bytes) -> bytes:
    """A safetensors file, changed."""
    mutation = r.choice(FILE_MUTATIONS)
    try:
        return mutation(r, data)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return flip(r, data)  # it is no whole single file, by itself or since the last mutation
