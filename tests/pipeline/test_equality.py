"""Requests, results and steps that hold tensors compare as values do; a copy from another process is equal."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

import sdxl

QUICK: dict[str, Any] = {"steps": 2, "seed": 1, "progress": False}


def test_requests_with_tensors_are_equal_if_all_values_are() -> None:
    request = sdxl.Request("cat", image=torch.zeros(1, 3, 64, 64), mask=torch.ones(1, 1, 64, 64))
    assert pickle.loads(pickle.dumps(request)) == request
    assert request != replace(request, image=torch.ones(1, 3, 64, 64))
    assert request != replace(request, image=torch.zeros(1, 3, 64, 72), mask=torch.ones(1, 1, 64, 72))
    assert request != replace(request, image="cat.png")
    assert request != replace(request, seed=1)
    assert request != "cat"


@pytest.mark.parametrize(
    "held",
    [
        lambda x: {"image": [x, x]},
        lambda x: {"control": [sdxl.Control("net", x)]},
        lambda x: {"control": sdxl.Control("net", [x, x])},
        lambda x: {"control": [{"net": "net", "image": x}]},
        lambda x: {"reference": [sdxl.Reference("adapter", x, mask=x)]},
    ],
)
def test_tensors_within_values(held: Callable[[torch.Tensor], dict[str, Any]]) -> None:
    one, same, other = (
        sdxl.Request("cat", **held(value(3, 64, 64))) for value in (torch.zeros, torch.zeros, torch.ones)
    )
    assert one == same != other


def test_numbers_are_equal_as_numbers_are() -> None:
    assert sdxl.Request("cat", guidance_scale=5, eta=1) == sdxl.Request("cat", guidance_scale=5.0, eta=1.0)
    assert sdxl.Request("cat", guidance_scale=5) != sdxl.Request("cat", guidance_scale=6)
    assert sdxl.Request(["cat"]) != sdxl.Request("cat")


def test_requests_with_images_have_a_hash() -> None:
    image = Image.new("RGB", (64, 64))
    one, other = (sdxl.Request("cat", image=image.copy()) for _ in range(2))
    assert {one: 1}[other] == 1
    assert {sdxl.Request("cat", image=torch.zeros(1, 3, 64, 64)): 1}


def test_results_and_steps_are_equal_if_their_tensors_are(tiny_pipe: sdxl.Pipeline) -> None:
    results = [tiny_pipe("cat", output="tensor", **QUICK | {"seed": seed}) for seed in (1, 1, 2)]
    assert results[0] == results[1] == pickle.loads(pickle.dumps(results[0]))
    assert results[0] != results[2]
    assert results[0] != tiny_pipe("cat", **QUICK)
    steps = [*tiny_pipe.steps("cat", seed=1, steps=2)]
    assert steps[1] == pickle.loads(pickle.dumps(steps[1]))
    assert steps[1] != steps[0]
    assert steps[1] != replace(steps[1], latents=steps[1].latents + 1)
    assert len({*steps, *steps}) == 2
    encoded = tiny_pipe.encode_prompt("cat")
    assert encoded == tiny_pipe.encode_prompt("cat") != tiny_pipe.encode_prompt("dog")
    with pytest.raises(TypeError, match="unhashable"):
        hash(encoded)


def test_a_call_takes_the_fields_of_a_request_and_says_so(tiny_pipe: sdxl.Pipeline) -> None:
    request = sdxl.Request("cat", seed=1, steps=2, compat="comfyui", guider="apg")
    assert sdxl.Request(**vars(request)) == request
    with pytest.raises(sdxl.ArgumentError, match=re.escape("Try pipe(**vars(request)) for a request")):
        tiny_pipe(request)  # type: ignore[call-overload]
    own = tiny_pipe("cat", compat="comfyui", guider="apg", **QUICK)
    assert tiny_pipe(**vars(request), progress=False) == own
