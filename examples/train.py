"""Training on one image for some steps, and the trained model on disk.

python examples/train.py
"""

from __future__ import annotations

import torch

import sdxl
from sdxl.images import to_tensor
from sdxl.sampling import noise_table
from sdxl.training import denoising_loss

pipe = sdxl.Pipeline.from_pretrained("miniature", trainable=True, device="cpu")
prompt = "a red circle on a blue background"
z = pipe.encode(to_tensor(pipe(prompt, seed=1, steps=8, progress=False)[0])[None])
text = pipe.encode_prompt(prompt)

sigmas, prediction = torch.from_numpy(noise_table(pipe.info.schedule).sigmas).float(), pipe.info.schedule.prediction
optimizer = torch.optim.AdamW(pipe.unet.parameters(), lr=1e-5)
generator = torch.Generator().manual_seed(0)
for step in range(4):
    t = torch.randint(len(sigmas), (1,), generator=generator)
    noise = torch.randn(z.shape, generator=generator)
    loss = denoising_loss(pipe.unet, z, noise, t, sigmas[t], text.context, text.vector, prediction=prediction)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.4f}")

pipe.save("trained.safetensors")  # the present weights; a path without the suffix becomes a diffusers folder
trained = sdxl.Pipeline.from_pretrained("trained.safetensors", dtype="float32", device="cpu")
trained(prompt, seed=1, steps=8, progress=False).save("trained.png")
