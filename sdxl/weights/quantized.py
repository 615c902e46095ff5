"""Weights in 8 bits with a scale beside them, as ComfyUI writes them, and kinds of quantization that are not read.

A weight in float8 times its scale is the weight. `scale_weight` is the older name, with a marker `scaled_fp8`;
`weight_scale` the newer one, with `comfy_quant`, a text of JSON as bytes, or a table in the header. The scales of a
layer's input concern arithmetic in 8 bits alone. Source: ComfyUI's QUANTIZATION.md and comfy/utils.py (2025-12).
Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .ops import Op, from_stored

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_FLOATS = ("F32", "F16", "BF16")  # of scales
_PIECE = 1 << 18  # numbers that stay in the processor's cache
_SCALES = (".scale_weight", ".weight_scale")
_BESIDE = (".scale_input", ".input_scale", ".comfy_quant")
_MARKER = re.compile(r"(?:.*\.)?scaled_fp8")
_UNREAD = (
    (re.compile(r".*\.quant_state\.bitsandbytes__(\w+)"), "{} of bitsandbytes"),
    (re.compile(r".*\.(?:quant_map|absmax|SCB|weight_format)"), "8 or 4 bits of bitsandbytes"),
    (re.compile(r".*\.(?:weight_scale_2|pre_quant_scale)"), "4 bits with two scales (NVFP4)"),
    (re.compile(r".*\.(?:qweight|qzeros|g_idx)"), "4 bits of GPTQ or AWQ"),
    (re.compile(r".*\.(?:svdq\w*|proj_down|smooth_factor|wscales)"), "4 bits of Nunchaku"),
    (re.compile(r".*\.(?:weight_scale|scale_weight|comfy_quant)"), "whole numbers, or with scales of blocks"),
)


def scales(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]) -> dict[str, str]:
    """The key of the scale by the key of its weight, for weights in float8: a number, or one for each row."""
    found: dict[str, str] = {}
    for key in shapes:
        if not key.endswith(_SCALES) or dtypes[key] not in _FLOATS:
            continue
        weight = key.rpartition(".")[0] + ".weight"
        if dtypes.get(weight) not in _FLOAT8:
            continue
        shape, rows = shapes[key], shapes[weight][0] if shapes[weight] else 1
        if shape in ((), (1,)) or (shape and shape[0] == rows and set(shape[1:]) <= {1}):
            found[weight] = key
    return found


def beside(keys: Collection[str], known: Mapping[str, str]) -> set[str]:
    """The keys that belong to weights with scales, which are `known`, and are no weights of a network."""
    if not known:
        return set()
    modules = {key.removesuffix(".weight") for key in known}
    others = {key for key in keys if key.endswith(_BESIDE) and key.rpartition(".")[0] in modules}
    return {*known.values(), *others, *filter(_MARKER.fullmatch, keys)}


@dataclass(frozen=True, eq=False)
class Product:
    """From a weight in float8 to what it stands for: times its `scale`, in float32 and of a shape that spreads over the
    weight, rounded once to `dtype`.
    """

    scale: Tensor
    dtype: torch.dtype

    def of(self, op: Op) -> Product:
        """The same of our tensor that is made from the file's."""
        return self if self.scale.numel() == 1 else replace(self, scale=from_stored(self.scale, op))

    def __call__(self, weight: Tensor) -> Tensor:
        """The product, made piece by piece: nothing else takes memory."""
        import torch

        from ..models.float8 import widened

        result = torch.empty(weight.shape, dtype=self.dtype)
        matrices = (each if weight.ndim else each[None] for each in (weight, self.scale.expand_as(weight), result))
        rows = max(1, _PIECE // max(math.prod(weight.shape[1:]), 1))
        sources, factors, targets = (each.split(rows) for each in matrices)
        wide, bits = (torch.empty_like(sources[0], dtype=dtype) for dtype in (torch.float32, torch.int16))
        for source, factor, target in zip(sources, factors, targets, strict=True):
            target.copy_(widened(source, wide[: len(source)], bits[: len(source)]).mul_(factor))
        return result


def product(weight: Tensor, scale: Tensor) -> Product:
    """That of a weight and its scale: in float16, as ComfyUI computes SDXL, or in float32 where a number of it is out
    of that range.
    """
    import torch

    factors, most = scale.to(torch.float32, copy=True), torch.finfo(torch.float16).max  # whose file may be let go
    factors = factors.view(()) if factors.numel() == 1 else factors.view(-1, *[1] * (weight.ndim - 1))
    may_exceed = bool(torch.finfo(weight.dtype).max * factors.abs().max() > most)
    exceeds = may_exceed and bool((weight.float() * factors).abs().max() > most)
    return Product(factors, torch.float32 if exceeds else torch.float16)


def refuse(keys: Collection[str], dtype: Callable[[str], str], where: object) -> None:
    """Raise `CheckpointError` for a file whose layers are quantized in a way that is not read."""
    for pattern, name in _UNREAD:
        for key in keys:
            if match := pattern.fullmatch(key):
                weight = key.rpartition(".")[0] + ".weight"
                if weight in keys and dtype(weight) in _FLOATS:
                    raise CheckpointError(
                        f"{where} has {key} beside a weight in {dtype(weight)}, which is not quantized; give the "
                        "model in float16 without scales, or in float8 with or without them"
                    )
                raise CheckpointError(
                    f"{where} has layers that are quantized as {name.format(*match.groups())}, such as {key}; give the "
                    "model in float16, or in float8 with or without scales"
                )
