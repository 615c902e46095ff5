"""The configs of networks, inferred from the keys and shapes of their files. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from math import gcd

from ..errors import CheckpointError
from ..models.config import ModelConfig, TextConfig, VAEConfig
from ..models.published import BASE, CLIP_L
from ..models.unet_config import UNetConfig
from .identify import Shapes, strip
from .keymap import CLIP_L_PREFIX, UNET_PREFIX, VAE_PREFIX, clip_g_prefix

# Values that shapes do not show, the same in all published SDXL models
HEAD_DIM = 64  # of every attention head of UNet and text encoders
NORM_GROUPS = 32

Levels = list[list[tuple[str, str]]]  # per level, the prefixes of (residual block, transformer)


@contextmanager
def complete(what: str) -> Iterator[None]:
    """Raise `CheckpointError` where a network's tensor is missing, or has too few dimensions."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"the {what} is incomplete, {error} is missing; download it again") from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"the {what} is incomplete, or a tensor has a wrong shape ({error}); download it again"
        ) from error


_UNET_NAMES = {
    "single": ("in_layers.2", "input_blocks.0.0", "out.2", "label_emb.0.0", "time_embed.cond_proj"),
    "folder": ("conv1", "conv_in", "conv_out", "add_embedding.linear_1", "time_embedding.cond_proj"),
}


