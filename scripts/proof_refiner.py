"""Proof: a full-size refiner in the official single-file layout goes on after the full-size base, on a CPU (random
weights, so the picture means nothing); time and peak memory of the process. Needs 13 GB of disk and 16 GB of memory.

    make proof-refiner
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from proof_process import banner, generate

PROMPT = "A mecha robot in a favela in expressionist style"


def draw(folder: Path, offload: str) -> None:
    """One picture by the command line."""
    models = ("--model", str(folder / "base.safetensors"), "--refiner", str(folder / "refiner.safetensors"))
    size = ("--width", "512", "--height", "512", "--steps", "5", "--seed", "1", "--quiet")
    picture = folder / f"{offload}.png"
    seconds, peak = generate(*models, "--offload", offload, "--prompt", PROMPT, *size, "--output", str(picture))
    with Image.open(picture) as image:
        assert image.size == (512, 512)
    print(f"--offload {offload}: 4 steps of the base and 1 of the refiner in {seconds:.0f} s, peak RSS {peak:.1f} GB")


def main() -> None:
    banner(", 512 x 512, float16 files")
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
