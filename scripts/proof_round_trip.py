"""Proof, at full size: single file -> folder -> single file gives every tensor back bit for bit. Needs 21 GB of disk.

make proof-round-trip
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors
import torch

import sdxl
from sdxl.weights.container import TensorFile


def main() -> None:
    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"safetensors {safetensors.__version__}, {time.strftime('%Y-%m-%d')}")
    script = Path(__file__).with_name("make_checkpoint.py")
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        first, middle, second = folder / "first.safetensors", folder / "folder", folder / "second.safetensors"
        for model, tensors in (("base", 2515), ("refiner", 1858)):
            subprocess.run([sys.executable, script, model, first], check=True)
            for source, target in ((first, middle), (middle, second)):
                start = time.perf_counter()
                sdxl.convert(source, target)
                print(f"{model}: {source.name} -> {target.name} in {time.perf_counter() - start:.1f} s")
            a, b = TensorFile(first), TensorFile(second)
            assert set(a.shapes) == set(b.shapes)
            assert len(a.shapes) == tensors, len(a.shapes)
            assert a.dtypes == b.dtypes
            assert set(a.dtypes.values()) == {"F16"}
            for key in a.shapes:
                assert torch.equal(a.read(key), b.read(key)), key
            size = sum(torch.Size(shape).numel() for shape in a.shapes.values())
            print(f"{model}: {len(a.shapes):,} tensors, {size:,} elements, all F16, all equal bit for bit")
            files = sorted(middle.glob("*/*.safetensors"))
            counts = {file.parent.name: len(TensorFile(file).shapes) for file in files}
            print(f"{model}: tensors in the folder: {counts}")
            subprocess.run(["rm", "-r", first, middle, second], check=True)


if __name__ == "__main__":
    main()
