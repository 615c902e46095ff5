"""Proof: a job that is killed again and again ends with the images of an uninterrupted one, each recorded once.

Kills and restarts one process, two processes at one folder, and a worker of a Ray cluster.

    make proof-batch
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import banner, claim, finish

ONE_THREAD = os.environ | {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
PROMPTS = [f"a {c} {s} on a white background" for c in ("red", "green", "blue") for s in ("circle", "star", "square")]


def write_job(path: Path, images: int, steps: int) -> None:
    """A line for each image, of two kinds, so that batches take lines that are apart."""
    lines = [{"prompt": PROMPTS[n % len(PROMPTS)], "steps": steps + n % 3 % 2} for n in range(images)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def start(job: Path, folder: Path, model: str, *more: str) -> subprocess.Popen[bytes]:
    """The command that a user gives, again and again."""
    flags = ["--batch", str(job), "--output-dir", str(folder), "--batch-size", "3", "--seed", "1", "--quiet"]
    command = [sys.executable, "-m", "sdxl", "generate", "--model", model, "--device", "cpu", *flags, *more]
    return subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.DEVNULL, start_new_session=True)


def run(job: Path, folder: Path, model: str, *more: str) -> float:
    """Let it end; how many seconds it took."""
    began = time.monotonic()
    assert start(job, folder, model, *more).wait() == 0
    return time.monotonic() - began


def recorded(folder: Path) -> list[str]:
    """The files of the images in the order in which they were recorded."""
    path = folder / "job/done.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [file for line in lines for file in json.loads(line)["files"]]


def compare(folder: Path, reference: Path, what: str) -> None:
    """The same files with the same bytes, nothing else, and every image recorded once."""
    ours, theirs = (
        {path.name: path.read_bytes() for path in each.iterdir() if path.is_file()} for each in (folder, reference)
    )
    same = sum(ours.get(name) == data for name, data in theirs.items())
    claim(f"{what}: images with the same bytes as uninterrupted", same, len(theirs), len(ours))
    claim(f"{what}: every image recorded once", max(Counter(recorded(folder)).values()), 1, 1)


def kill_one(job: Path, folder: Path, model: str, kills: int, span: tuple[float, float], rng: random.Random) -> None:
    """One process, killed at random moments."""
    counts = []
    for _ in range(kills):
        process = start(job, folder, model)
        time.sleep(rng.uniform(*span))
        process.kill()
        process.wait()
        counts.append(len(recorded(folder)))
    print(f"images recorded at each kill: {counts}", flush=True)
    run(job, folder, model)


def kill_two(job: Path, folder: Path, model: str, kills: int, span: tuple[float, float], rng: random.Random) -> None:
    """Two processes, of which one is killed and replaced at random moments."""
    processes = [start(job, folder, model) for _ in range(2)]
    counts = []
    for n in range(kills):
        time.sleep(rng.uniform(*span))
        processes[n % 2].kill()
        processes[n % 2].wait()
        counts.append(len(recorded(folder)))
        processes[n % 2] = start(job, folder, model)
    print(f"images recorded at each kill: {counts}", flush=True)
    assert [process.wait() for process in processes] == [0, 0]


def kill_worker(job: Path, folder: Path, model: str) -> None:
    """A Ray cluster of two workers, of which one is killed in the middle."""
    process = start(job, folder, model, "--engine", "ray", "--workers", "2")
    while len(recorded(folder)) < 12:
        assert process.poll() is None, "the job ended before a worker could be killed"
        time.sleep(0.05)
    found = subprocess.run(["pgrep", "-f", "^ray::Worker"], capture_output=True, text=True, check=False).stdout.split()
    assert found, "no Ray worker was found"
    os.kill(int(found[0]), signal.SIGKILL)
    at = len(recorded(folder))
    assert process.wait() == 0
    print(f"a worker was killed after {at} images, {len(recorded(folder))} in the end", flush=True)


def prove(model: str, images: int, steps: int, kills: int) -> None:
    """All of it."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as root:
        job, reference = Path(root) / "job.jsonl", Path(root) / "reference"
        write_job(job, images, steps)
        seconds = run(job, reference, model)
        print(f"{images} images uninterrupted: {seconds:.1f} s", flush=True)
        begin = 1.5  # importing and loading take about so long
        span = begin, begin + 2 + seconds / max(kills, 1)
        kill_one(job, Path(root) / "one", model, kills, span, rng)
        compare(Path(root) / "one", reference, f"one process, killed {kills} times")
        # shorter, since two draw faster and one goes on while the other starts
        kill_two(job, Path(root) / "two", model, kills, (0.5, 0.6 + seconds / kills), rng)
        compare(Path(root) / "two", reference, f"two processes, killed {kills} times")
        kill_worker(job, Path(root) / "ray", model)
        compare(Path(root) / "ray", reference, "Ray, a worker killed")


if __name__ == "__main__":
    banner("jobs of the miniature that are killed and resumed")
    prove("miniature", images=200, steps=12, kills=20)
    finish()
