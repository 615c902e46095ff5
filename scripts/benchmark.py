"""Measure this package against its peers on the same weights: `scripts/benchmark.py`.

Each measurement is a process of its own that imports, loads, and times the stages; the processes take turns, `--rounds`
times, and the table gives medians. With --out every measurement is kept as a line of JSON. It runs unattended: a peer
that fails, or takes longer than --limit, is reported and left out of later rounds, and the others continue.

Peers: `sdxl`; `diffusers`; `frozen`, which is diffusers compiled as one graph with its weights as constants; and, on a
CPU, `openvino`, which is diffusers' UNet and VAE decoder converted by OpenVINO (`pip install openvino`). The first run
of a stage is one of its own: the compilers work in it.

    python scripts/make_checkpoint.py base weights/random_base.safetensors
    python -m sdxl convert weights/random_base.safetensors weights/random_base
    python scripts/benchmark.py --ours weights/random_base.safetensors --theirs weights/random_base --sizes 512 1024
    python scripts/benchmark.py ... --peers sdxl diffusers frozen openvino --dtype bfloat16 --stages step decode
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

Line = dict[str, Any]
PEERS = ("sdxl", "diffusers", "frozen", "openvino")
# the peers show a bar for each file that they load, and warn of each other's habits
QUIET = {
    "DIFFUSERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


# ---- what is measured ------------------------------------------------------------------------------------------------


def import_peer(name: str) -> None:
    """Import all that a peer needs."""
    if name == "openvino":
        try:
            import openvino
        except ImportError as error:
            raise ImportError("openvino is not installed. Try `pip install openvino`.") from error
        _ = openvino
    if name == "sdxl":
        import sdxl

        _ = sdxl.Pipeline  # imported when it is first named
    else:
        from diffusers import StableDiffusionXLPipeline

        _ = StableDiffusionXLPipeline


def measure(options: argparse.Namespace) -> Iterable[Line]:
    """One process's measurements: a line for each thing."""
    began = time.perf_counter()
    import_peer(options.child)
    yield {"stage": "import", "seconds": time.perf_counter() - began}
    import torch
    from peers import LOADERS

    from sdxl.cli.measure import machine, matrix_rate, time_runs

    device = torch.device(options.device)
    yield {"stage": "machine", **machine(device)}
    began = time.perf_counter()
    runs = LOADERS[options.child](options)
    yield {"stage": "load", "seconds": time.perf_counter() - began, "gb": peak(device)}
    for size in options.sizes:
        chosen = {name: run for name, run in runs(size).items() if name in options.stages}
        for name, run in chosen.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            first, seconds = time_runs(run, options.repeats, device)
            yield {"stage": f"first {name}", "size": size, "seconds": first}
            yield {"stage": name, "size": size, "seconds": seconds, "gb": peak(device)}
    dtype = getattr(torch, options.dtype or "float32")
    yield {"stage": "matrix product", "tflops": matrix_rate(device, dtype) / 1e12}


def peak(device: Any) -> float:
    """The most memory so far, in GB: of the GPU, or of the process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


# ---- taking turns ----------------------------------------------------------------------------------------------------


def run_child(name: str, limit: float) -> list[Line]:
    """Measure in a new process, which prints its lines as JSON. The last says why, if it did not end well."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        environment = os.environ | (QUIET if name != "sdxl" else {})
        status = wait(subprocess.Popen(command, stdout=printed, env=environment, start_new_session=True), limit)
        printed.seek(0)
        lines = [json.loads(line) for line in printed if line.startswith("{") and line.endswith("}\n")]
    if status != 0 and not any(line["stage"] == "failed" for line in lines):
        lines.append({"stage": "failed", "why": status if isinstance(status, str) else f"exit status {status}"})
    return lines


def wait(child: subprocess.Popen[Any], limit: float) -> int | str:
    """The exit status of a process, or that it was ended with all that it had started. It leads a session."""
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        return f"over its limit of {limit:g} s"
    finally:
        if child.returncode is None:  # or the user interrupts
            with suppress(ProcessLookupError):
                os.killpg(child.pid, 9)  # its own group: the compiler's processes too
            child.wait()


