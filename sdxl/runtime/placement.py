"""Where a network's weights lie, and what they are in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ..errors import ArgumentError
from ..models.config import AnyVAEConfig
from .device import choose_dtype, is_fast
from .fp8 import has_fp8
from .int8 import can_quantize
from .onednn import can_pack
from .precision import Precision


@dataclass(frozen=True)
class Placement:
    """Where a network's weights lie, what they are in, and what it computes in.

    `packed`: prepacked for a CPU. `streamed`: the matrices stay where they are read from, and every layer fetches its
    own when it is called. `int8`: the linear layers of the transformer blocks are in 8 bits. `fp8`: their weights are
    kept in 8 bits, and the arithmetic is the same.
    """

    device: torch.device
    dtype: torch.dtype
    arithmetic: torch.dtype
    packed: bool = False
    streamed: bool = False
    int8: bool = False
    fp8: bool = False

    @property
    def precision(self) -> Precision:
        """The dtypes of weights and arithmetic, by name."""
        dtype, arithmetic = (str(each).removeprefix("torch.") for each in (self.dtype, self.arithmetic))
        return Precision(dtype, arithmetic)


def choose_placement(
    device: torch.device,
    dtype: torch.dtype,
    streamed: bool = False,
    int8: bool = False,
    arithmetic: torch.dtype | None = None,
    fp8: bool = False,
) -> Placement:
    """The fastest placement: arithmetic in float32 where a CPU is slower in the dtype of the weights, unless
    `arithmetic` says otherwise. Raises `ArgumentError` where there is no int8 or fp8.
    """
    if int8 and fp8:
        raise ArgumentError("int8 and fp8 are both True; expected one of them, leave the other out")
    if fp8 and not has_fp8(device):
        raise ArgumentError(f"fp8 is True on {device}, which has no float8_e4m3fn; leave fp8 out")
    if int8 and (streamed or not can_quantize(device)):
        raise ArgumentError(
            "int8 needs a CPU with 8-bit dot products (AVX-512 VNNI, AVX-VNNI or AMX), and no streaming; "
            "leave int8 or offload block out"
        )
    if arithmetic is None:
        arithmetic = dtype if dtype is torch.float32 or is_fast(dtype, device) else torch.float32
    packed = arithmetic is dtype and not streamed and can_pack(device, dtype)
    return Placement(device, dtype, arithmetic, packed, streamed, int8, fp8)


def fastest(device: torch.device, dtype: str | torch.dtype | None = None) -> Precision:
    """The precision that this machine chooses by its speed, for weights of `dtype` or of any."""
    return choose_placement(device, choose_dtype(dtype, device)).precision


def vae_placement(placement: Placement, config: AnyVAEConfig) -> Placement:
    """The placement of the VAE beside a UNet's: it is not computed in float16, in which the stock one overflows; a tiny
    one is.
    """
    overflows = config.overflows and placement.arithmetic is torch.float16
    return replace(placement, dtype=torch.float32, arithmetic=torch.float32) if overflows else placement


def text_placement(placement: Placement, offload: str) -> Placement:
    """The placement of a network that runs once for an image, such as a text encoder, beside a UNet's: to prepack it
    costs more than it saves.
    """
    return replace(placement, packed=False, int8=False, streamed=offload in ("text", "block"))


def has_pixels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the channels of convolutions' weights, and so of maps, lie side by side (channels_last), as cuDNN's
    kernels want them in 16 bits. Weights that are streamed keep their order.
    """
    return device.type == "cuda" and dtype.itemsize == 2


def weight_bytes(
    shapes: Iterable[tuple[int, ...]], dtype: torch.dtype, in_8_bits: Iterable[tuple[int, ...]] = ()
) -> int:
    """The memory of weights in a dtype; `in_8_bits` are the shapes of those among them that are in 8 bits."""
    saved = sum(math.prod(shape) * (dtype.itemsize - 1) for shape in in_8_bits)
    return sum(math.prod(shape) * dtype.itemsize for shape in shapes) - saved
