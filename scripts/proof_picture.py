"""Proof: the command line draws a 1024 x 1024 picture in 2 steps from a full-size single file (random weights, so the
picture means nothing); time and peak memory of the whole process. Needs 7 GB of disk and 20 GB of memory.

    make proof-picture
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


def main() -> None:
    dtype = str(default_dtype(torch.device("cpu"))).removeprefix("torch.")
    print(
        f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}, {dtype}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        model, picture = Path(name) / "base.safetensors", Path(name) / "picture.png"
        script = Path(__file__).with_name("make_checkpoint.py")
        subprocess.run([sys.executable, script, "base", model], check=True)
        command = [sys.executable, "-m", "sdxl", "generate", "--model", str(model), "--prompt", PROMPT]
        command += ["--width", "1024", "--height", "1024", "--steps", "2", "--seed", "1", "--output", str(picture)]
        start = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        assert status == 0, status
        with Image.open(picture) as image:
            assert image.size == (1024, 1024)
            print(f"{image.size[0]}x{image.size[1]} PNG, {picture.stat().st_size:,} bytes")
        print(f"{seconds:.0f} s, peak memory (RSS) {usage.ru_maxrss * 1024 / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
