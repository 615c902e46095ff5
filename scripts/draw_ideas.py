"""Draw the pictures of docs/ideas.md and of the README with the miniature: `python scripts/draw_ideas.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import sdxl
from sdxl.miniature.edges import edges
from sdxl.miniature.exam import make_picture
from sdxl.miniature.scenes import BUCKETS, Scene, Thing, to_image

OUT = Path("docs/pictures")
ADAPTERS = Path("weights/adapters")
PROMPT = "a red star on a blue background"
GALLERY = (
    "a red circle on a blue background",
    "a yellow star on a striped purple background",
    "a green triangle on a white background",
    "a small white ring on a black background",
    "a large orange cross on a dotted green background",
    "a black square on a checkered yellow background",
    "a yellow circle left of a purple square on a white background",
    "a white cross above a red ring on a blue background",
    "a blue star inside a yellow circle on a green background",
    "a purple triangle inside a white square on an orange background",
)


def sheet(rows: Sequence[Sequence[Image.Image]], columns: Sequence[str], labels: Sequence[str]) -> Image.Image:
    """Pictures in rows, with the names of the columns above and of the rows on the left."""
    gap, left, top = 6, 92 if any(labels) else 6, 20 if any(columns) else 6
    widths = [max(row[i].width for row in rows) for i in range(max(map(len, rows)))]
    heights = [max(image.height for image in row) for row in rows]
    whole = Image.new("RGB", (left + sum(widths) + gap * len(widths), top + sum(heights) + gap * len(heights)), "white")
    pen = ImageDraw.Draw(whole)
    y = top
    for row, label, height in zip(rows, labels, heights, strict=True):
        pen.text((6, y + height // 2 - 6), label, "black")
        x = left
        for image, width in zip(row, widths, strict=False):
            whole.paste(image, (x, y))
            x += width + gap
        y += height + gap
    x = left
    for name, width in zip(columns, widths, strict=False):
        pen.text((x, 4), name, "black")
        x += width + gap
    return whole


def images(result: sdxl.Result) -> list[Image.Image]:
    assert isinstance(result.images, list)
    return result.images


Draw = Callable[..., list[Image.Image]]


def drawer(pipe: sdxl.Pipeline) -> Draw:
    """`pipe` with the settings of this page."""

    def draw(prompt: str | Sequence[str] = PROMPT, **arguments: object) -> list[Image.Image]:
        return images(pipe(prompt, **{"seed": 4, "steps": 25, "progress": False, **arguments}))

    return draw


def draw_conditioning(draw: Draw) -> None:
    """Guidance, and the sizes that SDXL is conditioned on."""
    scales = (1.0, 1.5, 3.0, 5.0, 8.0, 15.0)
    columns = [draw(guidance_scale=scale, num_images=3) for scale in scales]
    rows = [[column[i] for column in columns] for i in range(3)]
    sheet(rows, [f"guidance {scale:g}" for scale in scales], ["seed 4", "seed 5", "seed 6"]).save(OUT / "guidance.png")

    tops, lefts = (0, 24, 48), (0, 12, 24, 36, 48)
    rows = [[draw(crop_top_left=(top, left))[0] for left in lefts] for top in tops]
    sheet(rows, [f"left {left}" for left in lefts], [f"top {top}" for top in tops]).save(OUT / "crop.png")

    sides = (24, 32, 48, 64, 96, 128)
    rows = [[draw(original_size=(side, side), seed=seed)[0] for side in sides] for seed in (4, 5)]
    sheet(rows, [f"original {side}" for side in sides], ["seed 4", "seed 5"]).save(OUT / "original_size.png")

    row = [draw(height=height, width=width)[0] for height, width in BUCKETS]
    sheet([row], [f"{width} x {height}" for height, width in BUCKETS], [""]).save(OUT / "aspect.png")


def draw_sampling(pipe: sdxl.Pipeline, draw: Draw) -> None:
    """The way from noise to picture, and the samplers."""
    counts, samplers = (2, 4, 6, 10, 25, 50), ("euler", "ddim", "heun", "dpmpp_2m", "euler_ancestral")
    rows = [[draw(steps=steps, sampler=sampler)[0] for steps in counts] for sampler in samplers]
    sheet(rows, [f"{steps} steps" for steps in counts], samplers).save(OUT / "samplers.png")

    steps = list(pipe.steps(PROMPT, seed=4, steps=10))
    guesses = pipe.decode(torch.cat([step.denoised for step in steps]))
    row = [to_image(np.moveaxis(guess.numpy(), 0, -1)) for guess in guesses]
    sheet([row], [f"sigma {step.sigma:.2f}" for step in steps], [""]).save(OUT / "steps.png")


def draw_from_pictures(draw: Draw) -> None:
    """Strength, inpainting with hard and grey masks, and outpainting."""
    source = draw("a yellow circle on a purple background")[0]
    strengths = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    row = [draw("a yellow star on a green background", image=source, strength=strength)[0] for strength in strengths]
    columns = ["image", *(f"strength {strength:g}" for strength in strengths)]
    sheet([[source, *row]], columns, [""]).save(OUT / "strength.png")

    circle = make_picture(Scene("blue", (Thing("yellow", "circle", radius=0.25),)))
    hard, ramp = Image.new("L", circle.size, 0), Image.linear_gradient("L").rotate(90).resize(circle.size)
    hard.paste(255, (20, 20, 108, 108))
    star = "a red star on a blue background"
    changed = draw(star, image=circle, mask=hard)[0]
    graded = draw("a yellow circle on a red background", image=circle, mask=ramp)[0]
    small = circle.crop((24, 24, 104, 104))
    wider = draw("a yellow circle on a blue background", image=small, outpaint=(24, 24, 24, 24))[0]
    shown = [circle, hard.convert("RGB"), changed, ramp.convert("RGB"), graded, small, wider]
    columns = ["image", "hard mask", "repainted", "grey mask", "repainted", "image", "outpainted"]
    sheet([shown], columns, [""]).save(OUT / "inpainting.png")


def draw_refiner() -> None:
    """Badly drawn scenes through the refiner, with the aesthetic scores that it is conditioned on."""
    draw = drawer(sdxl.Pipeline.from_pretrained("miniature-refiner", dtype="float32"))
    rows = []
    for i, (ground, colour, shape) in enumerate((("black", "green", "ring"), ("yellow", "orange", "star"))):
        flawed = make_picture(Scene(ground, (Thing(colour, shape),), flaw=0.6, seed=i))
        given = {"image": flawed, "strength": 0.2}
        prompt = f"a {colour} {shape} on a {ground} background"
        scores = [draw(prompt, aesthetic_score=score, guidance_scale=1.0, **given)[0] for score in (2.0, 4.5, 7.0)]
        rows.append([flawed, *scores, draw(prompt, aesthetic_score=7.0, **given)[0]])
    sheet(rows, ["badly drawn", "score 2", "score 4.5", "score 7", "7, guidance 5"], ["", ""]).save(OUT / "refiner.png")


def draw_lora(pipe: sdxl.Pipeline, draw: Draw) -> None:
    """The weight of the LoRA that knows hearts."""
    prompts = ("a red heart on a blue background", "a white heart left of a black star on a green background")
    columns, weights = [], (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    for weight in weights:
        pipe.set_loras([(ADAPTERS / "heart.safetensors", weight)])
        columns.append([draw(prompt)[0] for prompt in prompts])
    pipe.set_loras([])
    rows = [[column[i] for column in columns] for i in range(len(prompts))]
    sheet(rows, [f"weight {weight:g}" for weight in weights], ["one", "two"]).save(OUT / "lora.png")


def draw_distilled(pipe: sdxl.Pipeline, draw: Draw) -> None:
    """Few steps without guidance, of the miniature and of its distilled LoRA."""
    prompts = ("a green ring on a white background", "a blue star inside a yellow circle on a red background")
    counts, rows = (1, 2, 4, 8), []
    for prompt in prompts:
        for loras in ([], [ADAPTERS / "two-steps.safetensors"]):
            pipe.set_loras(loras)
            rows.append([draw(prompt, steps=n, schedule="trailing", guidance_scale=1.0)[0] for n in counts])
    pipe.set_loras([])
    columns = [f"{n} step{'s' * (n > 1)}" for n in counts]
    sheet(rows, columns, ["miniature", "distilled"] * len(prompts)).save(OUT / "distilled.png")


def draw_control(draw: Draw) -> None:
    """The ControlNet that knows edges: two images of them with several prompts, and its scale."""
    net = ADAPTERS / "edges.safetensors"
    star = edges(Scene("black", (Thing("white", "star", x=0.3, y=0.35, radius=0.27),)))
    inner = Thing("white", "ring", x=0.62, y=0.6, radius=0.16), Thing("white", "square", x=0.62, y=0.6, radius=0.4)
    grounds = ("a blue", "a purple", "a striped orange", "a green", "a black")
    one, two = ("a red", "a yellow", "a black", "a white", "a blue"), ("white", "orange", "yellow", "purple", "green")
    rows = [
        [
            star,
            *(
                draw(f"{a} star on {b} background", control=sdxl.Control(net, star))[0]
                for a, b in zip(one, grounds, strict=True)
            ),
        ],
    ]
    both = edges(Scene("black", inner))
    prompts = [f"{a} ring inside a {b} square on {c} background" for a, b, c in zip(one, two, grounds, strict=True)]
    rows.append([both, *(draw(prompt, control=sdxl.Control(net, both))[0] for prompt in prompts)])
    sheet(rows, ["edges"], ["", ""]).save(OUT / "control.png")

    scales = (0.0, 0.25, 0.5, 0.75, 1.0)
    rows = [
        [star, *(draw(seed=seed, control=sdxl.Control(net, star, scale=scale))[0] for scale in scales)]
        for seed in (4, 5)
    ]
    sheet(rows, ["edges", *(f"scale {scale:g}" for scale in scales)], ["seed 4", "seed 5"]).save(
        OUT / "control_scale.png"
    )


def draw_reference(draw: Draw) -> None:
    """The IP-Adapter that knows colours: two reference images, and its scale."""
    file, scales = ADAPTERS / "colours.safetensors", (0.0, 0.25, 0.5, 0.75, 1.0)
    scenes = Scene("blue", (Thing("orange", "square", x=0.4, y=0.6),)), Scene("red", (Thing("white", "ring", x=0.6),))
    rows = []
    for scene in scenes:
        image = make_picture(scene)
        for prompt in ("a star on a background", "a yellow star on a purple background"):
            made = [draw(prompt, reference=sdxl.Reference(file, image, scale=scale))[0] for scale in scales]
            rows.append([image, *made])
    labels = ["a star", "a yellow star"] * len(scenes)
    sheet(rows, ["reference", *(f"scale {scale:g}" for scale in scales)], labels).save(OUT / "reference.png")


def main() -> None:
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
    OUT.mkdir(parents=True, exist_ok=True)
    draw = drawer(pipe)
    gallery = [draw([prompt], seed=8)[0] for prompt in GALLERY]
    sheet([gallery[:5], gallery[5:]], [], ["", ""]).save(OUT / "gallery.png")
    draw_conditioning(draw)
    draw_sampling(pipe, draw)
    draw_from_pictures(draw)
    draw_refiner()
    draw_lora(pipe, draw)
    draw_distilled(pipe, draw)
    draw_control(draw)
    draw_reference(draw)


if __name__ == "__main__":
    main()
