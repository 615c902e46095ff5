"""Proof: the command line generates a 1024 x 1024 image in 2 steps from a full-size single file (random weights, so the
image means nothing), with its defaults within 7.5 GB, layer by layer within 3 GB, and both images are the same.

The layers of both ways round differently. Where the arithmetic is in float32 no value of a pixel differs by more than 2
levels; bfloat16 has 8 bits of mantissa, and the deviation of the difference is at most 1 / 20 of the image's.
Time and peak memory are of the whole process. Needs 7 GB of disk.

    make proof-picture
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import banner, checkpoints, claim, finish, generate
from numpy.typing import NDArray
from PIL import Image

from sdxl.runtime.placement import fastest

PROMPT = "A mecha robot in a favela in expressionist style"
DTYPES = "bfloat16", "float16"
LIMITS = {"auto": 7.5, "block": 3.0}  # GB


def main() -> None:
    with checkpoints("base") as folder:
        for dtype in DTYPES:
            arithmetic = fastest(torch.device("cpu"), dtype).arithmetic
            banner(f"an image of 1024 x 1024 in 2 steps, weights in {dtype}", f"arithmetic in {arithmetic}")
            whole, by_layer = (draw(folder, dtype, offload, most) for offload, most in LIMITS.items())
            difference, deviation = whole - by_layer, whole.std()
            if arithmetic == "float32":
                claim("levels by which the images differ", np.abs(difference).max(), most=2)
            else:
                claim("deviation of their difference, of the image's", difference.std() / deviation, most=0.05)
            print(f"the deviation of the image is {deviation:.0f} levels", flush=True)
    finish()


def draw(folder: Path, dtype: str, offload: str, most: float) -> NDArray[np.int16]:
    """The image (H, W, 3), in levels."""
    path = folder / f"{offload}.png"
    size = ("--width", "1024", "--height", "1024", "--steps", "2", "--seed", "1", "--dtype", dtype, "--quiet")
    given = ("--model", str(folder / "base.safetensors"), "--offload", offload, "--prompt", PROMPT, *size)
    seconds, peak = generate(*given, "--output", str(path))
    claim(f"--offload {offload}: {seconds:.0f} s, peak memory (RSS)", peak, most=most, unit=" GB")
    with Image.open(path) as image:
        claim(f"--offload {offload}: the size asked for", image.size == (1024, 1024))
        return np.asarray(image, np.int16)


if __name__ == "__main__":
    main()
