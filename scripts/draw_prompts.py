"""Draw the pictures of docs/prompts.md with the miniature: `python scripts/draw_prompts.py`."""

from __future__ import annotations

from functools import partial

from draw_ideas import OUT, Draw, drawer, sheet

import sdxl

WEIGHTS = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
TIMES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
SHARES = (1.0, 0.8, 0.65, 0.5, 0.35, 0.2, 0.0)
SEEDS = (4, 5)


def draw_weights(draw: Draw) -> None:
    """One thing's weight, under the ways in which weights act."""
    text = "a (red star:{}) left of a blue circle on a yellow background"
    ways = ("original", "no_norm", "comfyui")
    rows = [[draw(text.format(weight), emphasis=way)[0] for weight in WEIGHTS] for way in ways]
    sheet(rows, [f"(red star:{weight})" for weight in WEIGHTS], ways).save(OUT / "weights.png")


def draw_changes(draw: Draw) -> None:
    """When one thing becomes another."""
    text = "a [red circle:red star:{}] on a yellow background"
    rows = [[draw(text.format(when), seed=seed)[0] for when in TIMES] for seed in SEEDS]
    sheet(rows, [f"at {when}" for when in TIMES], [f"seed {seed}" for seed in SEEDS]).save(OUT / "prompt_editing.png")


def draw_parts(draw: Draw) -> None:
    """Two prompts at once."""
    text = "a red circle on a yellow background :{:g} AND a blue star on a yellow background :{:g}"
    rows = [[draw(text.format(share, round(1 - share, 2)), seed=seed)[0] for share in SHARES] for seed in SEEDS]
    columns = [f"{share:g} AND {1 - share:.2g}" for share in SHARES]
    sheet(rows, columns, [f"seed {seed}" for seed in SEEDS]).save(OUT / "prompt_parts.png")


if __name__ == "__main__":
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    draw = partial(drawer(pipe), prompt_syntax="a1111")
    draw_weights(draw)
    draw_changes(draw)
    draw_parts(draw)
