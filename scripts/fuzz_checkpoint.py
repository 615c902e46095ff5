"""Damage a valid checkpoint in thousands of ways, and open and load each: it loads, or raises `SDXLError`.

    python scripts/fuzz_checkpoint.py --count 20000
    python scripts/fuzz_checkpoint.py --seed 1 --only 4711   # one mutant again, with its traceback

A mutant that raises anything else, ends or stops its process, takes more than 2 s, or more than 200 MB above what the
process had, is a failure; its file or folder is kept. Mutant N of a seed is always the same.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from make_checkpoint import random_state

import sdxl
from sdxl.errors import SDXLError, SDXLWarning
from sdxl.models.config import ModelConfig, TextConfig, VAEConfig
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.models.unet_config import UNetConfig
from sdxl.pipeline.loaded import load as load_network
from sdxl.runtime.placement import choose_placement
from sdxl.text.learn import learn_vocabulary
from sdxl.text.tokenizer import Tokenizer
from sdxl.text.vocabulary import TokenizerConfig
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.container import TensorFile, save_tensors
from sdxl.weights.info import METADATA_KEY, ModelInfo
from sdxl.weights.save import save_folder, save_single

SECONDS, BYTES = 2.0, 200 * 10**6  # that a mutant may take, the seconds on the processor
HANGS = 20.0  # seconds after which a mutant is given up, less those that it waited for a core
ROOM = 4 * 10**9  # bytes of address space that a worker may take, so that a bomb does not end the machine
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


def mutate_text(r: Random, data: bytes) -> bytes:
    """A JSON or text file of a folder, changed."""
    if r.random() < 0.3:
        return r.choice((flip, cut))(r, data)
    try:
        return dump(spoil(r, json.loads(data))).encode()
    except ValueError:  # merges.txt
        lines = data.split(b"\n")
        lines[r.randrange(len(lines))] = r.choice((b"a", b"a b c", b"zz y", b"\xff \xfe", b"x" * 10**6))
        return b"\n".join(lines)


def mutate_folder(r: Random, folder: Path) -> None:
    """One file of a folder changed, or replaced by what is no file."""
    path = r.choice(sorted(each for each in folder.rglob("*") if each.is_file()))
    change = r.random()
    if change < 0.9:
        mutate = mutate_file if path.suffix == ".safetensors" else mutate_text
        path.write_bytes(mutate(r, path.read_bytes()))
        return
    path.unlink()
    replacements: tuple[Callable[[], object], ...] = (
        lambda: None,
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to("/dev/zero"),
    )
    r.choice(replacements)()


def make_mutant(seed: int, number: int, valid: Path, target: Path) -> Path:
    """Mutant `number` of a seed in the folder `target`: a file, or every fourth time a folder."""
    r = Random(f"{seed}.{number}")
    if number % 4 == 3:
        path = target / "mutant"
        shutil.copytree(valid / "model", path)
        mutate_folder(r, path)
        return path
    path = target / "mutant.safetensors"
    data = (valid / "model.safetensors").read_bytes()
    for _ in range(r.choice((1, 1, 1, 2))):
        data = mutate_file(r, data)
    path.write_bytes(data)
    return path


# ---- one mutant ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: `loaded` or the class of the error; seconds of the processor, bytes above the base."""

    what: str
    seconds: float = 0.0
    bytes: int = 0
    complaint: str = ""

    @property
    def failed(self) -> bool:
        """Whether it breaks the promise."""
        return bool(self.complaint) or self.seconds > SECONDS or self.bytes > BYTES


