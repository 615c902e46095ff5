"""The steps under a call: previews while it runs, a call that stops early, latents that are changed on the way.

python examples/steps.py
"""

from __future__ import annotations

import sdxl

pipe = sdxl.Pipeline.from_pretrained("miniature")
prompt = "a green star on an orange background"

for step in pipe.steps(prompt, seed=3, steps=8):
    preview = step.preview()[0]  # a small image, without the VAE
    colour = preview.resize((1, 1)).getpixel((0, 0))
    print(f"step {step.index + 1} of {step.total}: sigma {step.sigma:.3f}, mean colour {colour}")
step.result().save("steps.png")  # the call's own result


def until_it_is_calm(step: sdxl.PipelineStep) -> bool:
    """Stop at a low noise level."""
    return step.sigma < 0.5


early = pipe(prompt, seed=3, steps=20, callback=until_it_is_calm, progress=False)
print(f"stopped after {early.parameters[0]['stopped_after']} of 20 steps")
early.save("early.png")


def brighter(step: sdxl.PipelineStep) -> None:
    """A change of the latents in place changes the following steps."""
    if step.index == 2:
        step.latents[:, 0] += 0.5


pipe(prompt, seed=3, steps=8, callback=brighter, progress=False).save("brighter.png")
