"""Time by stage against the limit: `python scripts/plot_benchmarks.py docs/benchmarks/cuda.jsonl OUT.png`.

Bars are medians of what `scripts/benchmark.py --out` kept; the line across each group is the stage's operations at the
matrix rate that the same runs measured. Needs matplotlib (`pip install ".[plots]"`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sdxl.cli.measure import count_flop
from sdxl.models.published import BASE

STAGES = ("step", "decode")


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    lines = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    machine = next(line["device"] for line in lines if line["stage"] == "machine")
    timed = [line for line in lines if line["stage"] in STAGES]
    groups = sorted({(line["stage"], line["size"], line["dtype"]) for line in timed}, key=str)
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 3.2 * rows), constrained_layout=True, squeeze=False
    )
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    for axis, (stage, size, dtype) in zip(axes.flat, groups, strict=False):
        bars: dict[str, list[float]] = {}
        for line in timed:
            if (line["stage"], line["size"], line["dtype"]) == (stage, size, dtype):
                how = "int8" if line.get("int8") else "compiled" if line["compile"] else "eager"
                label = f"{line['who']}\n{how}" if line["who"] in ("sdxl", "diffusers") else line["who"]
                bars.setdefault(label, []).append(line["seconds"])
        heights = [median(values) for values in bars.values()]
        colours = ["#3366cc" if label.startswith("sdxl") else "#888888" for label in bars]
        drawn = axis.bar(list(bars), heights, color=colours)
        axis.bar_label(drawn, fmt="%.3g s", fontsize=8, color="white", label_type="center")
        axis.axhline(limit(lines, stage, size, dtype), color="black", linewidth=1, linestyle="--")
        axis.set_title(f"{stage}, {size} px, {dtype}", fontsize=10)
        axis.tick_params(axis="x", labelsize=8)
    for first in axes[:, 0]:
        first.set_ylabel("seconds (dashed: at the matrix rate)", fontsize=8)
    figure.suptitle(machine, fontsize=10)
    figure.savefig(target, dpi=100)


def limit(lines: list[dict[str, Any]], stage: str, size: int, dtype: str) -> float:
    """Seconds that the operations of a stage take at the machine's rate for square matrices."""
    rates = [line["tflops"] for line in lines if line["stage"] == "matrix product" and line["dtype"] == dtype]
    return count_flop(BASE, size, size)[stage] / 1e12 / median(rates)


if __name__ == "__main__":
    main()
