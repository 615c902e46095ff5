"""Proof: damage a valid checkpoint in thousands of ways, and open and load each: it loads, or raises `SDXLError`.

    make proof-fuzz      # this one 20,000 times, and the fuzzers of adapters, controls and references
    python scripts/proofs/fuzz_checkpoint.py --seed 1 --only 4711   # one mutant again, with its traceback

A mutant that raises anything else, ends or stops its process, takes more than 2 s, or more than 200 MB above what the
process had, is a failure; its file or folder is kept. Mutant N of a seed is always the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch
from common import banner, claim, finish, memory
from damage import Random, cut, dump, flip, mutate_file, spoil, write_valid

import sdxl
from sdxl.errors import SDXLError, SDXLWarning
from sdxl.pipeline.network_loading import load as load_network
from sdxl.runtime.placement import choose_placement
from sdxl.text.tokenizer import Tokenizer
from sdxl.weights.checkpoint import open_checkpoint

SECONDS, BYTES = 2.0, 200 * 10**6  # that a mutant may take, the seconds on the processor
HANGS = 20.0  # seconds after which a mutant is given up, less those that it waited for a core
ROOM = 4 * 10**9  # bytes of address space that a worker may take, so that a bomb does not end the machine


# ---- mutants --------------------------------------------------------------------------------------------------------


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
        banner(f"seed {seed}, a checkpoint of {size:,} bytes, {workers} processes")
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
    print(f"{table.total():,} mutants in {time.monotonic() - began:.0f} s")
    return failures


def again(seed: int, number: int) -> None:
    """One mutant in this process; what it raises comes through."""
    with valid_checkpoint() as valid, tempfile.TemporaryDirectory() as target:
        load_all(make_mutant(seed, number, valid, Path(target)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1800, help="stop after this time")
    parser.add_argument("--only", type=int, help="load this mutant alone")
    parser.add_argument("--keep", type=Path, default=Path("weights/fuzz"), help="where mutants that failed are put")
    options = parser.parse_args()
    if options.only is not None:
        again(options.seed, options.only)
        print("loaded")
    else:
        failed = run(options.count, options.seed, options.workers, options.seconds, options.keep)
        claim("mutants that failed", failed, most=0)
        finish()


if __name__ == "__main__":
    main()
