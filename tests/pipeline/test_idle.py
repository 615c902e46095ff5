"""Every argument that is given changes the images, is an error, or is warned of, whatever the task."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sdxl
from sdxl.errors import SDXLWarning

LATENTS = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(77))
OTHER = Image.effect_noise((64, 64), 60).convert("RGB")
PHOTO = Image.effect_noise((64, 64), 90).convert("RGB")
MASK = Image.new("L", (64, 64), 0)
MASK.paste(255, (16, 8, 48, 40))
# a value of each argument that is not its default
VALUES: dict[str, Any] = {
    "prompt": "a blue dog",
    "negative_prompt": "people",
    "prompt_2": "a drawing",
    "negative_prompt_2": "a photo",
    "width": 72,
    "height": 72,
    "steps": 3,
    "guidance_scale": 3.0,
    "guidance_rescale": 0.5,
    "guidance_interval": (0.1, 3.0),
    "sampler": "heun",
    "schedule": "karras",
    "eta": 0.5,
    "seed": 9,
    "clip_skip": 1,
    "original_size": (32, 32),
    "crop_top_left": (8, 8),
    "target_size": (32, 32),
    "negative_original_size": (32, 32),
    "negative_crop_top_left": (8, 8),
    "negative_target_size": (32, 32),
    "latents": LATENTS,
    "image": OTHER,
    "mask": MASK.rotate(90),
    "strength": 0.5,
    "mask_padding": 4,
    "feather": 6,
    "outpaint": (8, 0, 0, 8),
    "refine_at": 0.2,
    "aesthetic_score": 2.0,
    "negative_aesthetic_score": 5.0,
    "emphasis": "comfyui",
    "sampler_options": {"s_churn": 2.0},
    "sigmas": [9.0, 1.0, 0.0],
    "timesteps": [800, 300],
    "preset": "v_prediction",
    "guider": "apg",
    "compat": "comfyui",
    "hires": {"scale": 1.5, "strength": 0.5},
    "variation_seed": 12,
    "variation_strength": 0.4,
}

# the model, and the arguments beside prompt, seed and steps
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("base", {}),
    "no guidance": ("base", {"guidance_scale": 1.0}),
    "guidance nowhere": ("base", {"guidance_interval": (900.0, 1000.0)}),
    "hires": ("base", {"hires": {"strength": 1}}),
    "image": ("base", {"image": PHOTO, "strength": 1.0}),
    "image of latents": ("base", {"image": LATENTS, "strength": 1.0, "mask": MASK}),
    "inpainting": ("base", {"image": PHOTO, "mask": MASK}),
    "strength 0": ("base", {"image": PHOTO, "strength": 0.0}),
    "refiner alone": ("refiner", {"image": PHOTO, "strength": 1.0}),
    "both": ("both", {}),
    "both, hires": ("both", {"hires": {"strength": 1}}),
    "both, hires, the refiner alone in its second pass": ("both", {"hires": {"strength": 1}, "refine_at": 0.0}),
    "hires, guidance in its first pass alone": (
        "base",
        {"hires": {"strength": 0.5}, "guidance_interval": (1.0, 900.0)},
    ),
    "both, of which the refiner never runs": ("both", {"refine_at": 1.0}),
    "both, of which the base never runs": ("both", {"refine_at": 0.0, "image": PHOTO, "strength": 1.0}),
}
QUICK = ("text", "no guidance")
# which is no fault: strength 0 gives the image back, without sigmas every part of them is the same, and the same few
# steps may lie in two intervals
ALWAYS = {
    "strength 0": {
        "preset",
        "seed",
        "steps",
        "sampler",
        "sampler_options",
        "schedule",
        "guidance_scale",
        "prompt",
        "mask",
        "mask_padding",
    },
    "both, of which the base never runs": {"refine_at", "preset"},
    "both, hires, the refiner alone in its second pass": {"refine_at"},
    "hires, guidance in its first pass alone": {"guidance_interval"},
}


@pytest.fixture(scope="module")
def open_pipe(tiny_folder: Path, refiner_folder: Path) -> Callable[[str], sdxl.Pipeline]:
    made: dict[str, sdxl.Pipeline] = {}

    def pipe(kind: str) -> sdxl.Pipeline:
        if kind not in made:
            model = refiner_folder if kind == "refiner" else tiny_folder
            refiner = refiner_folder if kind == "both" else None
            made[kind] = sdxl.Pipeline.from_pretrained(model, refiner=refiner, dtype="float32", device="cpu")
        return made[kind]

    return pipe


def run(pipe: sdxl.Pipeline, arguments: dict[str, Any]) -> tuple[bytes | None, list[str]]:
    """The pixels, None for an error; and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SDXLWarning)
        try:
            images = pipe(**arguments, progress=False).images
        except sdxl.SDXLError as error:
            return None, [str(error)]
    return b"".join(repr(image.size).encode() + image.tobytes() for image in images), [str(c.message) for c in caught]


