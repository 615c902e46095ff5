"""All that is to be measured on a CUDA machine, in one unattended run: `python scripts/benchmark_cuda.py --out FOLDER`.

It makes a full-size checkpoint of random weights in memory, and then takes the steps in the order of their importance,
each in a process of its own with a limit of time. FOLDER/lines.jsonl has a line for each measurement, written as soon
as it is known; FOLDER/log.txt has what the processes print. What is left when `--budget` seconds are over is left out.

    python scripts/benchmark_cuda.py --out measured                             # 9 minutes at most
    python scripts/benchmark_cuda.py --out measured --steps compiled warm       # some of it
    python scripts/benchmark_cuda.py --out measured --tiny                      # the miniature, on any machine
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from benchmark import wait
from cuda_measures import MEASURES, write

HERE = Path(__file__).resolve().parent
COMPILING = "compile or inference_mode or graph_of_a_step or references"  # tests that wait for the compiler


@dataclass(frozen=True)
class Step:
    """A command with its limit of seconds."""

    command: list[str]
    limit: float
    environment: dict[str, str] = field(default_factory=dict)


def all_steps(options: argparse.Namespace) -> dict[str, Step]:
    """The steps, the most important first."""
    own = [sys.executable, str(HERE / "benchmark_cuda.py"), *sys.argv[1:], "--child"]
    cold = {"TORCHINDUCTOR_CACHE_DIR": str(options.work / "compiled")}
    precompiled = {"TORCHINDUCTOR_CACHE_DIR": str(options.work / "precompiled"), "TORCH_CACHING_PRECOMPILE": "1"}
    tests = [sys.executable, "-m", "pytest", "-q", "-rs", "--durations=5", "tests/test_cuda.py", "-k"]
    steps = {
        "checkpoint": Step([*own, "checkpoint"], 120),
        "recorded": Step([*own, "recorded"], 120),
        "tests": Step([*tests, f"not ({COMPILING})"], 150),
        "compiled": Step([*own, "compiled"], 150, cold),
        "warm": Step([*own, "warm"], 70, cold),
        "throughput": Step(throughput(options, ["1", "4", "8", "16"]), 120),
        "control": Step([*own, "control"], 100),
        "tests-compiled": Step([*tests, COMPILING], 150, cold),
        "text": Step([*own, "text"], 90, cold),
        "throughput-compiled": Step([*throughput(options, ["8"]), "--compile"], 150, cold),
        "precompiled": Step([*own, "warm"], 120, precompiled),
        "precompiled-warm": Step([*own, "warm"], 60, precompiled),
    }
    if options.tiny:  # on a busy machine it may take long
        steps = {name: replace(step, limit=5 * step.limit) for name, step in steps.items()}
    if options.model != str(options.work / "base.safetensors"):
        del steps["checkpoint"]  # there is one
    if not (HERE / "throughput.py").exists():
        steps = {name: step for name, step in steps.items() if not name.startswith("throughput")}
    return steps


def throughput(options: argparse.Namespace, batches: list[str]) -> list[str]:
    """The command for many images at once."""
    command = [sys.executable, str(HERE / "throughput.py"), "--model", options.model, "--device", options.device]
    command += ["--out", str(options.out / "lines.jsonl"), "--seconds", "15", "--limit", "100"]
    tiny = ["--batches", "1", "2", "--size", "64", "--steps", "2"]
    return [*command, *(tiny if options.tiny else ["--dtype", "bfloat16", "--batches", *batches])]


def run_steps(steps: dict[str, Step], out: Path, budget: float) -> bool:
    """Run them one after the other until the budget is spent; whether all have ended well."""
    began, good = time.monotonic(), True
    for name, step in steps.items():
        left = budget - (time.monotonic() - began)
        if left < min(15.0, step.limit):
            write(out, {"step": name, "status": "left out", "left": round(left)})
            good = False
            continue
        at = time.monotonic()
        with (out / "log.txt").open("a", encoding="utf-8") as log:
            print(f"\n==== {name}: {' '.join(step.command)}", file=log, flush=True)
            status = run(step, min(step.limit, left), log)
        write(out, {"step": name, "status": status, "seconds": round(time.monotonic() - at, 1)})
        good &= status == 0
    return good


def run(step: Step, limit: float, log: IO[str]) -> int | str:
    """The exit status of a step, or that it was ended with all that it had started."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONUNBUFFERED": "1", **step.environment}
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    child = subprocess.Popen(
        step.command, stdout=log, stderr=log, env=environment, cwd=HERE.parent, start_new_session=True
    )
    return wait(child, limit)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of lines.jsonl and log.txt")
    parser.add_argument("--budget", type=float, default=560.0, help="seconds of all steps")
    parser.add_argument("--steps", nargs="+", help="those that are taken, by name")
    parser.add_argument("--model", help="a checkpoint (default: one that is made, in memory where there is /dev/shm)")
    parser.add_argument("--device")
    parser.add_argument("--tiny", action="store_true", help="the miniature in four steps: does the script run?")
    parser.add_argument("--child", choices=MEASURES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    shared = Path("/dev/shm")
    options.out = options.out.resolve()
    options.work = (shared if shared.is_dir() else Path(tempfile.gettempdir())) / f"sdxl-benchmark-{os.getuid()}"
    options.device = options.device or ("cpu" if options.tiny else "cuda")
    options.model = options.model or ("miniature" if options.tiny else str(options.work / "base.safetensors"))
    return options


def main() -> None:
    options = read_options()
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.child:
        MEASURES[options.child](options)
        return
    steps = all_steps(options)
    if unknown := set(options.steps or ()) - set(steps):
        sys.exit(f"there is no step {', '.join(sorted(unknown))}; the steps are {', '.join(steps)}")
    chosen = {name: step for name, step in steps.items() if options.steps is None or name in options.steps}
    sys.exit(not run_steps(chosen, options.out, options.budget))


if __name__ == "__main__":
    main()
