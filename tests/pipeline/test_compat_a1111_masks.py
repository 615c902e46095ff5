"""`compat="a1111"`: what is 8 bits on its way, as there: "Only masked", the paste through a soft mask, hires fix."""

from __future__ import annotations

from typing import Any

import comfyui
import numpy as np
import pytest
import tiny
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageFilter, ImageOps
from test_compat_a1111 import LATENT, PROMPT, TEXT, TOLERANCE, Table, restated, zeros

import sdxl

SIZE = {"width": 64, "height": 72}
IDS = (72, 64, 0, 0, 72, 64)


def soft(box: tuple[int, int, int, int], blur: float, size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask.filter(ImageFilter.GaussianBlur(blur))


def masked_run(pipe: Any, image: Image.Image, mask: Image.Image) -> tuple[torch.Tensor, Image.Image]:
    """Latents and image of Euler a in 4 steps at 0.75, of an image and a mask at the size of the work."""
    model = comfyui.Model(pipe)
    model.table = Table()
    z, text = model.encode_image(comfyui.pixels_of(image)), model.encode(TEXT)
    small = np.around(np.asarray(mask.convert("RGB").resize((8, 9)), dtype=np.float64)[..., 0] / 255)
    m = torch.from_numpy(small)[None, None]
    sigmas, noise = restated("normal", 4), comfyui.on_a_card(7, (1, 4, 9, 8))
    plain = model.denoiser(text, zeros(text), 5.0, IDS)
    x = z + noise(0, 0) * sigmas[0]
    x = comfyui.euler_ancestral(lambda x, s: plain(x, s) * m + z * (1 - m), x, sigmas, noise)
    latents = x * m + z * (1 - m)
    pixels = (model.decode(latents)[0].permute(1, 2, 0) * 255).byte().numpy()
    return latents, Image.fromarray(pixels)


def over(result: Image.Image, source: Image.Image, mask: Image.Image) -> np.ndarray:
    """The source over a result, transparent where its mask is white."""
    overlay = Image.new("RGBa", source.size)
    overlay.paste(source.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask))
    result = result.convert("RGBA")
    result.alpha_composite(overlay.convert("RGBA"))
    return np.asarray(result.convert("RGB")).astype(int)


OWN: dict[str, Any] = {"seed": 7, "steps": 4, "sampler": "Euler a", "strength": 0.75, "compat": "a1111"}


def test_a_soft_mask(tiny_pipe: sdxl.Pipeline, reference_pipe: Any, error: Any) -> None:
    """The result is pasted with twice the weight of a grey."""
    image, mask = tiny.picture(1, 64, 72), soft((20, 10, 50, 40), 4, (64, 72))
    latents, result = masked_run(reference_pipe, image, mask)
    doubled = Image.fromarray(np.clip(np.asarray(mask).astype(np.float32) * 2, 0, 255).astype(np.uint8))
    own = OWN | {"image": image, "mask": mask}
    assert error(tiny_pipe(PROMPT, **own, **LATENT).images, latents) < TOLERANCE
    found = np.asarray(tiny_pipe(PROMPT, **own, progress=False).images[0]).astype(int)
    assert abs(found - over(result, image, doubled)).max() <= 2
    plain = np.asarray(tiny_pipe(PROMPT, **own | {"compat": "a1111,paste_grey=binary"}, progress=False).images[0])
    assert abs(plain.astype(int) - found).max() > 8


@pytest.mark.parametrize(
    ("box", "padding", "blur"), [((31, 22, 50, 37), 3, 0), ((2, 30, 87, 41), 8, 0), ((20, 5, 41, 50), 1, 2)]
)
def test_only_masked(
    box: tuple[int, int, int, int],
    padding: int,
    blur: float,
    tiny_pipe: sdxl.Pipeline,
    reference_pipe: Any,
    error: Any,
) -> None:
    """diffusers' crop, fill and paste are those of AUTOMATIC1111, so they are the reference here."""
    image, mask, processor = tiny.picture(1, 90, 61), soft(box, blur, (90, 61)), VaeImageProcessor()
    window = processor.get_crop_region(mask, 64, 72, pad=padding)
    views = [processor._resize_and_fill(each.crop(window), 64, 72) for each in (image, mask)]
    latents, result = masked_run(reference_pipe, *views)
    whole = Image.new("RGB", image.size)
    width, height = window[2] - window[0], window[3] - window[1]
    whole.paste(processor._resize_and_crop(result, width, height), window[:2])
    own = OWN | {"image": image, "mask": mask, "mask_padding": padding, **SIZE}
    assert error(tiny_pipe(PROMPT, **own, **LATENT).images, latents) < TOLERANCE
    found = np.asarray(tiny_pipe(PROMPT, **own, progress=False).images[0]).astype(int)
    assert abs(found - over(whole, image, mask)).max() <= 2


def test_hires_fix_by_pixels(tiny_pipe: sdxl.Pipeline, reference_pipe: Any, error: Any) -> None:
    """The first image becomes 8 bits, its fractions cut off; the second pass has noise of the same seed again."""
    model = comfyui.Model(reference_pipe)
    model.table = Table()
    text, noise = model.encode(TEXT), comfyui.on_a_card(7, (1, 4, 8, 8))
    sigmas = restated("normal", 4)
    denoise = model.denoiser(text, zeros(text), 5.0, (64, 64, 0, 0, 64, 64))
    first = model.decode(comfyui.euler(denoise, noise(0, 0) * sigmas[0], sigmas, noise))
    small = Image.fromarray((first[0].permute(1, 2, 0) * 255).byte().numpy())
    z = model.encode_image(comfyui.pixels_of(small.resize((96, 96), Image.Resampling.LANCZOS)))
    noise, sigmas = comfyui.on_a_card(7, (1, 4, 12, 12)), restated("normal", int(4 / 0.4))[-5:]
    denoise = model.denoiser(text, zeros(text), 5.0, (96, 96, 0, 0, 96, 96))
    expected = comfyui.euler(denoise, z + noise(0, 0) * sigmas[0], sigmas, noise)
    own: dict[str, Any] = {"seed": 7, "steps": 4, "sampler": "Euler", "compat": "a1111", "width": 64, "height": 64}
    own["hires"] = {"scale": 1.5, "upscaler": "lanczos", "strength": 0.4}
    assert error(tiny_pipe(PROMPT, **own, **LATENT).images, expected) < TOLERANCE
