"""Every feature with every way to keep a model: dtype, 8 bits, offload. The result is that of the plain one in float32,
within what the way rounds.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import sdxl
from sdxl.pipeline.model_request import ModelRequest
from sdxl.runtime.int8 import can_quantize
from sdxl.runtime.precision import Precision

pytestmark = pytest.mark.slow

ADAPTERS = Path("weights/adapters")
PHOTO = Image.effect_noise((128, 128), 60).convert("RGB")
MASK = Image.new("L", (128, 128), 0)
MASK.paste(255, (32, 32, 96, 96))
CONTROL = sdxl.Control(ADAPTERS / "edges.safetensors", PHOTO, preprocess="canny")
REFERENCE = sdxl.Reference(ADAPTERS / "colours.safetensors", PHOTO)
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "without guidance": {"guidance_scale": 1.0},
    "negative prompt": {"negative_prompt": "a dog"},
    "batch": {"prompt": ["a red circle", "a blue star"], "negative_prompt": ["", "a dog"]},
    "long prompt": {"prompt": "a red circle, " * 40},
    "weights, a change, parts": {"prompt": "a (red:1.3) [circle:star:0.5] AND a dog", "prompt_syntax": "a1111"},
    "image to image": {"image": PHOTO, "strength": 0.5},
    "inpainting": {"image": PHOTO, "mask": MASK},
    "control": {"control": CONTROL},
    "reference": {"reference": REFERENCE},
    "reference with a mask": {
        "reference": [REFERENCE, sdxl.Reference(ADAPTERS / "colours.safetensors", PHOTO, mask=MASK)]
    },
    "control, reference, LoRA": {
        "control": CONTROL,
        "reference": REFERENCE,
        "loras": [ADAPTERS / "heart.safetensors"],
    },
    "hires": {"hires": sdxl.Hires(2, strength=0.5)},
    "perturbed attention": {"guider": "pag"},
    "interval": {"guidance_interval": (0.1, 1.0)},
    "refiner": {"refine_at": 0.5},
}
HALF = Precision("bfloat16", "bfloat16")  # fast on this processor or not
WAYS: dict[str, tuple[dict[str, Any], Precision | None, float]] = {  # and the largest error
    "stage": ({"offload": "stage"}, None, 0.0),
    "block": ({"offload": "block"}, None, 1e-4),
    "float16 weights": ({"dtype": "float16"}, None, 0.02),
    "bfloat16": ({}, HALF, 0.3),
    "bfloat16, block": ({"offload": "block"}, HALF, 0.3),
    "int8": ({"int8": True}, None, 0.3),
    "int8, bfloat16": ({"int8": True}, HALF, 0.3),
    "fp8": ({"fp8": True}, None, 0.3),
    "fp8, bfloat16": ({"fp8": True}, HALF, 0.3),
}


def load(precision: Precision | None, **options: Any) -> sdxl.Pipeline:
    given = {"dtype": "float32"} | options if precision is None else options
    request = ModelRequest("miniature", device="cpu", refiner="weights/miniature/refiner", **given)
    return sdxl.Pipeline.from_request(request, precision=precision)


def latents(pipe: sdxl.Pipeline, feature: str) -> Tensor:
    arguments = {"prompt": "a red circle", "refine_at": 1.0} | FEATURES[feature]
    images = pipe(**arguments, steps=4, seed=1, output="latent", progress=False).images
    assert isinstance(images, Tensor)
    return images


@cache
def exact(feature: str) -> Tensor:
    return latents(load(None), feature)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:the refiner has no effect", "ignore:fp8 saves no memory")
def test_every_feature_works_with_it(way: str, error: Any) -> None:
    options, precision, bound = WAYS[way]
    if options.get("int8") and not can_quantize(torch.device("cpu")):
        pytest.skip("this processor has no 8-bit dot products")
    pipe = load(precision, **options)
    found = {feature: error(latents(pipe, feature), exact(feature)) for feature in FEATURES}
    assert not {feature: value for feature, value in found.items() if value > bound}
    if bound > 1e-3:
        assert all(found.values()), "another way of rounding"