def take_turns(names: list[str], settings: Line, options: argparse.Namespace) -> list[Line]:
    """The lines of all rounds, written to the file as they come."""
    lines: list[Line] = []
    for _ in range(options.rounds):
        failed = {line["who"] for line in lines if line["stage"] == "failed"}
        for name in (name for name in names if name not in failed):
            new = [{"who": name, **settings, **line} for line in run_child(name, options.limit)]
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(line) + "\n" for line in new)
            lines += new
    return lines


def table(lines: list[Line], names: list[str]) -> str:
    """Medians over the rounds, and how many times as long each peer takes as the first."""
    rows = []
    for key in dict.fromkeys((line["stage"], line.get("size")) for line in lines if "seconds" in line):
        cells = [[line for line in lines if (line["stage"], line.get("size"), line["who"]) == (*key, n)] for n in names]
        seconds = [median(line["seconds"] for line in cell) if cell else None for cell in cells]
        memory = [max((line["gb"] for line in cell if "gb" in line), default=None) for cell in cells]
        ratios = [second / seconds[0] if second and seconds[0] else None for second in seconds[1:]]
        numbers = [
            number(each, form)
            for s, gb in zip(seconds, memory, strict=True)
            for each, form in ((s, "9.3f"), (gb, "6.2f"))
        ]
        row = [f"{key[0]} {key[1] or ''}".ljust(14), *numbers, *(number(ratio, "5.2f") for ratio in ratios)]
        rows.append(f"| {' | '.join(row)} |")
    heads = ["stage", *(f"{name} s | peak GB" for name in names), *(f"{name} / {names[0]}" for name in names[1:])]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * 3 * len(names) + "|", *rows])


def number(value: float | None, form: str) -> str:
    return format("-", f">{form.split('.')[0]}") if value is None else format(value, form)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, help="the model for this package")
    parser.add_argument("--theirs", type=Path, help="the same model as a folder, for diffusers")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: each one's own default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512])
    parser.add_argument("--stages", nargs="*", default=["step"], help="text, step, decode, encode, picture")
    parser.add_argument("--steps", type=int, default=30, help="of a picture")
    parser.add_argument(
        "--peers", choices=PEERS, nargs="+", help="default: sdxl and diffusers, those whose model is given"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="of every stage in each round")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds of each process")
    parser.add_argument("--compile", action="store_true", help="sdxl and diffusers")
    parser.add_argument("--whole", choices=["default", "max"], help="compile diffusers' UNet as one graph")
    parser.add_argument("--offload", default="none", help="ours")
    parser.add_argument("--int8", action="store_true", help="ours")
    parser.add_argument("--max-memory", type=float, metavar="GB", help="ours")
    parser.add_argument("--out", type=Path, help="append every measurement to this file")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    models = {name: options.ours if name == "sdxl" else options.theirs for name in PEERS}
    names = options.peers or [name for name in ("sdxl", "diffusers") if models[name]]
    if not names or not all(models[name] for name in names):
        parser.error("a peer has no model. Try --ours for sdxl, and --theirs for the others.")
    if options.child:
        try:
            for line in measure(options):
                print(json.dumps(line), flush=True)
        except Exception as error:
            print(json.dumps({"stage": "failed", "why": f"{type(error).__name__}: {error}"}), flush=True)
            raise
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the child ends too
    shown = ("dtype", "compile", "whole", "offload", "int8", "max_memory", "steps", "repeats")
    settings = {k: v for k, v in vars(options).items() if v is not None and k in shown}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = take_turns(names, settings, options)
    if rates := [line["tflops"] for line in lines if line["stage"] == "matrix product"]:
        facts = next(line for line in lines if line["stage"] == "machine")
        print(", ".join(f"{k} {v}" for k, v in facts.items() if k not in ("who", "stage")), flush=True)
        print(f"matrix product: {median(rates):.3f} TFLOP/s\n")
    print(table(lines, names))
    failed = [f"{line['who']} failed: {line['why']}" for line in lines if line["stage"] == "failed"]
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
