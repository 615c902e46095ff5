"""The first lines of a notebook that a user of diffusers types, as they are: each works, or says what works here.

    python examples/from_diffusers.py

diffusers' names of equal meaning are taken with a warning that says ours. For the rest an error says what does the
same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

import sdxl
from sdxl import Pipeline as DiffusionPipeline


@contextmanager
def explained() -> Iterator[None]:
    """Print the error of the lines inside."""
    try:
        yield
    except sdxl.SDXLError as error:
        print(f"{type(error).__name__}: {error}")
    else:
        raise AssertionError("these lines work")


# loading
pipe = DiffusionPipeline.from_pretrained("miniature", torch_dtype=torch.float32, use_safetensors=True, variant="fp16")
pipe = pipe.to("cpu")
print(pipe)
with explained():
    DiffusionPipeline.from_single_file("sd_xl_base_1.0.safetensors")
with explained():
    DiffusionPipeline.from_pretrained("miniature", cache_dir="models")

# settings
with explained():
    pipe.enable_model_cpu_offload()
with explained():
    pipe.enable_xformers_memory_efficient_attention()
with explained():
    pipe.vae.enable_tiling()
with explained():
    pipe.scheduler = "EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)"
with explained():
    pipe.unet = torch.compile(pipe.unet, mode="reduce-overhead")
with explained():
    pipe.set_progress_bar_config(disable=True)
with explained():
    pipe.load_lora_weights("lora.safetensors")
pipe.safety_checker = None

# text to image
prompt, negative_prompt = "a red circle on a blue background", "a square"
generator = torch.Generator("cpu").manual_seed(33)
image = pipe(prompt, negative_prompt=negative_prompt, num_inference_steps=4, generator=generator).images[0]
print(image.size, image.info["parameters"])
seeds = [torch.Generator().manual_seed(seed) for seed in range(2)]
images = pipe([prompt] * 2, generator=seeds, num_inference_steps=4, guidance_scale=7.5, output_type="pil").images
result = pipe(prompt, num_images_per_prompt=2, num_inference_steps=4, clip_skip=1)
result.save("circle.png")  # circle-1.png and circle-2.png, with their parameters
print(sdxl.read_parameters(Path("circle-2.png"))["request"]["steps"])
latents = pipe(prompt, num_inference_steps=4, output_type="latent").images
print(latents.shape)
with explained():
    pipe(prompt, num_inference_steps=4, output_type="np")
with explained():
    pipe(prompt, denoising_end=0.8, output_type="latent")
with explained():
    pipe(prompt_embeds=torch.zeros(1, 77, 96), pooled_prompt_embeds=torch.zeros(1, 64))
with explained():
    pipe(prompt, callback_on_step_end=lambda pipe, step, t, kwargs: kwargs)

# image to image and inpainting, with the same pipeline
with explained():
    DiffusionPipeline.from_pipe(pipe)
changed = pipe("a red star on a blue background", image=image, strength=0.5, num_inference_steps=8).images[0]
mask = Image.new("L", image.size)
mask.paste(255, (32, 32, 96, 96))
repainted = pipe(prompt, image=image, mask_image=mask, padding_mask_crop=8, num_inference_steps=4)[0]
repainted.save("repainted.png")
