"""Proof: decoding in strips gives the image of the whole decode, of 2048 x 2048 pixels, with at most half of its peak
memory and 1.5 times its seconds. The autoencoder has its full size, float32 and random weights, so the image means
nothing. Each way runs in a process of its own; memory is peak RSS above that with the weights loaded. Needs 20 GB.

    make proof-strips
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from common import banner, child, claim, finish, memory
from make_checkpoint import random_weight

from sdxl.models.config import VAEConfig
from sdxl.models.vae import VAE
from sdxl.runtime.vae_strips import ROWS, decode_strips

DIFFERENCE, MEMORY, SECONDS = 1e-4, 0.5, 1.5  # the bounds


@torch.no_grad()
def decode(way: str, size: int, rows: int, path: Path) -> None:
    """Decode seeded latents (1, 4, size, size), save the image, and print what it took."""
    vae, generator = VAE(VAEConfig()).eval(), torch.Generator().manual_seed(0)
    for name, weight in vae.named_parameters():
        weight.copy_(random_weight(name, weight.shape, weight.dtype, generator))
    z = torch.randn(1, 4, size, size, generator=generator)
    before, start, start_cpu = memory(), time.perf_counter(), time.process_time()
    pixels = vae.decode(z) if way == "whole" else decode_strips(vae, z, rows)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": (memory() - before) / 1e9}))
    torch.save(pixels, path)


def measure(way: str, size: int, rows: int, path: Path) -> dict[str, float]:
    """`decode` in a process of its own: its seconds, its seconds of CPU and its memory in GB."""
    taken: dict[str, float] = child(__file__, "--size", size, "--rows", rows, "--only", way, "--save", path)
    seconds = f"{taken['seconds']:.0f} s ({taken['cpu']:.0f} s of CPU)"
    print(f"{way:>6}: {seconds}, peak memory {taken['memory']:.2f} GB over the weights", flush=True)
    return taken


def compare(size: int, rows: int) -> None:
    """Decode in both ways."""
    banner(f"the VAE, latents {size}x{size}, strips of {rows} rows")
    with tempfile.TemporaryDirectory() as name:
        first, second = Path(name) / "whole.pt", Path(name) / "strips.pt"
        whole, strips = measure("whole", size, rows, first), measure("strips", size, rows, second)
        expected, actual = torch.load(first), torch.load(second)
    difference = float((actual - expected).abs().max())
    peak, seconds = (strips[key] / whole[key] for key in ("memory", "seconds"))
    print(f"{expected.shape[3]}x{expected.shape[2]} pixels, standard deviation {float(expected.std()):.2f}")
    claim("largest difference", difference, most=DIFFERENCE)
    claim("memory, of the whole decode's", peak, most=MEMORY)
    claim("seconds, of the whole decode's", seconds, most=SECONDS)
    finish()


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode in strips and whole, and compare.")
    parser.add_argument("--size", type=int, default=256, help="height and width in latents")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of latents in a strip")
    parser.add_argument("--only", choices=["whole", "strips"], help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        decode(options.only, options.size, options.rows, options.save)
    else:
        compare(options.size, options.rows)


if __name__ == "__main__":
    main()
