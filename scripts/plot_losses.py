"""The loss curves of a training run: `python scripts/plot_losses.py weights/training/losses.csv OUT.png`.

Needs matplotlib (`pip install ".[plots]"`).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STAGES = ("autoencoder", "base", "refiner")


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    rows = list(csv.reader(source.open()))
    figure, axes = plt.subplots(1, len(STAGES), figsize=(10, 2.8), constrained_layout=True)
    for axis, stage in zip(axes, STAGES, strict=True):
        # a run that went on from a saved file logged some updates twice: the later row holds
        points = {int(step): (float(loss), float(seconds)) for name, step, loss, seconds in rows if name == stage}
        axis.semilogy(list(points), [loss for loss, _ in points.values()], linewidth=1.2)
        axis.set_title(f"{stage}, {max(seconds for _, seconds in points.values()) / 60:.0f} min", fontsize=10)
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss, mean of 50 updates")
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()
