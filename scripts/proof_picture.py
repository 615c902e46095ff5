"""Proof: the command line draws a 1024 x 1024 picture in 2 steps from a full-size single file in bfloat16 (random
weights, so the picture means nothing), with its defaults within 7.5 GB, layer by layer within 3 GB, the same picture.

Time and peak memory are of the whole process. Needs 7 GB of disk.

    make proof-picture
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from proof_process import banner, generate

PROMPT = "A mecha robot in a favela in expressionist style"
LIMITS = {"auto": 7.5, "block": 3.0}  # GB


def main() -> None:
    banner(", weights in bfloat16")
    kept = True
    pictures = []
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "base.safetensors"
        script = Path(__file__).with_name("make_checkpoint.py")
        subprocess.run([sys.executable, script, "base", model], check=True)
        size = ("--width", "1024", "--height", "1024", "--steps", "2", "--seed", "1", "--dtype", "bfloat16", "--quiet")
        for offload, most in LIMITS.items():
            picture = Path(name) / f"{offload}.png"
            given = ("--model", str(model), "--offload", offload, "--prompt", PROMPT, *size)
            seconds, peak = generate(*given, "--output", str(picture))
            with Image.open(picture) as image:
                assert image.size == (1024, 1024)
                pictures.append(np.asarray(image, np.int16))
            kept = kept and peak <= most
            print(f"--offload {offload}: {seconds:.0f} s, peak memory (RSS) {peak:.2f} GB (at most {most})", flush=True)
    difference = int(np.abs(pictures[0] - pictures[1]).max())
    print(f"largest difference of the two pictures: {difference} of 255, standard deviation {pictures[0].std():.0f}")
    sys.exit(not kept or difference > 2)


if __name__ == "__main__":
    main()
