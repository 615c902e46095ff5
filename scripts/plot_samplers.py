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

STEPS = (25, 8, 4, 12, 30)
FEW = (2, 4, 8)
SCENES = make_scenes(30, 1, things=1) + make_scenes(30, 3, things=2)
DISTILLED = ("lcm", "tcd", "euler", "ddim")
Row = dict[str, Any]


def cases() -> Iterator[Row]:
    """All that is measured: samplers on two schedules, schedules with one sampler, the distilled miniature."""
    samplers = [name for name in SAMPLERS if name not in ("lcm", "tcd", "res_multistep_ancestral")]
    for schedule, steps in (("trailing", 25), *(("karras", steps) for steps in STEPS)):
        yield from (_case(sampler, schedule, steps) for sampler in samplers)
    yield from (_case("dpmpp_2m", schedule, 8) for schedule in SCHEDULES if schedule != "karras")
    yield from (_case(sampler, "trailing", steps, distilled=True) for sampler in DISTILLED for steps in FEW)


def _case(sampler: str, schedule: str, steps: int, distilled: bool = False) -> Row:
    return {"sampler": sampler, "schedule": schedule, "steps": steps, "distilled": distilled}


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
    """In Markdown: samplers by steps, schedules with one sampler, the distilled miniature by steps."""
    plain, distilled = ([row for row in rows if row["distilled"] == which] for which in (False, True))
    columns = [("karras", steps) for steps in sorted(STEPS)] + [("trailing", 25)]
    _table(plain, [f"{schedule}, {steps} steps" for schedule, steps in columns], columns)
    _table(distilled, [f"{steps} steps" for steps in FEW], [("trailing", steps) for steps in FEW])
    eight = {row["schedule"]: row["right"] for row in plain if row["sampler"] == "dpmpp_2m" and row["steps"] == 8}
    print("\n| schedule | right |\n|---|---|")
    for schedule, right in sorted(eight.items(), key=lambda each: -each[1]):
        print(f"| `{schedule}` | {100 * right:.0f} |")


def _table(rows: list[Row], heads: list[str], columns: list[tuple[str, int]]) -> None:
    print("\n| sampler | " + " | ".join(heads) + " |\n" + "|---" * (len(heads) + 1) + "|")
    for sampler in sorted({row["sampler"] for row in rows}):
        shares = {(row["schedule"], row["steps"]): row["right"] for row in rows if row["sampler"] == sampler}
        cells = [f"{100 * shares[column]:.0f}" if column in shares else "" for column in columns]
        print(f"| `{sampler}` | " + " | ".join(cells) + " |")


def plot(rows: list[Row], target: Path) -> None:
    """The share of right images by calls of the UNet, a line for each sampler."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    some = [row for row in rows if row["schedule"] == "karras" and not row["distilled"]]
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
