"""What the miniature's proofs share: measured values beside their bounds, and an exit status that says if all held."""

from __future__ import annotations

import platform
import sys
import time

import numpy as np
import torch

from sdxl.miniature.scenes import Pixels

_FAILURES: list[str] = []


def start(what: str) -> float:
    """Print what is proved on which machine; returns the time."""
    threads = f"{torch.get_num_threads()} threads"
    print(f"{what}, {platform.platform()}, {threads}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, float32")
    return time.perf_counter()


def claim(what: str, value: float, least: float, unit: str = "") -> None:
    """Print a measured value beside its bound."""
    good = value >= least
    print(f"{'ok  ' if good else 'FAIL'} {what}: {value:.4g}{unit} (at least {least:g}{unit})", flush=True)
    if not good:
        _FAILURES.append(what)


def finish(began: float) -> None:
    """Print the outcome and exit: 0 if all held."""
    failed = "FAILED: " + "; ".join(_FAILURES) if _FAILURES else "all held"
    print(f"{time.perf_counter() - began:.0f} s in all; {failed}")
    sys.exit(bool(_FAILURES))


def psnr(a: Pixels, b: Pixels) -> float:
    """In dB, of pictures in 0..1; at most 120."""
    return float(-10 * np.log10(max(float(np.mean((a.astype(np.float64) - b) ** 2)), 1e-12)))
