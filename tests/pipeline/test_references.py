"""IP-Adapters against diffusers: final latents within 1e-4 of its pipelines'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_reference
import torch
from diffusers.image_processor import IPAdapterMaskProcessor

import sdxl
from sdxl.adapters.ip_adapter import places
from sdxl.weights.diffusers_config import read_unet

TOLERANCE = 1e-4
PROMPT = "A mecha robot in a favela"
WIDTHS = places(read_unet(tiny.UNET))
IMAGES = [tiny.picture(seed, 70, 20 + 10 * seed) for seed in (5, 6, 7)]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Adapters, each kind in a folder with its image encoder."""
    folder = tmp_path_factory.mktemp("adapters")
    return lambda kind, seed=11: tiny_reference.save(folder / kind.replace(" ", "_"), kind, WIDTHS, seed)


def theirs(paths: list[Path], family: str, scale: Any, images: Any, **more: Any) -> torch.Tensor:
    pipe = tiny_reference.reference_pipe(paths, family)
    pipe.set_ip_adapter_scale(scale)
    pipe.scheduler = tiny.scheduler("euler", "leading")
    arguments = {"num_inference_steps": 4, "height": 64, "width": 64, "prompt": PROMPT, **more}
    seeds = arguments.pop("seeds", [5])
    latents: torch.Tensor = pipe(
        ip_adapter_image=images, generator=tiny.generators(seeds), output_type="latent", **arguments
    ).images
    return latents


def ours(pipe: sdxl.Pipeline, references: Any, **more: Any) -> torch.Tensor:
    arguments = {"steps": 4, "seed": 5, "height": 64, "width": 64, "prompt": PROMPT, **more}
    result = pipe(reference=references, output="latent", progress=False, **arguments)
    assert isinstance(result.images, torch.Tensor)
    return result.images


@pytest.mark.parametrize("kind", ["plain ViT-H", "plain bigG", "plus"])
@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
def test_one_adapter(kind: str, guidance_scale: float, save: Any, tiny_pipe: Any, error: Any) -> None:
    path, family = save(kind), "bigG" if "bigG" in kind else "ViT-H"
    more = {"guidance_scale": guidance_scale}
    expected = theirs([path], family, 0.7, [IMAGES[0]], **more)
    found = ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], scale=0.7), **more)
    assert error(found, expected) < TOLERANCE
    assert error(found, ours(tiny_pipe, None, **more)) > 0.01, "the image matters"
    assert torch.equal(ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], scale=0), **more), ours(tiny_pipe, None, **more))


@pytest.mark.parametrize("kind", ["plain ViT-H", "plus"])
@pytest.mark.parametrize("negative_prompt", [None, "dog"])
def test_several_images_in_one_adapter(
    kind: str, negative_prompt: str | None, save: Any, tiny_pipe: Any, error: Any
) -> None:
    path = save(kind)
    expected = theirs([path], "ViT-H", 0.5, [IMAGES], negative_prompt=negative_prompt)
    reference = sdxl.Reference(path, tuple(IMAGES), scale=0.5)
    assert error(ours(tiny_pipe, reference, negative_prompt=negative_prompt), expected) < TOLERANCE


def test_two_adapters(save: Any, tiny_pipe: Any, error: Any) -> None:
    paths = [save("plain ViT-H"), save("plus", 12)]
    expected = theirs(paths, "ViT-H", [0.4, 0.8], IMAGES[:2])
    references = [sdxl.Reference(paths[0], IMAGES[0], scale=0.4), sdxl.Reference(paths[1], IMAGES[1], scale=0.8)]
    assert error(ours(tiny_pipe, references), expected) < TOLERANCE


STYLE, LAYOUT = {"up": {"block_0": [0.0, 0.7, 0.0]}}, {"down": {"block_2": [0.0, 0.7]}}


@pytest.mark.parametrize(
    ("scale", "only"),
    [
        (STYLE, "style"),
        (LAYOUT, "layout"),
        (STYLE | LAYOUT, ("style", "layout")),
        (
            {"mid": 0.3, "up": {"block_0": [0.1, 0.0, 0.9], "block_1": 0.5}, "down": 0.2},
            {"mid": 0.3, "up.0.attn.0": 0.1, "up_blocks.0.attentions.2": 0.9, "up.1": 0.5, "down": 0.2},
        ),
    ],
    ids=["style", "layout", "both", "mapping"],
)
def test_scales_of_blocks(scale: Any, only: Any, save: Any, tiny_pipe: Any, error: Any) -> None:
    path = save("plain ViT-H")
    expected = theirs([path], "ViT-H", scale, [IMAGES[0]])
    assert error(ours(tiny_pipe, sdxl.Reference(path, IMAGES[0], scale=0.7, only=only)), expected) < TOLERANCE


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64)])
def test_masks(height: int, width: int, save: Any, tiny_pipe: Any, error: Any) -> None:
    """An image and a mask each, in one adapter of diffusers; here a reference each."""
    path, size = save("plus"), {"height": height, "width": width}
    masks = [tiny.mask(1, 80, 80), tiny.mask(3, 64, 64)]
    tensors = IPAdapterMaskProcessor().preprocess(masks, **size)
    tensors = [tensors.reshape(1, 2, height, width)]
    expected = theirs(
        [path], "ViT-H", [[0.6, 0.9]], [IMAGES[:2]], cross_attention_kwargs={"ip_adapter_masks": tensors}, **size
    )
    references = [
        sdxl.Reference(path, image, scale=scale, mask=mask)
        for image, scale, mask in zip(IMAGES[:2], (0.6, 0.9), masks, strict=True)
    ]
    assert error(ours(tiny_pipe, references, **size), expected) < TOLERANCE
