"""Proof, at full size: a LoRA of rank 64 over all 986 modules that kohya's scripts train, on a model of random weights.

    make proof-adapters                                          # makes a checkpoint of 7 GB in a temporary folder
    make proof-adapters ARGS=weights/random_base.safetensors     # takes one that make_checkpoint.py has made

In stage (float32) and in block (bfloat16): the time to set it, one step at 512 x 512 with it, and to remove it; the
peak of memory with it and without; and after its removal the latents of before, bit for bit.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import banner, checkpoints, child, claim, finish, memory

import sdxl
from sdxl.weights import open_checkpoint
from sdxl.weights.container import save_tensors
from sdxl.weights.keymap import UNET_PREFIX

RANK = 64
MODES = (("stage", "float32"), ("block", "bfloat16"))
PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
TRAINED = {
    "unet": re.compile(r".*attn\.\d+\.(proj_in|proj_out|blocks\.\d+\.((self|cross)_attn|ff)\.\w+)\.weight"),
    "text_encoder": re.compile(r"layers\.\d+\.(attn|ff)\.\w+\.weight"),
}
TRAINED["text_encoder_2"] = TRAINED["text_encoder"]


def write_lora(model: Path, path: Path) -> int:
    """A LoRA in float16 over the modules that kohya's scripts train; how many there are."""
    state, generator = {}, torch.Generator().manual_seed(0)
    for name, component in open_checkpoint(model).components.items():
        shapes = {own: value.shape for own, value in component.build().state_dict().items()}
        for row in component.rows if name in TRAINED else ():
            if not TRAINED[name].fullmatch(row.ours):
                continue
            theirs = row.single.removeprefix(UNET_PREFIX) if name == "unet" else row.folder
            module = PREFIXES[name] + theirs.rpartition(".")[0].replace(".", "_")
            out, fan = shapes[row.ours]
            up, down = torch.randn(out, RANK, generator=generator), torch.randn(RANK, fan, generator=generator)
            state[f"{module}.lora_up.weight"] = (up / RANK**0.5).half()
            state[f"{module}.lora_down.weight"] = (0.1 * down / fan**0.5).half()
            state[f"{module}.alpha"] = torch.tensor(float(RANK)).half()
    save_tensors(state, path, {})
    return len(state) // 3


def measure(model: str, lora: str, mode: str, dtype: str) -> dict[str, Any]:
    """One process: load, a step, and with a LoRA: set it, a step, remove it, and a step."""

    def step() -> torch.Tensor:
        images = pipe("a cat", width=512, height=512, steps=1, seed=1, output="latent", progress=False).images
        assert isinstance(images, torch.Tensor)
        return images

    def timed(name: str, work: Any) -> Any:
        began = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - began
        return result

    seconds: dict[str, float] = {}
    pipe = timed("load", lambda: sdxl.Pipeline.from_pretrained(model, device="cpu", offload=mode, dtype=dtype))
    before = timed("step", step)
    facts: dict[str, Any] = {"dtype": str(pipe.dtype), "seconds": seconds}
    if lora:
        timed("set", lambda: pipe.set_loras([lora]))
        facts["changes"] = not torch.equal(timed("step with it", step), before)
        timed("remove", lambda: pipe.set_loras([]))
        facts["restored"] = torch.equal(timed("step after it", step), before)
    return facts | {"peak": memory() / 1e9}


def prove(model: Path, folder: Path) -> None:
    lora = folder / "lora.safetensors"
    count = write_lora(model, lora)
    claim(f"modules of rank {RANK}, {lora.stat().st_size / 1e9:.2f} GB in float16", count, 986, 986)
    for mode, dtype in MODES:
        plain, changed = (child(__file__, "--measure", model, file, mode, dtype) for file in ("", lora))
        times = ", ".join(f"{name} {value:.1f} s" for name, value in changed["seconds"].items())
        name = f"offload {mode}, {changed['dtype']}"
        print(f"{name}: {times}; peak {changed['peak']:.2f} GB, {plain['peak']:.2f} without", flush=True)
        claim(f"{name}: more memory with it", changed["peak"] - plain["peak"], most=1, unit=" GB")
        claim(f"{name}: it changes the latents", changed["changes"])
        claim(f"{name}: bit for bit the first latents after its removal", changed["restored"])


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
        return
    banner("a LoRA over a whole model of full size", "float32 and bfloat16")
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with checkpoints(*([] if given else ["base"])) as folder:
        prove(given or folder / "base.safetensors", folder)
    finish()


if __name__ == "__main__":
    main()