def load_all(path: Path) -> None:
    """Read everything that a model has, as a pipeline does, and what `inspect` says of it."""
    with suppress(SDXLError):  # opening says it too
        sdxl.inspect(path)
    checkpoint = open_checkpoint(path)
    for part in checkpoint.components.values():
        load_network(part, choose_placement(torch.device("cpu"), torch.float32))
    for name, config in checkpoint.info.tokenizers.items():
        Tokenizer(config, checkpoint.info.encoders[name].positions)(["a red cat, é \0 日本"])


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since `reset_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def attempt(path: Path) -> Outcome:
    """Load a mutant in this process, and measure it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins again
    base, began, what, complaint = memory("VmRSS"), time.process_time(), "loaded", ""
    try:
        load_all(path)
    except SDXLError as error:
        what = type(error).__name__
    except BaseException as error:  # also a panic of a library in Rust
        what = type(error).__name__
        complaint = f"{what}: {str(error)[:300]}"
    return Outcome(what, time.process_time() - began, memory("VmHWM") - base, complaint)


# ---- many mutants --------------------------------------------------------------------------------------------------


def work(pipe: Connection, seed: int, valid: Path) -> None:
    """A worker's life: a number comes, an outcome goes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", SDXLWarning)
    load_all(valid / "model.safetensors")
    load_all(valid / "model")
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + ROOM,) * 2)
    pipe.send(None)
    while (number := pipe.recv()) is not None:
        with tempfile.TemporaryDirectory() as target:
            pipe.send(attempt(make_mutant(seed, number, valid, Path(target))))


class Worker:
    """A process that loads mutants, replaced when it ends or stops."""

    def __init__(self, seed: int, valid: Path) -> None:
        self.seed, self.valid = seed, valid
        self.number: int | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.seed, self.valid), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def give(self, number: int | None) -> None:
        """Send the next number; None ends the process."""
        self.number, self._since = number, self._clock()
        self.pipe.send(number)

    def hangs(self) -> bool:
        """Whether the mutant at hand has had its time."""
        return self._clock() - self._since > HANGS

    def _clock(self) -> float:
        """Seconds, less those for which the process was ready and other processes had the cores."""
        queued = 0
        with suppress(OSError, IndexError):  # a kernel that does not count them
            queued = int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1])
        return time.monotonic() - queued / 1e9

    def take(self) -> Outcome:
        """The outcome of the mutant at hand, when `pipe` is ready or time is up."""
        if not self.pipe.poll():
            return self._replace("hangs")
        try:
            outcome: Outcome = self.pipe.recv()
        except EOFError:
            return self._replace("dies")
        return outcome

    def _replace(self, what: str) -> Outcome:
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self._start()
        return Outcome(what, complaint=f"the process {what} (exit status {code})")

    def end(self) -> None:
        """Let the process go."""
        self.give(None)
        self.process.join()


def outcomes(numbers: Iterator[int], workers: list[Worker]) -> Iterator[tuple[int, Outcome]]:
    """Mutant and outcome, as they come."""
    busy = [worker for worker in workers if (number := next(numbers, None)) is not None and worker.give(number) is None]
    while busy:
        ready = wait([worker.pipe for worker in busy], timeout=1)
        late = [worker for worker in busy if worker.pipe in ready or worker.hangs()]
        for worker in late:
            assert worker.number is not None
            yield worker.number, worker.take()
            if (number := next(numbers, None)) is None:
                busy.remove(worker)
            else:
                worker.give(number)


@contextmanager
def valid_checkpoint() -> Iterator[Path]:
    """A folder with the valid checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        write_valid(Path(folder))
        yield Path(folder)


def run(count: int, seed: int, workers: int, seconds: float, keep: Path) -> int:
    """Load `count` mutants, or as many as `seconds` allow; print what became of them; returns how many failed."""
    began, table, worst, failures = time.monotonic(), Counter[str](), Outcome(""), 0
    with valid_checkpoint() as valid:
        size = (valid / "model.safetensors").stat().st_size
        print(f"seed {seed}, a checkpoint of {size:,} bytes, {workers} processes, torch {torch.__version__}")
        crew = [Worker(seed, valid) for _ in range(workers)]
        numbers = (number for number in range(count) if time.monotonic() - began < seconds)
        for number, outcome in outcomes(numbers, crew):
            table[outcome.what] += 1
            worst = Outcome("", max(worst.seconds, outcome.seconds), max(worst.bytes, outcome.bytes))
            if outcome.failed:
                failures += 1
                (keep / f"{seed}-{number}").mkdir(parents=True, exist_ok=True)
                path = make_mutant(seed, number, valid, keep / f"{seed}-{number}")
                took = f"{outcome.seconds:.1f} s, {outcome.bytes / 1e6:.0f} MB"
                print(f"FAIL {number} {outcome.what} {outcome.complaint} ({took}): {path}", flush=True)
        for worker in crew:
            worker.end()
    for what, times in table.most_common():
        print(f"{times:8,} {what}")
    print(f"worst: {worst.seconds:.2f} s of the processor (at most {SECONDS:g}), ", end="")
    print(f"{worst.bytes / 1e6:.0f} MB above the base (at most {BYTES / 1e6:g})")
    print(f"{table.total():,} mutants in {time.monotonic() - began:.0f} s; {failures} failed")
    return failures


def again(seed: int, number: int) -> None:
    """One mutant in this process; what it raises comes through."""
    with valid_checkpoint() as valid, tempfile.TemporaryDirectory() as target:
        load_all(make_mutant(seed, number, valid, Path(target)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Damage a valid checkpoint in many ways, and load each mutant.")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1800, help="stop after this time")
    parser.add_argument("--only", type=int, help="load this mutant alone")
    parser.add_argument("--keep", type=Path, default=Path("weights/fuzz"), help="where mutants that failed are put")
    options = parser.parse_args(arguments)
    if options.only is not None:
        again(options.seed, options.only)
        print("loaded")
    else:
        sys.exit(run(options.count, options.seed, options.workers, options.seconds, options.keep) > 0)


if __name__ == "__main__":
    main()