def test_every_argument_has_a_value() -> None:
    assert VALUES.keys() == {each.name for each in fields(sdxl.Request)} - {
        "num_images",
        "loras",
        "control",
        "reference",
        "prompt_syntax",
        "long_prompt",
    }


@pytest.mark.parametrize("task", [*QUICK, *(pytest.param(t, marks=pytest.mark.slow) for t in TASKS if t not in QUICK)])
def test_what_has_no_effect_is_said(task: str, open_pipe: Callable[[str], sdxl.Pipeline]) -> None:
    kind, given = TASKS[task]
    pipe, arguments = open_pipe(kind), {"prompt": "a cat", "seed": 1, "steps": 2} | given
    plain, said_before = run(pipe, arguments)
    assert plain is not None
    faults = []
    for name, value in VALUES.items():
        if name in ALWAYS.get(task, ()):
            continue
        pixels, said = run(pipe, arguments | {name: value})
        is_idle = any(name in text.split(" ha")[0].split(" and ") for text in said if text not in said_before)
        if pixels is not None and (pixels == plain) != is_idle:
            faults.append(f"{name} {'changes nothing' if pixels == plain else 'changes the image'}: {said}")
    assert not faults, "\n".join(faults)


def test_a_model_that_never_runs_is_named(open_pipe: Callable[[str], sdxl.Pipeline]) -> None:
    pipe = open_pipe("both")
    for arguments, idle in (({"refine_at": 1.0}, "refiner"), ({"refine_at": 0.0}, "model"), ({}, None)):
        _, said = run(pipe, {"prompt": "a cat", "steps": 4} | arguments)
        assert [text.split(":")[0] for text in said] == ([f"the {idle} has no effect"] if idle else [])


def test_a_warning_names_the_line_of_the_callers_program(tiny_pipe: sdxl.Pipeline) -> None:
    """Whichever room it comes from; so a filter by module acts, and the line that is printed is the user's own."""
    idle: dict[str, Any] = {"guidance_scale": 1.0, "negative_prompt": "dog", "steps": 1, "seed": 1}
    long: dict[str, Any] = {"long_prompt": "truncate", "steps": 1, "seed": 1}
    foreign: dict[str, Any] = {"num_images_per_prompt": 1}
    calls: dict[str, Callable[[], object]] = {
        "negative_prompt has no effect": lambda: tiny_pipe("cat", **idle, progress=False),
        "the prompts have syntax": lambda: tiny_pipe.plan(sdxl.Request("a (red:1.2) cat")),
        "this part was cut off": lambda: tiny_pipe("cat " * 100, **long, progress=False),
        "the prompt has": lambda: [*tiny_pipe.steps("cat " * 100, **long)],
        "these are diffusers' names": lambda: tiny_pipe.encode_prompt("cat", **foreign),
    }
    for text, call in calls.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        found = [each for each in caught if text in str(each.message)]
        assert found and {each.filename for each in found} == {__file__}, text
