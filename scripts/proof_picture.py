"""Proof: the command line draws a 1024 x 1024 picture in 2 steps from a full-size single file (random weights, so the
picture means nothing); time and peak memory of the whole process. Needs 7 GB of disk and 20 GB of memory.

    make proof-picture
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from proof_process import banner, generate

PROMPT = "A mecha robot in a favela in expressionist style"


def main() -> None:
    banner()
    with tempfile.TemporaryDirectory() as name:
        model, picture = Path(name) / "base.safetensors", Path(name) / "picture.png"
        script = Path(__file__).with_name("make_checkpoint.py")
        subprocess.run([sys.executable, script, "base", model], check=True)
        size = ("--width", "1024", "--height", "1024", "--steps", "2", "--seed", "1")
        seconds, peak = generate("--model", str(model), "--prompt", PROMPT, *size, "--output", str(picture))
        with Image.open(picture) as image:
            assert image.size == (1024, 1024)
            print(f"{image.size[0]}x{image.size[1]} PNG, {picture.stat().st_size:,} bytes")
        print(f"{seconds:.0f} s, peak memory (RSS) {peak:.1f} GB")


if __name__ == "__main__":
    main()
