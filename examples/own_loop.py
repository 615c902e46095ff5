"""A denoising loop of one's own, from the networks alone: Euler's method with guidance (CFG).

python examples/own_loop.py
"""

from __future__ import annotations

from itertools import pairwise

import torch

import sdxl
from sdxl.images import to_pil
from sdxl.sampling import make_schedule

prompt, steps, guidance_scale, seed = "a red circle on a blue background", 20, 5.0, 1
pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32", device="cpu")
text = pipe.encode_prompt(prompt)
context, vector = torch.cat([text.negative_context, text.context]), torch.cat([text.negative_vector, text.vector])
schedule = make_schedule(pipe.info.schedule, pipe.info.schedule.schedule, steps, "euler")

height, width = pipe.info.config.native_size
noise = torch.randn(1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
x = noise * schedule.start_scale
with torch.no_grad():
    for (sigma, to), t in zip(pairwise(schedule.sigmas), schedule.timesteps, strict=True):
        scaled = x / (sigma**2 + 1) ** 0.5  # of variance 1, as the UNet was trained
        negative, positive = pipe.unet(scaled.repeat(2, 1, 1, 1), torch.full((2,), t), context, vector).chunk(2)
        eps = negative + guidance_scale * (positive - negative)
        x = x + eps * (to - sigma)
image = to_pil(pipe.decode(x))[0]
image.save("own_loop.png")

called = pipe(prompt, seed=seed, steps=steps, guidance_scale=guidance_scale, output="latent", progress=False)
error = float((x - called.images).abs().max() / x.abs().max())
print(f"the call's latents differ by {error:.1e}")
assert error < 1e-4
