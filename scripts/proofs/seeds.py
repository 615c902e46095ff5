"""Proof: two training runs of one recipe with different seeds come out alike.

    make proof-seeds ARGS="FIRST SECOND"

FIRST and SECOND are folders that `train_miniature.py` wrote. Every share of right images must be within 3 points of
the other's.

A share has a standard error of its own, so there are more prompts with two things, where it is largest.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import banner, claim, finish

import sdxl
from sdxl.miniature.exam import make_scenes, mark

EXAMS = {
    "two things": make_scenes(400, 59, things=2),
    "held-in": make_scenes(200, 51, things=1),
    "held-out": make_scenes(200, 53, things=1, unseen=True),
}


def main() -> None:
    banner(" and ".join(sys.argv[1:3]))
    pipelines = [sdxl.Pipeline.from_pretrained(Path(name) / "base", dtype="float32") for name in sys.argv[1:3]]
    for name, scenes in EXAMS.items():
        first, second = (100 * mark(pipeline, scenes) for pipeline in pipelines)
        print(f"     {len(scenes)} prompts, {name}: {first:.1f} % and {second:.1f} %", flush=True)
        claim(f"{name}: points apart", abs(first - second), most=3)
    finish()


if __name__ == "__main__":
    main()
