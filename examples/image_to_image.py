"""An image from an image: `strength` says how far to go from it.

python examples/image_to_image.py [IMAGE] [PROMPT]
"""

from __future__ import annotations

import sys

import sdxl

pipe = sdxl.Pipeline.from_pretrained("miniature")
image = sys.argv[1] if len(sys.argv) > 1 else pipe("a yellow circle on a purple background", seed=4)[0]
prompt = sys.argv[2] if len(sys.argv) > 2 else "a yellow star on a green background"

for strength in (0.2, 0.4, 0.6, 0.8):
    result = pipe(prompt, image=image, strength=strength, seed=4, progress=False)
    result.save(f"strength-{strength}.png")
