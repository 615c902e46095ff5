"""Inpainting and outpainting: white in the mask is repainted, all else comes back byte for byte.

python examples/inpaint.py
"""

from __future__ import annotations

from PIL import Image, ImageChops

import sdxl

pipe = sdxl.Pipeline.from_pretrained("miniature")
image = pipe("a yellow circle on a purple background", seed=4)[0]

mask = Image.new("L", image.size)
mask.paste(255, (16, 16, 112, 112))
result = pipe("a red cross on a purple background", image=image, mask=mask, seed=4, feather=4)
result.save("repainted.png")
changed = ImageChops.difference(image, result[0]).getbbox()
print(f"changed within {changed}")

# a small part at the full size of the model, pasted back
detail = pipe("a red cross on a purple background", image=image, mask=mask, mask_padding=8, seed=4)
detail.save("detail.png")

# 32 more pixels on the left and on the right
wider = pipe("a yellow circle on a purple background", image=image, outpaint=(32, 0, 32, 0), seed=4)
wider.save("wider.png")
print(wider[0].size)
