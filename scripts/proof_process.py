"""What the full-size proofs share: the command line run in a process of its own, with its time and peak memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

import torch

from sdxl.runtime.device import default_dtype


def banner(more: str = "") -> None:
    """Print the machine, the versions, and the dtype that the command line takes by default."""
    dtype = str(default_dtype(torch.device("cpu"))).removeprefix("torch.")
    print(
        f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}, {dtype}{more}",
        flush=True,
    )


def generate(*arguments: str) -> tuple[float, float]:
    """Run `python -m sdxl generate`; returns its seconds and its peak memory (RSS) in GB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "sdxl", "generate", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9
