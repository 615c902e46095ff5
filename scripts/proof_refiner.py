"""Proof: a full-size refiner in the official single-file layout goes on after the full-size base, on a CPU (random
weights, so the picture means nothing); time and peak memory of the process. Needs 13 GB of disk and 16 GB of memory.

    make proof-refiner
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from sdxl.device import default_dtype

PROMPT = "A mecha robot in a favela in expressionist style"


def draw(folder: Path, offload: str) -> None:
    """One picture by the command line, in a process of its own."""
    picture = folder / f"{offload}.png"
    command = [sys.executable, "-m", "sdxl", "generate", "--model", str(folder / "base.safetensors"), "--quiet"]
    command += ["--refiner", str(folder / "refiner.safetensors"), "--offload", offload, "--prompt", PROMPT]
    command += ["--width", "512", "--height", "512", "--steps", "5", "--seed", "1", "--output", str(picture)]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    with Image.open(picture) as image:
        assert image.size == (512, 512)
    seconds, peak = time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9
    print(f"--offload {offload}: 4 steps of the base and 1 of the refiner in {seconds:.0f} s, peak RSS {peak:.1f} GB")


def main() -> None:
    dtype = str(default_dtype(torch.device("cpu"))).removeprefix("torch.")
    print(
        f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}, {dtype}, 512 x 512, float16 files",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        script = Path(__file__).with_name("make_checkpoint.py")
        for model in ("base", "refiner"):
            subprocess.run([sys.executable, script, model, Path(name) / f"{model}.safetensors"], check=True)
        for offload in ("stage", "none"):
            draw(Path(name), offload)
        pictures = [Image.open(Path(name) / f"{offload}.png").tobytes() for offload in ("stage", "none")]
        print(f"the two pictures are {'the same' if pictures[0] == pictures[1] else 'DIFFERENT'}")
        sys.exit(pictures[0] != pictures[1])


if __name__ == "__main__":
    main()
