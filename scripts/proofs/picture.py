"""Proof: the command line generates a 1024 x 1024 image in 2 steps from a full-size single file in bfloat16 (random
weights, so the image means nothing), with its defaults within 7.5 GB, layer by layer within 3 GB, the same image.

Time and peak memory are of the whole process. Needs 7 GB of disk.

    make proof-picture
"""

from __future__ import annotations

import numpy as np
from common import banner, checkpoints, claim, finish, generate
from PIL import Image

PROMPT = "A mecha robot in a favela in expressionist style"
LIMITS = {"auto": 7.5, "block": 3.0}  # GB


def main() -> None:
    banner("an image of 1024 x 1024 in 2 steps", "bfloat16")
    images = []
    with checkpoints("base") as folder:
        size = ("--width", "1024", "--height", "1024", "--steps", "2", "--seed", "1", "--dtype", "bfloat16", "--quiet")
        for offload, most in LIMITS.items():
            path = folder / f"{offload}.png"
            given = ("--model", str(folder / "base.safetensors"), "--offload", offload, "--prompt", PROMPT, *size)
            seconds, peak = generate(*given, "--output", str(path))
            with Image.open(path) as image:
                claim(f"--offload {offload}: the size asked for", image.size == (1024, 1024))
                images.append(np.asarray(image, np.int16))
            claim(f"--offload {offload}: {seconds:.0f} s, peak memory (RSS)", peak, most=most, unit=" GB")
    claim(
        f"levels by which the images differ, of a deviation of {images[0].std():.0f}",
        np.abs(images[0] - images[1]).max(),
        most=2,
    )
    finish()


if __name__ == "__main__":
    main()
