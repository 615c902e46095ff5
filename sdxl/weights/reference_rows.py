"""The names of the parameters of image encoders and IP-Adapters, and their configs from the shapes of a file.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from math import isqrt

from ..models.vision_config import IPAdapterConfig, VisionConfig
from .identify import Shapes
from .infer import complete, count_of
from .keymap import WEIGHT_BIAS, Row, clip_layer_rows, module_rows
from .ops import Op

VISUAL, VISION = "visual.", "vision_model."
"""How the keys of an image encoder begin in OpenCLIP's names, and in transformers'."""
_HEADS = 16  # of OpenCLIP's ViT-H and ViT-bigG, whatever their width
# ours, the file's, after "image_proj.layers.N."
_RESAMPLER_LAYER: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("norm_image", "0.norm1", WEIGHT_BIAS),
    ("norm_latents", "0.norm2", WEIGHT_BIAS),
    ("q", "0.to_q", ("weight",)),
    ("kv", "0.to_kv", ("weight",)),
    ("out", "0.to_out", ("weight",)),
    ("norm_ff", "1.0", WEIGHT_BIAS),
    ("up", "1.1", ("weight",)),
    ("down", "1.3", ("weight",)),
)


def vision_rows(config: VisionConfig) -> Iterator[Row]:
    """An image encoder; `single` in OpenCLIP's names, `folder` in transformers'."""
    embeddings = f"{VISION}embeddings."
    yield Row("class_embed.weight", f"{VISUAL}class_embedding", f"{embeddings}class_embedding")
    yield Row("patch_embed.weight", f"{VISUAL}conv1.weight", f"{embeddings}patch_embedding.weight")
    yield Row("position_embed.weight", f"{VISUAL}positional_embedding", f"{embeddings}position_embedding.weight")
    norms = (("norm_in", "ln_pre", "pre_layrnorm"), ("norm_out", "ln_post", "post_layernorm"))  # transformers' spelling
    for ours, single, folder in norms:
        yield from module_rows(ours, f"{VISUAL}{single}", f"{VISION}{folder}")
    yield from clip_layer_rows(config, VISUAL, VISION)
    yield Row("projection.weight", f"{VISUAL}proj", "visual_projection.weight", Op.TRANSPOSE)


def ip_adapter_rows(config: IPAdapterConfig) -> Iterator[Row]:
    """An IP-Adapter, whose names have one form."""
    for ours, key in _projection(config):
        yield Row(f"project.{ours}", f"image_proj.{key}", f"image_proj.{key}")
    for n in range(len(config.widths)):
        for name in "kv":
            key = place_key(n, name)
            yield Row(f"places.{n}.{name}.weight", key, key)


def place_key(place: int, name: str) -> str:
    """The key of the matrix for keys (`k`) or values (`v`) of a cross-attention: self-attentions are counted too."""
    return f"ip_adapter.{2 * place + 1}.to_{name}_ip.weight"


def _projection(config: IPAdapterConfig) -> Iterator[tuple[str, str]]:
    if not config.is_plus:
        yield from _leaves("proj", "norm")
        return
    yield "latents.weight", "latents"
    yield from _leaves("proj_in", "proj_out", "norm_out")
    for n in range(config.depth):
        for ours, key, leaves in _RESAMPLER_LAYER:
            yield from ((f"layers.{n}.{ours}.{leaf}", f"layers.{n}.{key}.{leaf}") for leaf in leaves)


def _leaves(*names: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{name}.{leaf}", f"{name}.{leaf}") for name in names for leaf in WEIGHT_BIAS)


def is_vision(shapes: Iterable[str]) -> bool:
    """Whether a file holds an image encoder of CLIP, alone or beside CLIP's text encoder."""
    keys = set(shapes)
    return f"{VISUAL}conv1.weight" in keys or f"{VISION}embeddings.patch_embedding.weight" in keys


def is_ip_adapter(shapes: Iterable[str]) -> bool:
    """Whether a file is an IP-Adapter of some kind."""
    return any(key.startswith("image_proj.") or key.endswith(".to_k_ip.weight") for key in shapes)


def infer_vision(shapes: Shapes, layout: str) -> VisionConfig:
    """The config of an image encoder from its shapes, in OpenCLIP's names (the `layout` `single`) or transformers'."""
    rows = {row.ours: row.single if layout == "single" else row.folder for row in vision_rows(VisionConfig(layers=1))}

    def at(name: str) -> tuple[int, ...]:
        return shapes[rows[name]]

    with complete("image encoder"):
        dim, _, patch, _ = at("patch_embed.weight")
        projection = at("projection.weight")
        return VisionConfig(
            dim=dim,
            ff_dim=at("layers.0.ff.up.weight")[0],
            layers=count_of(shapes, rows["layers.0.norm1.weight"].replace(".0.", ".{}.", 1)),
            heads=_HEADS,
            patch=patch,
            image_size=patch * isqrt(max(at("position_embed.weight")[0] - 1, 0)),
            projection_dim=projection[1] if layout == "single" else projection[0],
        )


def infer_ip_adapter(shapes: Shapes) -> IPAdapterConfig:
    """The config of an IP-Adapter from its shapes."""
    with complete("IP-Adapter"):
        widths = tuple(width for width, _ in _places(shapes))
        context_dim = shapes[place_key(0, "k")][1]
        if "image_proj.latents" not in shapes:
            size, image_dim = shapes["image_proj.proj.weight"]
            return IPAdapterConfig(image_dim, context_dim, widths, tokens=max(size // context_dim, 1))
        _, tokens, inner_dim = shapes["image_proj.latents"]
        heads_dim, ff_dim = (shapes[f"image_proj.layers.0.{name}.weight"][0] for name in ("0.to_q", "1.1"))
        return IPAdapterConfig(
            image_dim=shapes["image_proj.proj_in.weight"][1],
            context_dim=context_dim,
            widths=widths,
            tokens=tokens,
            depth=count_of(shapes, "image_proj.layers.{}.0.to_q.weight"),
            inner_dim=inner_dim,
            heads_dim=heads_dim,
            ff_dim=ff_dim,
        )


def _places(shapes: Shapes) -> Iterator[tuple[int, int]]:
    for n in count():
        if (key := place_key(n, "k")) not in shapes:
            return
        width, context = shapes[key]
        yield width, context
