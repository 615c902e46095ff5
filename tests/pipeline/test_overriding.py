"""Arguments that are given over a recorded image: the result is that of a call with both, whatever the record states
beside them without anybody having chosen it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny

import sdxl
from sdxl.pipeline.overriding import outdated
from sdxl.pipeline.replay import replay

QUICK: dict[str, Any] = {"prompt": "a cat", "seed": 5, "steps": 3, "progress": False}
LEVELS = {"sigmas": [9.0, 2.0, 0.5, 0]}


def pixels(pipe: sdxl.Pipeline, arguments: dict[str, Any]) -> bytes:
    image: bytes = pipe(**(arguments | {"progress": False}))[0].tobytes()
    return image


# what the first image is made with, what is given over it, and what of the first one that replaces
CASES: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ({"sampler": "euler"}, {"sampler": "euler_ancestral"}, ()),  # the record states eta 0
    ({"sampler": "euler_ancestral"}, {"sampler": "euler"}, ()),  # and here 1
    ({"sampler": "ddim", "eta": 0.5}, {"sampler": "euler"}, ("eta",)),
    ({"sampler": "ddim", "eta": 0.5}, {"sampler": "DDIM"}, ()),
    ({"sampler": "ddim", "eta": 0.5}, {"sampler": "euler_ancestral", "eta": 0.25}, ()),
    ({}, {"sampler": "DPM++ 2M Karras"}, ()),  # the record states the schedule leading
    ({}, LEVELS, ("steps",)),
    ({}, {"timesteps": [900, 500, 100]}, ("steps",)),
    (LEVELS | {"steps": 3}, {"timesteps": [900, 500]}, ("steps", "sigmas")),
    (LEVELS | {"steps": 3}, {"steps": 2}, ("sigmas",)),
    (LEVELS | {"steps": 3}, {"schedule": "karras"}, ("sigmas",)),
    (LEVELS | {"steps": 3}, {"sampler": "DPM++ 2M Karras"}, ("sigmas",)),
    ({"sampler": "euler", "sampler_options": {"s_churn": 1.0}}, {"sampler": "dpmpp_2m"}, ("sampler_options",)),
    ({"sampler": "euler", "sampler_options": {"s_churn": 1.0}}, {"sampler": "heun"}, ()),
    ({"schedule": "karras", "sampler_options": {"rho": 5.0}}, {"schedule": "Beta"}, ("sampler_options",)),
    (
        {"schedule": "karras", "sampler_options": {"rho": 5.0}},
        LEVELS,
        ("schedule", "sampler_options", "steps"),
    ),
    ({"sampler": "euler", "sampler_options": {"s_churn": 1.0}}, LEVELS, ("steps",)),
    ({"hires": {"scale": 2, "strength": 0.7}}, {"image": tiny.picture(3), "strength": 0.7}, ("hires",)),
]


@pytest.mark.parametrize(("first", "given", "replaced"), CASES)
def test_the_image_is_that_of_a_call_with_both(
    first: dict[str, Any], given: dict[str, Any], replaced: tuple[str, ...], tiny_pipe: sdxl.Pipeline, tmp_path: Path
) -> None:
    tiny_pipe(**(QUICK | first)).save(tmp_path / "a.png")
    chosen = {name: value for name, value in (QUICK | first).items() if name not in replaced}
    with warnings.catch_warnings():
        warnings.simplefilter("error", sdxl.errors.SDXLWarning)
        again = replay(tmp_path / "a.png", given, {})
        assert pixels(tiny_pipe, again.request) == pixels(tiny_pipe, chosen | given)


def test_an_image_with_levels_of_an_image(tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """The strength that a record states is no reason against noise levels."""
    source = {"image": tiny.picture(3)}
    tiny_pipe(**QUICK, **source, strength=0.7).save(tmp_path / "a.png")
    again = replay(tmp_path / "a.png", source | LEVELS, {})
    assert (
        pixels(tiny_pipe, again.request) == tiny_pipe("a cat", seed=5, progress=False, **source, **LEVELS)[0].tobytes()
    )


def test_an_image_over_hires_fix_of_another_tool(tmp_path: Path) -> None:
    line = "Steps: 5, Sampler: Euler, Seed: 1, Size: 64x64, Denoising strength: 0.5, Hires upscale: 2"
    for name in ("Latent", "4x-UltraSharp"):
        (tmp_path / "a.txt").write_text(f"a cat\n{line}, Hires upscaler: {name}")
        again = replay(tmp_path / "a.txt", {"image": "b.png"}, {"model": "miniature"})
        assert again.request["hires"] is None and again.request["image"] == "b.png"


def test_what_is_not_given_stays() -> None:
    recorded = {"sampler": "ddim", "eta": 0.5, "schedule": "karras", "sampler_options": {"rho": 5.0}, "steps": 3}
    unknown = {"sampler": "euler", "schedule": "karras", "sampler_options": {"of_a_later_version": 1}}  # an error later
    assert outdated(unknown, {}) == outdated(unknown, {"sampler": "Euler", "steps": 4}) == {}
    assert outdated(recorded, {}) == outdated(recorded, {"prompt": "x", "seed": None, "eta": 0.1}) == {}
    with pytest.raises(sdxl.ArgumentError, match="sampler is 'eulr'"):
        outdated(recorded, {"sampler": "eulr"})
