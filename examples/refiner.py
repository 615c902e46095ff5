"""A base and a refiner: the refiner takes over for the last part of the noise schedule, or works alone on an image.

python examples/refiner.py

It was trained for the last fifth of the schedule (`refine_at=0.8`); where it takes over earlier, it leaves blotches.
"""

from __future__ import annotations

import sdxl

prompt = "a yellow star on a green background"
both = sdxl.Pipeline.from_pretrained("miniature", refiner="miniature-refiner", offload="stage")
for refine_at in (0.4, 0.6, 0.8):
    both(prompt, refine_at=refine_at, seed=4).save(f"refined-{refine_at}.png")

base = sdxl.Pipeline.from_pretrained("miniature")
image = base(prompt, seed=4)[0]
alone = sdxl.Pipeline.from_pretrained("miniature-refiner")
alone(prompt, image=image, strength=0.3, seed=4).save("refined-alone.png")
