"""Proof: a full-size refiner in the official single-file layout goes on after the full-size base, on a CPU (random
weights, so the image means nothing); time and peak memory of the process. Needs 13 GB of disk and 16 GB of memory.

    make proof-refiner
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import banner, checkpoints, claim, finish, generate
from PIL import Image

from sdxl.runtime.device import default_dtype

PROMPT = "A mecha robot in a favela in expressionist style"


def run(folder: Path, offload: str) -> bytes:
    """The pixels of an image by the command line."""
    models = ("--model", str(folder / "base.safetensors"), "--refiner", str(folder / "refiner.safetensors"))
    size = ("--width", "512", "--height", "512", "--steps", "5", "--seed", "1", "--quiet")
    path = folder / f"{offload}.png"
    seconds, peak = generate(*models, "--offload", offload, "--prompt", PROMPT, *size, "--output", str(path))
    print(f"--offload {offload}: 4 steps of the base and 1 of the refiner in {seconds:.0f} s, peak RSS {peak:.1f} GB")
    with Image.open(path) as image:
        claim(f"--offload {offload}: the size asked for", image.size == (512, 512))
        return image.tobytes()


def main() -> None:
    banner("512 x 512, float16 files", str(default_dtype(torch.device("cpu"))).removeprefix("torch."))
    with checkpoints("base", "refiner") as folder:
        claim("the two images are the same", run(folder, "stage") == run(folder, "none"))
    finish()


if __name__ == "__main__":
    main()
