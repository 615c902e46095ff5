"""Tiny image encoders and IP-Adapters with random weights, as files; diffusers' pipeline with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import UNET, VAE, pipeline, shake
from tiny import mask as mask
from tiny import picture as picture
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIDE = 28
CONTEXT = int(UNET["cross_attention_dim"])
# hidden width, projection: told apart as the published ones are
FAMILIES = {"ViT-H": (64, 24), "bigG": (80, 64)}


def vision(family: str, seed: int = 7) -> CLIPVisionModelWithProjection:
    """An image encoder of 16 heads, as the published ones have."""
    dim, projection = FAMILIES[family]
    config = CLIPVisionConfig(
        hidden_size=dim,
        intermediate_size=2 * dim,
        num_hidden_layers=3,
        num_attention_heads=16,
        image_size=SIDE,
        patch_size=14,
        hidden_act="gelu",
        projection_dim=projection,
    )
    return shake(CLIPVisionModelWithProjection(config), seed)  # type: ignore[return-value]


def open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of an image encoder in OpenCLIP's names."""
    names = {
        "visual_projection.weight": "visual.proj",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    }
    parts = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "vision_model.encoder.layers": "visual.transformer.resblocks",
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
    }
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if "_proj." in key and "out_proj" not in key:
            layer, leaf = key.split(".")[3], key.split(".")[-1]
            fused = f"visual.transformer.resblocks.{layer}.attn.in_proj_{leaf}"
            triple = [state[f"vision_model.encoder.layers.{layer}.self_attn.{n}_proj.{leaf}"] for n in "qkv"]
            found[fused] = torch.cat(triple)
            continue
        name = names.get(key, key)
        for theirs, ours in parts.items():
            name = name.replace(theirs, ours)
        found[name] = value.T.contiguous() if name == "visual.proj" else value
    return found


def projection(kind: str, context: int = CONTEXT, tokens: int | None = None) -> dict[str, tuple[int, ...]]:
    """The shapes of an image projection: `plain ViT-H`, `plain bigG` or `plus`."""
    if kind.startswith("plain"):
        width = FAMILIES[kind.split()[1]][1]
        return {"proj.weight": (4 * context, width), "proj.bias": (4 * context,), **norm("norm", context)}
    dim, image = 96, FAMILIES["ViT-H"][0]
    shapes = {"latents": (1, tokens or 5, dim), "proj_in.weight": (dim, image), "proj_in.bias": (dim,)}
    shapes |= {"proj_out.weight": (context, dim), "proj_out.bias": (context,), **norm("norm_out", context)}
    for n in range(4):  # as diffusers expects
        layer = f"layers.{n}"
        shapes |= {**norm(f"{layer}.0.norm1", dim), **norm(f"{layer}.0.norm2", dim), **norm(f"{layer}.1.0", dim)}
        shapes |= {f"{layer}.0.to_q.weight": (128, dim), f"{layer}.0.to_kv.weight": (256, dim)}
        shapes |= {f"{layer}.0.to_out.weight": (dim, 128)}
        shapes |= {f"{layer}.1.1.weight": (4 * dim, dim), f"{layer}.1.3.weight": (dim, 4 * dim)}
    return shapes


def norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def adapter(kind: str, widths: Sequence[int], seed: int = 11) -> dict[str, Tensor]:
    """An IP-Adapter in the published names."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"image_proj.{name}": shape for name, shape in projection(kind).items()}
    for n, width in enumerate(widths):
        shapes |= {f"ip_adapter.{2 * n + 1}.to_{name}_ip.weight": (width, CONTEXT) for name in "kv"}
    return {name: random(name, shape, generator) for name, shape in shapes.items()}


def random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return noise / shape[-1] ** 0.5


def save(folder: Path, kind: str, widths: Sequence[int], seed: int = 11) -> Path:
    """An adapter with the image encoder that it needs beside it."""
    family = "bigG" if kind == "plain bigG" else "ViT-H"
    vision(family).save_pretrained(folder / "image_encoder")
    path = folder / f"{kind.replace(' ', '_')}_{seed}.safetensors"
    save_file(adapter(kind, widths, seed), path)
    return path


def reference_pipe(adapters: Sequence[Path], family: str, unet: dict[str, Any] = UNET) -> Any:
    """diffusers' pipeline with IP-Adapters and their image encoder."""
    base = pipeline(unet, VAE)
    more = {"image_encoder": vision(family), "feature_extractor": processor()}
    pipe = type(base)(**(base.components | more), add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_ip_adapter(
        [str(path.parent) for path in adapters],
        subfolder=[""] * len(adapters),
        weight_name=[path.name for path in adapters],
        image_encoder_folder=None,
        local_files_only=True,
    )
    return pipe


def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
