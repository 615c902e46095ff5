"""How much memory there is, how much a model needs, and which of its components are in memory at a time."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import ArgumentError, OutOfMemoryError, SDXLError
from ..models.config import AnyVAEConfig, ModelConfig
from ..models.tiny_vae_config import TinyVAEConfig
from ..models.unet_config import UNetConfig
from . import system_memory
from .offload import OFFLOADS, ways
from .placement import Placement, has_pixels, vae_placement

UNET_MAPS, UNET_MAPS_CPU = 16, 32  # feature maps of the first level's channels
# feature maps of the second level's channels: in strips or not, with the channels of a pixel side by side or not
VAE_MAPS = {(False, False): 5, (False, True): 2.7, (True, False): 1.5, (True, True): 1.75}
TINY_VAE_MAPS = 5  # feature maps of the tiny VAE's width at the size of the image
RESERVE = 1_500_000_000  # bytes beside the weights: the interpreter, and feature maps of a 1024 x 1024 image


def available(device: torch.device) -> float:
    """Bytes that are free on a device; infinity where the system does not say."""
    if device.type == "cuda":
        unclaimed, _ = torch.cuda.mem_get_info(device)
        return unclaimed + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":  # what Metal recommends to take at most, of memory that the processor has too
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if device.type == "xpu":  # what other programs take is not known: `mem_get_info` fails on many (pytorch#157989)
        return torch.xpu.get_device_properties(device).total_memory - torch.xpu.memory_allocated(device)
    return system_memory.free() + _kept()


def used(device: torch.device) -> int:
    """Bytes that this process holds on a device; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    if device.type == "xpu":
        return torch.xpu.memory_reserved(device)
    return torch.mps.driver_allocated_memory() if device.type == "mps" else system_memory.resident()


def choose_offload(
    offload: str,
    components: Sequence[int],
    text: int,
    device: torch.device,
    max_memory: int | None = None,
    int8: bool = False,
) -> str:
    """`offload` itself, or for "auto" the one that fits and costs the least time.

    `components` are the bytes of all components, `text` those of the text encoders; at most `max_memory` may be taken.
    On a CPU stage comes first: a component costs little to load, and other programs need the memory too. Raises
    `OutOfMemoryError` where a choice of the caller cannot fit.
    """
    if offload not in OFFLOADS:
        raise ArgumentError(f"offload is {offload!r}; it must be one of {', '.join(OFFLOADS)}")
    if max_memory is not None and not (isinstance(max_memory, (int, float)) and max_memory > 1e4):
        raise ArgumentError(f"max_memory is {max_memory!r} bytes, too few for any model; 8 GB are 8e9")
    whole = sum(components)
    needs = {"none": whole, "text": whole - text, "stage": max(components), "block": 0}
    if offload != "auto":
        free = available(device) if max_memory is None else max_memory
        _check_fits(offload, needs, free, ways(device.type, int8))
        return offload
    limit = min(available(device), math.inf if max_memory is None else max_memory) - RESERVE
    order = ("stage", "block") if device.type == "cpu" else needs
    return next((name for name in order if needs[name] <= limit), "block")


def _check_fits(offload: str, needs: Mapping[str, int], free: float, ways: Sequence[str]) -> None:
    """Raise before loading what would not fit: a CPU's system ends a process that takes too much, without a word."""
    if needs[offload] > free:
        advice = [f"offload {name}" for name in ways if needs[name] <= free][:1]
        raise OutOfMemoryError(
            f"the model takes {needs[offload] / 1e9:.2g} GB with offload {offload}, and {free / 1e9:.2g} GB are free; "
            f"try {' or '.join([*advice, 'a smaller dtype'])}"
        )


def unet_bytes(config: UNetConfig, rows: int, latent_size: Sequence[int], at: Placement) -> int:
    """The memory of a step beside the weights, as measured at 1024 x 1024: on a CPU oneDNN's workspaces too."""
    maps = UNET_MAPS_CPU if at.device.type == "cpu" else UNET_MAPS
    return maps * config.channels[0] * rows * math.prod(latent_size) * at.arithmetic.itemsize


