"""Proof, at full size: a ControlNet of random weights beside a model of random weights, at 512 x 512.

    make proof-control                                          # makes a checkpoint of 7 GB in a temporary folder
    make proof-control ARGS=weights/random_base.safetensors     # takes one that make_checkpoint.py has made

For each way to keep the model: the processor time of a step with and without the ControlNet (medians, in turn), and
the peak of memory; without it the latents are bit for bit those of before.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import banner, checkpoints, child, claim, finish, memory
from make_checkpoint import random_weight
from PIL import Image

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

    def steps(given: sdxl.Control | None) -> tuple[list[float], torch.Tensor]:
        """The time of each step but the first, with which things happen once; and the last latents."""
        times, latents = list[float](), torch.empty(0)
        for step in pipe.steps("a cat", width=size, height=size, steps=4, seed=1, control=given):
            times.append(time.process_time())
            latents = step.latents
        return [after - before for before, after in pairwise(times)], latents

    found: dict[str, Any] = {"mode": mode, "bitwise": True}
    times: dict[str, list[float]] = {"without": [], "with": []}
    before: torch.Tensor | None = None
    for name in ("without", "with") * ROUNDS:
        given = control if name == "with" else None
        own, latents = steps(given)
        times[name] += own
        if given is None:
            found["bitwise"] &= before is None or torch.equal(latents, before)
            before = latents
        found.setdefault(f"peak {name}", memory() / 1e9)
    found |= {name: median(each) for name, each in times.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--net", type=Path)
    parser.add_argument("--mode")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    if options.mode is not None:
        print(json.dumps(measure(str(options.model), str(options.net), options.mode, options.size, options.dtype)))
        return
    banner("a ControlNet of full size", options.dtype)
    with checkpoints(*([] if options.model else ["base"])) as folder:
        model, net = options.model or folder / "base.safetensors", folder / "net.safetensors"
        print(f"a ControlNet of {write_net(model, net):,} numbers, {net.stat().st_size / 1e9:.2f} GB", flush=True)
        for mode in MODES:
            given = ("--mode", mode, "--size", options.size, "--dtype", options.dtype)
            found = child(__file__, model, "--net", net, *given)
            print(
                f"{options.dtype}, {mode}: a step {found['without']:.2f} s, with it {found['with']:.2f} s "
                f"({found['with'] / found['without']:.2f}); peak {found['peak without']:.2f} GB, with it "
                f"{found['peak with']:.2f} GB",
                flush=True,
            )
            claim(f"{mode}: without it again bit for bit the same", found["bitwise"])
    finish()


if __name__ == "__main__":
    main()
