"""The image encoder against transformers, in every layout of its files; the pixels that it sees, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_reference as tiny
import torch
from safetensors.torch import load_file, save_file

import sdxl
from sdxl.adapters.image_encoder import open_image_encoder
from sdxl.images.clip_pixels import clip_pixels
from sdxl.pipeline.network_loading import load
from sdxl.runtime.placement import Placement
from sdxl.weights.component import Component

F32, CPU = torch.float32, torch.device("cpu")
TOLERANCE = 1e-5


def encoder(component: Component) -> Any:
    return load(component, Placement(CPU, F32, F32))


@pytest.mark.parametrize("family", ["ViT-H", "bigG"])
@torch.no_grad()
def test_an_image_encoder(family: str, tmp_path: Path, error: Any) -> None:
    reference = tiny.vision(family)
    reference.save_pretrained(tmp_path)
    ours = encoder(open_image_encoder(tmp_path))
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    expected = reference(pixels, output_hidden_states=True)
    hidden, embeds = ours(pixels)
    assert error(hidden, expected.hidden_states[-2]) < TOLERANCE
    assert error(embeds, expected.image_embeds) < TOLERANCE
    zero = ours(torch.zeros(1, 3, 28, 28))[0]
    assert error(zero, reference(torch.zeros(1, 3, 28, 28), output_hidden_states=True).hidden_states[-2]) < TOLERANCE


@torch.no_grad()
def test_layouts_give_the_same_bit_for_bit(tmp_path: Path) -> None:
    """In float16 files, whose weights are cast to memory of one alignment, which a CPU's sums may depend on."""
    tiny.vision("ViT-H").half().save_pretrained(tmp_path / "folder")
    state = load_file(tmp_path / "folder/model.safetensors")
    whole = {"logit_scale": torch.ones(()), "text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2, 2)}
    positions = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    text = {"positional_embedding": torch.ones(3, 2), "transformer.resblocks.0.ln_1.weight": torch.ones(2)}
    save_file(state | positions, tmp_path / "clip_vision_h.safetensors")
    save_file(state | whole, tmp_path / "clip.safetensors")
    visual = tiny.open_clip(state)
    save_file(visual, tmp_path / "visual.safetensors")
    save_file(visual | text, tmp_path / "open_clip.safetensors")
    linear = {key: value for key, value in visual.items() if key != "visual.proj"}
    save_file(linear, tmp_path / "no_projection.safetensors")
    with pytest.raises(sdxl.CheckpointError, match=r"image encoder is incomplete, 'visual\.proj' is missing"):
        open_image_encoder(tmp_path / "no_projection.safetensors")
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    expected = encoder(open_image_encoder(tmp_path / "folder"))(pixels)
    for name in ("clip_vision_h", "clip", "visual", "open_clip"):
        found = encoder(open_image_encoder(tmp_path / f"{name}.safetensors"))(pixels)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), name


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (470, 300), (300, 471), (1, 9), (1024, 683), (225, 224)])
@pytest.mark.parametrize("side", [224, 28])
def test_pixels_are_those_of_transformers(size: tuple[int, int], side: int) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = tiny.picture(3, *size)
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    expected = processor(image, return_tensors="pt").pixel_values
    assert torch.equal(clip_pixels(image, side), expected)


def test_what_is_no_image_encoder(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(sdxl.CheckpointError, match=r"a\.safetensors is no image encoder of CLIP"):
        open_image_encoder(tmp_path / "a.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/pytorch_model.bin").touch()
    with pytest.raises(
        sdxl.CheckpointError, match=r"model\.safetensors is missing; download it, the pickle in its place is not read"
    ):
        open_image_encoder(tmp_path / "empty")
    state = dict(tiny.vision("ViT-H").state_dict())
    state["vision_model.extra"] = torch.ones(2)
    save_file(state, tmp_path / "more.safetensors")
    with pytest.raises(sdxl.CheckpointError, match=r"do not belong to this SDXL model: vision_model\.extra"):
        open_image_encoder(tmp_path / "more.safetensors")
