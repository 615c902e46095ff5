"""Weights in 8 bits with a scale beside them, as ComfyUI writes them, and kinds of quantization that are not read.

A weight in float8 times its scale is the weight. `scale_weight` is the older name, with a marker `scaled_fp8`;
`weight_scale` the newer one, with `comfy_quant`, a text of JSON as bytes, or a table in the header. The scales of a
layer's input concern arithmetic in 8 bits alone. Source: ComfyUI's QUANTIZATION.md and comfy/utils.py (2025-12).
Imports no torch.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_FLOATS = ("F32", "F16", "BF16")  # of scales
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


def scaled(weight: Tensor, scale: Tensor) -> Tensor:
    """The weight in float16, as ComfyUI computes SDXL, or in float32 where it is out of its range."""
    import torch

    factors, most = scale.float().flatten(), torch.finfo(torch.float16).max
    if torch.finfo(weight.dtype).max * factors.abs().max() > most:  # it may be
        product = weight.float() * factors.view(-1, *[1] * (weight.ndim - 1))
        if product.abs().max() > most:
            return product
    product = _pages(weight.shape).copy_(weight)  # exact; each product is rounded once, and takes no other memory
    for part, factor in zip([product] if len(factors) == 1 else product, factors, strict=True):
        part.mul_(factor)
    return product


def _pages(shape: Sequence[int]) -> Tensor:
    """Memory for float16 that the system has back at once when it is let go: an allocator would keep it, with holes."""
    import torch

    count = math.prod(shape)
    access = mmap.ACCESS_COPY if hasattr(mmap, "MAP_PRIVATE") else mmap.ACCESS_WRITE  # of this process alone
    pages = mmap.mmap(-1, max(2 * count, 2), access=access)
    return torch.frombuffer(pages, dtype=torch.float16)[:count].view(tuple(shape))


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
