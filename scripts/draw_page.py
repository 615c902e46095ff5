"""Make docs/pictures/page.png: the page of `sdxl serve` in a browser, with a mask and what came of it.

python scripts/draw_page.py            # after make browser
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/serve"))

from browser import Tab, started  # noqa: E402
from serving import serving  # noqa: E402

import sdxl  # noqa: E402

OUT = ROOT / "docs/pictures/page.png"
MOST = 200_000  # bytes
SCENES = (
    ("a small white ring on a black background", 3),
    ("a large orange cross on a dotted green background", 2),
    ("a purple triangle inside a white square on an orange background", 7),
    ("a blue star inside a yellow circle on a green background", 4),
    ("a yellow star on a striped purple background", 5),
    ("a red circle on a blue background", 7),
)


def main() -> None:
    adapters = ROOT / "weights/adapters"
    model = sdxl.ModelRequest("miniature", dtype="float32", device="cpu", lora_dir=adapters)
    with serving([model]) as running, started() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
        tab = Tab(f"http://127.0.0.1:{running.client.port}/", context)
        for prompt, seed in SCENES:
            tab.fill(prompt=prompt, seed=seed, steps=25)
            tab.generate()
        tab.at("#start").click()
        tab["mask"].wait_for()
        tab["brush-size"].fill("52")
        tab.stroke((0.38, 0.4), (0.62, 0.4), (0.62, 0.58), (0.38, 0.62), (0.36, 0.4))
        tab.fill(prompt="a yellow star on a blue background", seed=2)
        tab.generate()
        tab.at("#form").evaluate("form => form.scrollTo(0, 0)")
        box = tab["mask"].bounding_box()
        tab.page.mouse.move(box["x"] + 0.72 * box["width"], box["y"] + 0.66 * box["height"])
        tab.page.wait_for_timeout(500)  # until what moves has come to rest
        shot = Image.open(io.BytesIO(tab.page.screenshot()))
    shot.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(OUT, optimize=True)
    size = OUT.stat().st_size
    print(f"{OUT.relative_to(ROOT)}: {shot.width} x {shot.height}, {size} bytes")
    assert size <= MOST


if __name__ == "__main__":
    main()
