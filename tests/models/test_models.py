"""Every network against diffusers and transformers, float32, within 1e-5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from sdxl.pipeline.network_loading import load as load_network
from sdxl.runtime.placement import Placement
from sdxl.weights import diffusers_config as folder
from sdxl.weights.component import Component
from sdxl.weights.container import TensorFile, Weights
from sdxl.weights.folder import read_json
from sdxl.weights.keymap import text_rows, unet_rows, vae_rows

F32, CPU = torch.float32, torch.device("cpu")
TOLERANCE = 1e-5


def load(path: Path, model: Any, kind: str) -> Any:
    """Save a reference model and load it with ours."""
    model.save_pretrained(path)
    data = read_json(path / "config.json")
    if kind == "unet":
        config: Any = folder.read_unet(data)
        rows = list(unet_rows(config))
    elif kind == "vae":
        config = folder.read_vae(data)
        rows = list(vae_rows(config))
    else:
        config = folder.read_text(data, kind == "text_encoder_2")
        rows = list(text_rows(config))
    file = TensorFile(next(path.glob("*.safetensors")))
    bare = not any(key.startswith("text_model.") for key in file.shapes)
    from sdxl.weights.keymap import canonical_folder_key

    weights = Weights([file], lambda key: canonical_folder_key(key, kind, bare))
    return load_network(Component(kind, config, rows, "folder", weights), Placement(CPU, F32, F32))


UNETS = {
    "base": tiny.UNET,
    "refiner": tiny.REFINER,
    "inpainting": tiny.UNET | {"in_channels": 9},
    "one head count": tiny.UNET | {"attention_head_dim": 4, "transformer_layers_per_block": 1},
    "blocks by level": tiny.UNET | {"layers_per_block": (1, 2, 1), "norm_num_groups": 4},
    "depths by block": tiny.UNET
    | {
        "transformer_layers_per_block": (1, (1, 2), (2, 1)),
        "reverse_transformer_layers_per_block": ((1, 1, 2), (2, 1, 1), 1),
    },
    "other types": tiny.UNET
    | {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
}


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_unet(name: str, size: tuple[int, int], tmp_path: Path, error: Any) -> None:
    config = UNETS[name]
    reference = tiny.unet(config)
    ours = load(tmp_path, reference, "unet")
    x = torch.randn(2, reference.config.in_channels, *size)
    t = torch.tensor([999.0, 3.5])
    context = torch.randn(2, 77, reference.config.cross_attention_dim)
    vector = torch.randn(2, reference.config.projection_class_embeddings_input_dim)
    sizes = (vector.shape[1] - 32) // 8
    ids = torch.randint(0, 1024, (2, sizes)).float()
    pooled = vector[:, :32]
    from sdxl.text.encode import embed_sizes

    vector = torch.cat([pooled, torch.cat([embed_sizes(row, 8) for row in ids.tolist()])], dim=1)
    with torch.no_grad():
        expected = reference(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}).sample
        actual = ours(x, t, context, vector)
    assert error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
@pytest.mark.parametrize("which", ["text_encoder", "text_encoder_2", "argmax"])
def test_text_encoder(which: str, clip_skip: int, tmp_path: Path, error: Any) -> None:
    reference = tiny.clip_l() if which == "text_encoder" else tiny.clip_g(eos=2 if which == "argmax" else None)
    ours = load(tmp_path, reference, "text_encoder" if which == "text_encoder" else "text_encoder_2")
    first, second = tiny.tokenizers()
    texts = ["a mecha robot!", "", "photo of a red cat " * 30]
    arguments = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids = (first if which == "text_encoder" else second)(texts, **arguments).input_ids
    with torch.no_grad():
        expected = reference(ids, output_hidden_states=True)
        context, pooled = ours(ids, clip_skip)
    assert error(context, expected.hidden_states[-(clip_skip + 2)]) < TOLERANCE
    if which == "text_encoder":
        assert pooled is None
    else:
        assert error(pooled, expected.text_embeds) < TOLERANCE


@pytest.mark.parametrize(
    "config",
    [
        tiny.VAE,
        tiny.VAE
        | {
            "block_out_channels": (16, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "layers_per_block": 1,
            "latent_channels": 8,
            "scaling_factor": 0.5,
        },
    ],
    ids=["four levels", "two levels"],
)
def test_vae(config: dict[str, Any], tmp_path: Path, error: Any) -> None:
    reference = tiny.vae(config)
    ours = load(tmp_path, reference, "vae")
    factor, channels = ours.config.factor, config["latent_channels"]
    z, x = torch.randn(2, channels, 6, 10), torch.rand(2, 3, 6 * factor, 10 * factor) * 2 - 1
    noise = torch.randn(2, channels, 6, 10)
    scale = config["scaling_factor"]
    with torch.no_grad():
        moments = reference.encode(x).latent_dist
        assert error(ours.decode(z), reference.decode(z / scale).sample) < TOLERANCE
        assert error(ours.encode(x), moments.mode() * scale) < TOLERANCE
        assert error(ours.encode(x, noise), (moments.mean + moments.std * noise) * scale) < TOLERANCE


def test_float16_vae_computes_in_float32(tiny_folder: Path) -> None:
    import sdxl

    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float16", device="cpu")
    assert pipe.dtype is torch.float16
    assert pipe.vae.decoder.norm_out.weight.dtype is torch.float32