def vae_bytes(config: AnyVAEConfig, size: Sequence[int], at: Placement, in_strips: bool = False) -> int:
    """The memory of decoding or encoding an image of (height, width), beside a UNet that is at `at`. A tiny VAE always
    works on the whole image.
    """
    at = vae_placement(at, config)
    itemsize = at.arithmetic.itemsize
    if isinstance(config, TinyVAEConfig):
        return TINY_VAE_MAPS * config.width * math.prod(size) * itemsize
    is_last = has_pixels(at.device, at.dtype) and not at.streamed
    return int(VAE_MAPS[in_strips, is_last] * config.channels[1] * math.prod(size) * itemsize)


def fits_in_a_map(config: AnyVAEConfig, size: Sequence[int], count: int, at: Placement) -> bool:
    """Whether a device can hold the VAE's largest feature map of `count` images of (height, width) as one tensor.

    Apple's GPU ends the process for more than 4 GB (pytorch/pytorch#149261). On CUDA norms, enlargement and some
    convolutions count the numbers of a map in 32 bits: "only supports output tensors with less than INT_MAX elements".
    """
    if at.device.type not in ("mps", "cuda") or isinstance(config, TinyVAEConfig):
        return True
    numbers = count * config.channels[1] * math.prod(size)
    if at.device.type == "cuda":
        return numbers < 2**31
    return numbers * vae_placement(at, config).arithmetic.itemsize <= 2**32


def check_memory(
    size: tuple[int, int],
    images: int,
    branches: int,
    configs: Sequence[ModelConfig],
    at: Placement,
    room: float,
    smaller: str | None,
) -> None:
    """Raise `OutOfMemoryError`, with a size that would fit, if the work beside the weights takes more than `room`: the
    work on `images` of (height, width) with so many guidance branches. `configs` are the model's and its refiner's,
    `smaller` is a way to keep less of the model in memory.
    """
    (height, width), vae = size, configs[0].vae
    latent_size = height // vae.factor, width // vae.factor
    strips = vae_bytes(vae, size, at, in_strips=True)
    least = max(strips, *(unet_bytes(config.unet, images * branches, latent_size, at) for config in configs))
    if least <= room:
        return
    side = int(math.sqrt(max(room, 0) / least * height * width)) // 64 * 64
    what = f"an image of {width} x {height} needs" if images == 1 else f"{images} of {width} x {height} at once need"
    advice = [f"{side} x {side}, which would fit"] if side else []
    advice += ["fewer images at once"] if images > 1 else []
    advice += [f"offload {smaller}"] if smaller else []
    raise OutOfMemoryError(
        f"{what} {least / 1e9:.2g} GB beside the model, and {max(room, 0) / 1e9:.2g} GB are free; try "
        + ", or ".join(advice or ["a higher limit or a machine with more memory"])
    )


_OUT_OF_MEMORY = (
    *("out of memory", "allocate memory", "not enough memory", "bad_alloc", "ALLOC_FAILED"),
    *("could not create a primitive", "could not create a memory"),  # oneDNN's words for it
    "Invalid buffer size",  # Metal's, for a tensor that is larger than its buffers may be
    "can't start new thread",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is what torch means, which has many words for it; not of what was said in one sentence already."""
    if isinstance(error, SDXLError):
        return False
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def trim() -> None:
    """Give memory that was freed back to the system: glibc keeps what it had in small pieces, and tcmalloc more."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.xpu.is_available():
        torch.xpu.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    _call("MallocExtension_ReleaseFreeMemory") or _call("malloc_trim", 0)


def _kept() -> int:
    """Bytes that tcmalloc keeps for later, which the system counts as taken."""
    count = ctypes.c_size_t()
    _call("MallocExtension_GetNumericProperty", b"tcmalloc.pageheap_free_bytes", ctypes.byref(count))
    return count.value


def _call(name: str, *given: Any) -> bool:
    """Call a function of the allocator of this process; False if it is not there."""
    if sys.platform != "linux" or not hasattr(process := ctypes.CDLL(None), name):
        return False
    getattr(process, name)(*given)
    return True
