"""Proof: after a short training run more than half of the prompts with one object are right.

make smoke
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import banner, claim, finish

import sdxl
from sdxl.miniature.exam import make_scenes, mark


def main() -> None:
    folder = Path(sys.argv[1]) / "base"
    banner(str(folder))
    share = 100 * mark(sdxl.Pipeline.from_pretrained(folder, dtype="float32"), make_scenes(100, 1, things=1))
    claim("100 prompts with one object", share, 51, unit=" %")
    finish()


if __name__ == "__main__":
    main()