def infer_unet(shapes: Shapes, layout: str) -> UNetConfig:
    """A UNet's config from its shapes, whose keys have a `layout` (`single` or `folder`) and no prefix."""
    conv1, conv_in, conv_out, vector, guidance = _UNET_NAMES[layout]
    down, up = single_levels(shapes) if layout == "single" else folder_levels(shapes)
    with complete("UNet"):
        channels = tuple(shapes[f"{level[0][0]}.{conv1}.weight"][0] for level in down)
        return UNetConfig(
            in_channels=shapes[f"{conv_in}.weight"][1],
            out_channels=shapes[f"{conv_out}.weight"][0],
            channels=channels,
            down=tuple(tuple(depth_of(shapes, attn) for _, attn in level) for level in down),
            mid=middle_of(shapes, layout),
            up=tuple(tuple(depth_of(shapes, attn) for _, attn in level) for level in up),
            heads=tuple(max(1, width // HEAD_DIM) for width in channels),
            norm_groups=gcd(NORM_GROUPS, *channels),
            context_dim=_context_dim(shapes),
            vector_dim=shapes[f"{vector}.weight"][1],
            guidance_dim=shapes[f"{guidance}.weight"][1] if f"{guidance}.weight" in shapes else None,
        )


def _context_dim(shapes: Shapes) -> int:
    """The width of the context, from any of the cross-attentions."""
    key = next((key for key in shapes if key.endswith("attn2.to_k.weight")), None)
    if key is None:
        raise KeyError("attn2.to_k.weight")
    return shapes[key][1]


def single_levels(shapes: Shapes) -> tuple[Levels, Levels]:
    """The levels of both halves of a UNet in a single file's names."""
    down: Levels = [[]]
    for n in count(1):
        if f"input_blocks.{n}.0.op.weight" in shapes:
            down.append([])
        elif f"input_blocks.{n}.0.in_layers.2.weight" in shapes:
            down[-1].append((f"input_blocks.{n}.0", f"input_blocks.{n}.1"))
        else:
            break
    up: Levels = [[]]
    for n in count():
        block = f"output_blocks.{n}"
        if f"{block}.0.in_layers.2.weight" not in shapes:
            break
        up[-1].append((f"{block}.0", f"{block}.1"))
        if f"{block}.1.conv.weight" in shapes or f"{block}.2.conv.weight" in shapes:
            up.append([])
    return down, up


def folder_levels(shapes: Shapes) -> tuple[Levels, Levels]:
    """The levels of both halves of a UNet in a folder's names."""

    def levels(side: str) -> Iterator[list[tuple[str, str]]]:
        for i in count():
            level = []
            for j in count():
                if f"{side}.{i}.resnets.{j}.conv1.weight" not in shapes:
                    break
                level.append((f"{side}.{i}.resnets.{j}", f"{side}.{i}.attentions.{j}"))
            if not level:
                return
            yield level

    return list(levels("down_blocks")), list(levels("up_blocks"))


def depth_of(shapes: Shapes, transformer: str) -> int | None:
    """The number of blocks of a transformer; None if there is no transformer."""
    if f"{transformer}.proj_in.weight" not in shapes:
        return None
    return count_of(shapes, f"{transformer}.transformer_blocks.{{}}.norm1.weight")


def middle_of(shapes: Shapes, layout: str) -> int | None:
    """The depth of the middle block; -1 if it is a residual block alone, None if there is none."""
    if layout == "single":
        first, transformer = "middle_block.0.in_layers.2.weight", "middle_block.1"
    else:
        first, transformer = "mid_block.resnets.0.conv1.weight", "mid_block.attentions.0"
    depth = depth_of(shapes, transformer)
    return -1 if depth is None and first in shapes else depth


def count_of(shapes: Shapes, pattern: str) -> int:
    """The number of the numbered keys, counted from 0."""
    return next(n for n in count() if pattern.format(n) not in shapes)


def infer_clip_l(shapes: Shapes) -> TextConfig:
    """CLIP-L's config from a single file's shapes (transformers' names behind `CLIP_L_PREFIX`)."""
    encoder = strip(shapes, CLIP_L_PREFIX + "text_model.")
    with complete("first text encoder (CLIP-L)"):
        vocab_size, dim = encoder["embeddings.token_embedding.weight"]
        layers = count_of(encoder, "encoder.layers.{}.mlp.fc1.weight")
        if dim == CLIP_L.dim and layers == CLIP_L.layers - 1:
            layers = CLIP_L.layers  # SDXL never reads CLIP-L's last layer, and some tools leave it out
        return TextConfig(
            vocab_size=vocab_size,
            positions=encoder["embeddings.position_embedding.weight"][0],
            dim=dim,
            ff_dim=encoder["encoder.layers.0.mlp.fc1.weight"][0],
            layers=layers,
            heads=max(1, dim // HEAD_DIM),
        )


def infer_clip_g(shapes: Shapes, prefix: str) -> TextConfig:
    """bigG's config from a single file's shapes (OpenCLIP's names behind `prefix`)."""
    encoder = strip(shapes, prefix)
    linear = encoder.get("text_projection.weight")  # the form of some tools: the transpose of OpenCLIP's matrix
    with complete("text encoder bigG"):
        vocab_size, dim = encoder["token_embedding.weight"]
        return TextConfig(
            vocab_size=vocab_size,
            positions=encoder["positional_embedding"][0],
            dim=dim,
            ff_dim=encoder["transformer.resblocks.0.mlp.c_fc.weight"][0],
            layers=count_of(encoder, "transformer.resblocks.{}.mlp.c_fc.weight"),
            heads=max(1, dim // HEAD_DIM),
            activation="gelu",
            projection_dim=encoder["text_projection"][1] if linear is None else linear[0],
        )


def infer_vae(shapes: Shapes, layout: str) -> VAEConfig:
    """A VAE's config from its shapes, whose keys have a `layout` (`single` or `folder`) and no prefix."""
    latents = shapes.get("decoder.conv_in.weight", (0, 0))[1:2]
    if "post_quant_conv.weight" not in shapes and latents not in ((), (0,), (BASE.vae.latent_channels,)):
        raise CheckpointError(
            f"the VAE has latents of {latents[0]} channels, as those of Flux and Stable Diffusion 3; give one of SDXL"
        )
    level, block = ("down.{}.block.0", "block") if layout == "single" else ("down_blocks.{}.resnets.0", "resnets")
    with complete("VAE"):
        levels = count_of(shapes, f"encoder.{level}.conv1.weight")
        first = "encoder.down.0" if layout == "single" else "encoder.down_blocks.0"
        channels = tuple(shapes[f"encoder.{level.format(n)}.conv1.weight"][0] for n in range(levels))
        return VAEConfig(
            image_channels=shapes["encoder.conv_in.weight"][1],
            latent_channels=shapes["post_quant_conv.weight"][0],
            channels=channels,
            blocks=count_of(shapes, f"{first}.{block}.{{}}.conv1.weight"),
            norm_groups=gcd(NORM_GROUPS, *channels),
        )


def infer_model(shapes: Shapes) -> ModelConfig:
    """The config of a single file, with or without a VAE, from its shapes. A model without CLIP-L is a refiner."""
    first = CLIP_L_PREFIX + "text_model.embeddings.token_embedding.weight" in shapes
    unet, vae = infer_unet(strip(shapes, UNET_PREFIX), "single"), strip(shapes, VAE_PREFIX)
    clip_g = infer_clip_g(shapes, clip_g_prefix(not first))
    # the vector is the pooled text and six sizes, or four and the aesthetic score
    size_dim = (unet.vector_dim - (clip_g.projection_dim or 0)) // (6 if first else 5)
    return ModelConfig(
        unet=replace(unet, size_dim=max(size_dim, 1)),
        vae=infer_vae(vae, "single") if vae else BASE.vae,
        text_encoder=infer_clip_l(shapes) if first else None,
        text_encoder_2=clip_g,
    )
