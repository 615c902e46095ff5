"""Proof, at full size: a ControlNet of random weights beside a model of random weights, at 512 x 512.

    python scripts/make_checkpoint.py base weights/random_base.safetensors
    python scripts/proof_control.py weights/random_base.safetensors

For each way to keep the model: the processor time of a step with and without the ControlNet (medians, in turn), and
the peak of memory; without it the latents are bit for bit those of before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from make_checkpoint import random_weight
from PIL import Image
from proof_adapters import peak

import sdxl
from sdxl.models import ControlNetConfig
from sdxl.models.unet_config import UNetConfig
from sdxl.weights import open_checkpoint
from sdxl.weights.component import Component
from sdxl.weights.container import Weights, save_tensors
from sdxl.weights.control_keys import controlnet_rows

ROUNDS = 3
MODES = ("none", "stage", "block")


def write_net(model: Path, path: Path) -> int:
    """A ControlNet for a model in diffusers' names and float16; how many numbers it has."""
    unet = open_checkpoint(model).components["unet"].config
    assert isinstance(unet, UNetConfig)
    config = ControlNetConfig(unet)
    rows, generator = list(controlnet_rows(config)), torch.Generator().manual_seed(0)
    empty = Component("", config, rows, "", Weights([])).build()
    shapes = {name: value.shape for name, value in empty.state_dict().items()}
    state = {row.folder: random_weight(row.ours, shapes[row.ours], torch.float16, generator) for row in rows}
    save_tensors(state, path, {})
    return sum(value.numel() for value in state.values())


def measure(model: str, net: str, mode: str, size: int, dtype: str) -> dict[str, Any]:
    """One process: steps in turn without and with the ControlNet."""
    pipe = sdxl.Pipeline.from_pretrained(model, device="cpu", offload=mode, dtype=dtype)
    control = sdxl.Control(net, Image.effect_noise((size, size), 60).convert("RGB"))

    def steps(count: int, given: sdxl.Control | None) -> tuple[float, torch.Tensor]:
        began = time.process_time()
        arguments: dict[str, Any] = {"width": size, "height": size, "steps": count, "seed": 1, "control": given}
        images = pipe("a cat", output="latent", progress=False, **arguments).images
        assert isinstance(images, torch.Tensor)
        return time.process_time() - began, images

    found: dict[str, Any] = {"mode": mode, "bitwise": True}
    times: dict[str, list[float]] = {"without": [], "with": []}
    before: torch.Tensor | None = None
    for name in ("without", "with") * ROUNDS:
        given = control if name == "with" else None
        (first, _), (second, images) = steps(1, given), steps(3, given)
        times[name].append((second - first) / 2)  # of one step, without what happens once
        if given is None:
            found["bitwise"] &= before is None or torch.equal(images, before)
            before = images
        found.setdefault(f"peak {name}", peak())
    found |= {name: median(each) for name, each in times.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--net", type=Path)
    parser.add_argument("--mode")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    if options.mode is not None:
        print(json.dumps(measure(str(options.model), str(options.net), options.mode, options.size, options.dtype)))
        return
    good = True
    with tempfile.TemporaryDirectory() as folder:
        net = Path(folder) / "net.safetensors"
        print(f"a ControlNet of {write_net(options.model, net):,} numbers, {net.stat().st_size / 1e9:.2f} GB")
        for mode in MODES:
            command = [sys.executable, __file__, str(options.model), "--net", str(net), "--mode", mode]
            command += ["--size", str(options.size), "--dtype", options.dtype]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            good &= found["bitwise"]
            print(
                f"{options.dtype}, {mode}: a step {found['without']:.2f} s, with it {found['with']:.2f} s "
                f"({found['with'] / found['without']:.2f}); peak {found['peak without']:.2f} GB, with it "
                f"{found['peak with']:.2f} GB; without it again {'bitwise' if found['bitwise'] else 'NOT'} the same",
                flush=True,
            )
    sys.exit(not good)


if __name__ == "__main__":
    main()
