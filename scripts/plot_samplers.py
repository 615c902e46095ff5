"""Which sampler should one take? The share of right images of the miniature by steps and calls.

python scripts/plot_samplers.py OUT.jsonl             # measures what OUT.jsonl lacks: half an hour on two cores
python scripts/plot_samplers.py OUT.jsonl OUT.png     # draws what is there, and prints the tables

Needs matplotlib to draw (`pip install sdxl[plots]`).
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sdxl
from sdxl.miniature.exam import make_scenes, mark
from sdxl.sampling import SAMPLERS, SCHEDULES

STEPS = (25, 4, 8, 12)
FEW = (2, 4, 8)
SCENES = make_scenes(30, 1, things=1) + make_scenes(30, 3, things=2)
DISTILLED = ("lcm", "tcd", "euler", "ddim")
Row = dict[str, Any]


def cases() -> Iterator[Row]:
    """All that is measured: samplers on trailing timesteps, schedules with one sampler, the distilled miniature."""
    for steps in STEPS:
        for sampler in SAMPLERS:
            if sampler not in ("lcm", "tcd", "res_multistep_ancestral"):
                yield {"sampler": sampler, "schedule": "trailing", "steps": steps, "distilled": False}
    for schedule in SCHEDULES:
        yield {"sampler": "dpmpp_2m", "schedule": schedule, "steps": 8, "distilled": False}
    for sampler in DISTILLED:
        for steps in FEW:
            yield {"sampler": sampler, "schedule": "trailing", "steps": steps, "distilled": True}


def measure(target: Path) -> None:
    """Append a line for each case that the file lacks."""
    warnings.simplefilter("ignore", sdxl.SDXLWarning)
    done = [{name: row[name] for name in ("sampler", "schedule", "steps", "distilled")} for row in read(target)]
    missing = [case for case in cases() if case not in done]
    pipes: dict[bool, sdxl.Pipeline] = {}
    for case in missing:
        own = {name: value for name, value in case.items() if name != "distilled"}
        is_distilled = case["distilled"]
        if is_distilled not in pipes:
            adapter = Path(__file__).parents[1] / "weights/adapters/two-steps.safetensors"
            loras = {"loras": [str(adapter)]} if is_distilled else {}
            pipes[is_distilled] = sdxl.Pipeline.from_pretrained("miniature", device="cpu", **loras)
        scale = 1.0 if is_distilled else 1.5 if SAMPLERS[case["sampler"]].with_pair else 5.0
        right = mark(pipes[is_distilled], SCENES, batch=30, guidance_scale=scale, **own)
        record = SAMPLERS[case["sampler"]]
        calls = record.calls * (case["steps"] - 1) + 1
        with target.open("a", encoding="utf-8") as file:
            print(json.dumps(case | {"calls": calls, "guidance_scale": scale, "right": round(right, 4)}), file=file)


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def tables(rows: list[Row]) -> None:
    """In Markdown: samplers by steps, schedules by steps, the distilled miniature by steps."""
    parts = {
        "sampler": [row for row in rows if row["schedule"] == "trailing" and not row["distilled"]],
        "schedule": [row for row in rows if row["sampler"] == "dpmpp_2m" and row["steps"] == 8],
        "distilled": [row | {"distilled": row["sampler"]} for row in rows if row["distilled"]],
    }
    for name, some in parts.items():
        counts = sorted({row["steps"] for row in some})
        print(f"\n| {name} | " + " | ".join(f"{count} steps" for count in counts) + " |")
        print("|---" * (len(counts) + 1) + "|")
        for each in dict.fromkeys(row[name] for row in some):
            shares = {row["steps"]: f"{100 * row['right']:.0f}" for row in some if row[name] == each}
            print(f"| `{each}` | " + " | ".join(shares.get(count, "") for count in counts) + " |")


def plot(rows: list[Row], target: Path) -> None:
    """The share of right images by calls of the UNet, a line for each sampler."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    some = [row for row in rows if row["schedule"] == "trailing" and not row["distilled"]]
    figure, axis = plt.subplots(figsize=(9, 5.5), constrained_layout=True)
    marks, styles = "os^vDXP", ("-", "--", ":")
    for i, sampler in enumerate(dict.fromkeys(row["sampler"] for row in some)):
        points = sorted((row["calls"], 100 * row["right"]) for row in some if row["sampler"] == sampler)
        style = {"marker": marks[i % 7], "linestyle": styles[i // 7], "markersize": 4, "linewidth": 1}
        axis.plot(*zip(*points, strict=True), label=sampler, **style)
    axis.set_xscale("log", base=2)
    axis.set_xticks([4, 8, 16, 32], ["4", "8", "16", "32"])
    axis.set_xlabel("calls of the UNet")
    axis.set_ylabel("right images of 60, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(target, dpi=100)


def main() -> None:
    source = Path(sys.argv[1])
    if len(sys.argv) == 2:
        measure(source)
        return
    tables(read(source))
    plot(read(source), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
