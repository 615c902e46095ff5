"""Proof: weights, changes and parts of prompts do what they say, judged from the pixels of the miniature's images.

    make proof-prompts

1. Of 100 prompts of two things (50 for ComfyUI's way), the area of the first thing is measured with its words at the
   weights 0.6, 1 and 1.4; ground, other words and seeds are the same. The area is that of the pixels of its colour,
   edges left out, as the mean of eight seeds. Larger and smaller mean by more than 0.2 % of the image. From the lowest
   weight to the highest no thing becomes smaller. From 1 to 1.4 one of 100 does, a star, by 0.23 % of the image.
2. `[old:new:when]`: 30 prompts of one thing; the earlier the change, the more images show the new thing.
3. AND: the same 30 pairs of prompts; the one of more weight is the one in the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from common import banner, claim, finish, paint_prompts
from numpy.typing import NDArray

import sdxl
from sdxl.miniature.exam import make_changes, make_scenes
from sdxl.miniature.judge import View, area, look
from sdxl.miniature.scenes import Pixels, Scene, Thing, caption

WEIGHTS = (0.6, 1.0, 1.4)
SEEDS = range(0, 8000, 1000)
CLEAR = 0.002  # of the image
TIMES = ("0.0", "0.3", "0.6", "0.9", "1.0")
SHARES = ((0.8, 0.2), (0.5, 0.5), (0.2, 0.8))


def paint(pipe: sdxl.Pipeline, prompts: Sequence[str], steps: int = 15, seed: int = 0, **more: Any) -> list[Pixels]:
    """An image of each prompt; image i has seed `seed` + i."""
    return paint_prompts(pipe, prompts, 10, seed=seed, steps=steps, sampler="euler", prompt_syntax="a1111", **more)


def words(thing: Thing) -> str:
    """As the plain caption has it."""
    return f"{thing.colour} {thing.shape}"


def weighted(scene: Scene, weight: float) -> str:
    """The caption with a weight on its first thing."""
    name = words(scene.things[0])
    return caption(scene).replace(name, f"({name}:{weight})", 1)


def prove_weights(pipe: sdxl.Pipeline, emphasis: str, count: int) -> None:
    scenes = make_scenes(100, 5, things=2)[:count]
    areas, present = list[NDArray[np.float64]](), list[float]()
    for weight in WEIGHTS:
        prompts = [weighted(scene, weight) for scene in scenes]
        colours = [scene.things[0].colour for scene in scenes] * len(SEEDS)
        images = [image for seed in SEEDS for image in paint(pipe, prompts, seed=seed, emphasis=emphasis)]
        sizes = [area(pixels, own) for pixels, own in zip(images, colours, strict=True)]
        areas.append(np.array(sizes).reshape(len(SEEDS), count).mean(0))
        seen = [any(each.colour == own for each in look(p).things) for p, own in zip(images, colours, strict=True)]
        present.append(float(np.mean(seen)))
        print(
            f"     {emphasis}, weight {weight}: area {100 * areas[-1].mean():.2f} %, "
            f"present in {sum(seen)} of {len(seen)}"
        )
    for low, high in ((0, 1), (1, 2), (0, 2)):
        change, name = areas[high] - areas[low], f"{emphasis}, {WEIGHTS[low]} to {WEIGHTS[high]}"
        larger, smaller = int((change > CLEAR).sum()), int((change < -CLEAR).sum())
        claim(f"{name}: larger", 100 * larger / count, 90, unit=" %")
        least = 100 if (low, high) == (0, len(WEIGHTS) - 1) else 98
        claim(f"{name}: not smaller", 100 * (count - smaller) / count, least, unit=" %")
        worst = int(change.argmin())
        print(f"     the least change {100 * change[worst]:+.2f} %: {weighted(scenes[worst], WEIGHTS[high])}")
    claim(f"{emphasis}: present no less often", min(np.diff(present)), 0)


def shows(views: Sequence[View], scenes: Sequence[Scene]) -> float:
    """The part of the images that have a thing of the scene's colour and shape."""
    pairs = [(view, scene.things[0]) for view, scene in zip(views, scenes, strict=True)]
    return float(np.mean([any((s.colour, s.shape) == (t.colour, t.shape) for s in v.things) for v, t in pairs]))


def prove_changes(pipe: sdxl.Pipeline) -> None:
    olds, news = zip(*make_changes(30, 6), strict=True)
    parts = []
    for when in TIMES:
        prompts = [
            caption(old).replace(words(old.things[0]), f"[{words(old.things[0])}:{words(new.things[0])}:{when}]")
            for old, new in zip(olds, news, strict=True)
        ]
        views = [look(pixels) for pixels in paint(pipe, prompts)]
        parts.append((shows(views, olds), shows(views, news)))
        print(f"     [old:new:{when}]: the old thing in {parts[-1][0]:.0%}, the new one in {parts[-1][1]:.0%}")
    claim("[old:new:0.3] shows the new thing", 100 * parts[1][1], 95, unit=" %")
    claim("[old:new:1.0] shows the old thing", 100 * parts[-1][0], 95, unit=" %")
    claim("a later change shows the old thing no less often", min(np.diff([old for old, _ in parts])), 0)
    claim("a later change shows the new thing no more often", -max(np.diff([new for _, new in parts])), 0)


def prove_parts(pipe: sdxl.Pipeline) -> None:
    olds, news = zip(*make_changes(30, 6), strict=True)
    parts = []
    for one, other in SHARES:
        pairs = zip(olds, news, strict=True)
        prompts = [f"{caption(old)} :{one} AND {caption(new)} :{other}" for old, new in pairs]
        views = [look(pixels) for pixels in paint(pipe, prompts)]
        colours = [
            float(
                np.mean(
                    [any(s.colour == t.things[0].colour for s in v.things) for v, t in zip(views, own, strict=True)]
                )
            )
            for own in (olds, news)
        ]
        parts.append(colours)
        print(f"     weights {one} and {other}: the first colour in {colours[0]:.0%}, the second in {colours[1]:.0%}")
    claim("0.8 AND 0.2 shows the first colour", 100 * parts[0][0], 95, unit=" %")
    claim("0.2 AND 0.8 shows the second colour", 100 * parts[-1][1], 95, unit=" %")
    claim("less weight shows the first colour no more often", -max(np.diff([first for first, _ in parts])), 0)
    claim("more weight shows the second colour no less often", min(np.diff([second for _, second in parts])), 0)


def main() -> None:
    banner("prompts of the miniature")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
    prove_weights(pipe, "original", 100)
    prove_weights(pipe, "comfyui", 50)
    prove_changes(pipe)
    prove_parts(pipe)
    finish()


if __name__ == "__main__":
    main()
