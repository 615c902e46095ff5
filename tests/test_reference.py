"""Every stage against stored outputs of diffusers and transformers; needs neither (scripts/make_reference.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sdxl
from sdxl.text.encode import embed_sizes, encode_text

FOLDER = Path(__file__).parent / "reference"
EXPECTED = load_file(FOLDER / "expected.safetensors")
MADE = json.loads((FOLDER / "provenance.json").read_text())
TOLERANCE, PICTURE_TOLERANCE = 1e-5, 1e-4


@pytest.fixture(scope="module")
def pipe() -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(FOLDER / "model", dtype="float32", device="cpu")


def test_tokens(pipe: sdxl.Pipeline) -> None:
    for stage, name in zip(pipe.text, ("ids", "ids_2"), strict=True):
        assert stage.tokenizer([MADE["prompt"]]) == EXPECTED[name].tolist()


def test_text(pipe: sdxl.Pipeline, error: Any) -> None:
    prompts = [MADE["prompt"], MADE["negative_prompt"]]
    with torch.no_grad():
        context, pooled = encode_text(pipe.text, prompts, prompts)
    assert error(context[:1], EXPECTED["context"]) < TOLERANCE
    assert error(context[1:], EXPECTED["negative_context"]) < TOLERANCE
    assert error(pooled[:1], EXPECTED["pooled"]) < TOLERANCE


def test_unet(pipe: sdxl.Pipeline, error: Any) -> None:
    x, t, context, pooled, sizes = (EXPECTED[f"unet.{name}"] for name in ("x", "t", "context", "pooled", "sizes"))
    vector = torch.cat([pooled, torch.cat([embed_sizes(row, 8) for row in sizes.tolist()])], dim=1)
    with torch.no_grad():
        assert error(pipe.unet(x, t, context, vector), EXPECTED["unet.output"]) < TOLERANCE


def test_vae(pipe: sdxl.Pipeline, error: Any) -> None:
    with torch.no_grad():
        assert error(pipe.vae.decode(EXPECTED["vae.z"]), EXPECTED["vae.decoded"]) < TOLERANCE
        assert error(pipe.vae.encode(EXPECTED["vae.image"]), EXPECTED["vae.encoded"]) < TOLERANCE


@pytest.mark.parametrize("run", [name.removeprefix("latents ") for name in EXPECTED if name.startswith("latents ")])
def test_latents(run: str, pipe: sdxl.Pipeline, error: Any) -> None:
    sampler, schedule = run.split()
    result = pipe(
        MADE["prompt"],
        negative_prompt=MADE["negative_prompt"],
        steps=MADE["steps"],
        seed=MADE["seed"],
        height=MADE["size"][0],
        width=MADE["size"][1],
        sampler=sampler,
        schedule=schedule,
        eta=1.0 if sampler == "ddim" else None,
        output="latent",
        progress=False,
    )
    assert error(result.images, EXPECTED[f"latents {run}"]) < PICTURE_TOLERANCE
