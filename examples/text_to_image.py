"""Images from a prompt.

python examples/text_to_image.py
"""

from __future__ import annotations

from PIL import ImageChops

import sdxl

pipe = sdxl.Pipeline.from_pretrained("miniature")  # or "stabilityai/stable-diffusion-xl-base-1.0"
result = pipe(
    "a red circle on a blue background",
    negative_prompt="a square",
    num_images=4,
    seed=1,  # the first image's; the next ones have 2, 3 and 4
    steps=25,
    guidance_scale=5.0,
    sampler="dpmpp_2m",
    schedule="karras",
)
for path, seed in zip(result.save("circle.png"), result.seeds, strict=True):
    print(path, "seed", seed)

request = sdxl.read_parameters("circle-3.png")["request"]
again = pipe(**{name: value for name, value in request.items() if value is not None})
different = ImageChops.difference(again[0], result[2]).getextrema()
print(f"generated again, alone: at most {max(high for _, high in different)} of 255 different")
