"""Judge a short training run: it passes if more than half of the one-object prompts are drawn right (`make smoke`)."""

from __future__ import annotations

import sys
from pathlib import Path

import sdxl
from sdxl.miniature.exam import make_scenes, mark


def main() -> None:
    folder = Path(sys.argv[1]) / "base"
    share = mark(sdxl.Pipeline.from_pretrained(folder, dtype="float32"), make_scenes(100, 1, things=1))
    print(f"{folder}: {100 * share:.0f} % of 100 one-object prompts are right (more than 50 % wanted)")
    sys.exit(share <= 0.5)


if __name__ == "__main__":
    main()
