"""Proof: the distilled miniature draws in one and two steps, without guidance, what the miniature draws in many.

make proof-distilled
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import banner, claim, finish

import sdxl
from sdxl.miniature.exam import make_scenes, mark

FILE = Path("weights/adapters/two-steps.safetensors")
FEW: dict[str, Any] = {"schedule": "trailing", "guidance_scale": 1.0}


def main() -> None:
    banner(f"{FILE}, {FILE.stat().st_size / 1e6:.2f} MB")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
    scenes, pairs = make_scenes(200, 71, things=1), make_scenes(100, 72, things=2)
    print("     euler, trailing, guidance 1; 200 prompts with one thing")
    for steps in (1, 2):
        print(f"     without the LoRA, {steps} steps: {100 * mark(pipe, scenes, steps=steps, **FEW):.1f} %")
    pipe.set_loras([FILE])
    for steps, least in ((1, 50.0), (2, 90.0), (4, 90.0)):
        claim(f"with it, {steps} steps", 100 * mark(pipe, scenes, steps=steps, **FEW), least, unit=" %")
    ancestral = mark(pipe, scenes[:100], steps=4, sampler="euler_ancestral", **FEW)
    print(f"     euler_ancestral, 4 steps, 100 of them: {100 * ancestral:.1f} %")
    for steps in (1, 2, 4):
        print(f"     100 prompts with two things, {steps} steps: {100 * mark(pipe, pairs, steps=steps, **FEW):.1f} %")
    unseen = make_scenes(100, 73, things=1, unseen=True)
    print(f"     100 held-out combinations, 2 steps: {100 * mark(pipe, unseen, steps=2, **FEW):.1f} %")
    finish()


if __name__ == "__main__":
    main()
