"""Proof, at full size: single file -> folder -> single file gives every tensor back bit for bit. Needs 21 GB of disk.

make proof-round-trip
make proof-round-trip ARGS=FOLDER     # where there is room
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import SCRIPTS, banner, claim, finish

import sdxl
from sdxl.weights.container import TensorFile


def main() -> None:
    banner("official files of full size", "float16", ["safetensors"])
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        first, middle, second = folder / "first.safetensors", folder / "folder", folder / "second.safetensors"
        for model, tensors in (("base", 2515), ("refiner", 1858)):
            subprocess.run([sys.executable, SCRIPTS / "make_checkpoint.py", model, first], check=True)
            for source, target in ((first, middle), (middle, second)):
                start = time.perf_counter()
                sdxl.convert(source, target)
                print(f"{model}: {source.name} -> {target.name} in {time.perf_counter() - start:.1f} s")
            a, b = TensorFile(first), TensorFile(second)
            claim(f"{model}: tensors", len(a.shapes), tensors, tensors)
            claim(f"{model}: all of them in float16", a.dtypes == b.dtypes and {*a.dtypes.values()} == {"F16"})
            same = a.shapes.keys() == b.shapes.keys() and all(torch.equal(a.read(key), b.read(key)) for key in a.shapes)
            size = sum(torch.Size(shape).numel() for shape in a.shapes.values())
            claim(f"{model}: {size:,} elements, all equal bit for bit", same)
            files = sorted(middle.glob("*/*.safetensors"))
            counts = {file.parent.name: len(TensorFile(file).shapes) for file in files}
            print(f"{model}: tensors in the folder: {counts}")
            subprocess.run(["rm", "-r", first, middle, second], check=True)
    finish()


if __name__ == "__main__":
    main()
