"""Reads images of any PIL mode as 8-bit RGB and masks as 8-bit grey; tensors and content hashes of them."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import ArgumentError, brief, warn
from ..models.config import AnyVAEConfig
from ..weights.container import TensorFile
from .pixels import to_pil

Picture = Image.Image | str | Path
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}  # PIL converts these modes only to the others
_filters = threading.Lock()  # warning filters belong to the process: two threads would restore each other's
if hasattr(os, "register_at_fork"):  # else it could stay locked in a child for ever
    os.register_at_fork(before=_filters.acquire, after_in_parent=_filters.release, after_in_child=_filters.release)
_BEYOND = 0.1  # what a resized image may have beyond 0..1
MOST_PIXELS = 2**26  # far more than SDXL can generate; against typing errors and decompression bombs


def open_sources(value: Any, name: str, count: int, drops_alpha: bool = False) -> tuple[Image.Image, ...] | Tensor:
    """Open the argument `image` or `mask` (`name`) of `count` prompts: RGB images, grey ones for `mask`, one for all or
    one for each; or latents for `image`. Transparent parts of an image lie on white, unless it `drops_alpha`. Raises
    `ArgumentError`.
    """
    if name == "image" and isinstance(value, (str, Path)) and Path(value).suffix == ".safetensors":
        return open_latents(value, name)
    if isinstance(value, Tensor):
        value = _from_tensor(value, name)
    if isinstance(value, Tensor):
        return value
    several = isinstance(value, Sequence) and not isinstance(value, str)
    sources = list(value) if several else [value]
    if not sources or not all(isinstance(each, (Image.Image, str, Path)) for each in sources):
        hint = ". Try PIL.Image.fromarray(array) or torch.from_numpy(array)" if hasattr(value, "__array__") else ""
        raise ArgumentError(f"{name} is {brief(value)}; give a PIL image, a path, a list of these, or a tensor{hint}")
    if len(sources) not in (1, count):
        raise ArgumentError(
            f"{name} has {len(sources)} entries for {count} prompts; give one for each, or a single one"
        )
    if name == "mask":
        return tuple(open_mask(each, name) for each in sources)
    return tuple(open_picture(each, name, drops_alpha) for each in sources)


def _from_tensor(value: Tensor, name: str) -> list[Image.Image] | Tensor:
    """The images of a tensor, or its latents."""
    if value.ndim != 4 or 0 in value.shape or value.shape[1] not in ((1,) if name == "mask" else (3, 4)):
        shapes = "(B, 1, H, W) in 0..1" if name == "mask" else "(B, 3, H, W) in 0..1, or latents (B, 4, h, w)"
        raise ArgumentError(f"{name} has shape {list(value.shape)}; as a tensor it must be {shapes}")
    if value.shape[1] == 4:
        return check_latents(value, name)
    if not (value.min() >= 0 and value.max() <= 1):
        raise ArgumentError(f"{name} has values outside 0..1; divide 8-bit values by 255")
    return to_pil(value)


def open_latents(value: Any, name: str) -> Tensor:
    """Latents, or those of a .safetensors file with one tensor. Raises `ArgumentError`."""
    if not isinstance(value, (str, Path)):
        return check_latents(value, name)
    file = TensorFile(value)
    if len(file.shapes) != 1:
        raise ArgumentError(f"{value} has {len(file.shapes)} tensors; give {name} a file with one")
    return check_latents(file.read(next(iter(file.shapes))).float(), name)


def check_latents(value: Any, name: str, channels: int | None = None) -> Tensor:
    """Latents (B, C, h, w). Raises `ArgumentError` unless they are finite and have that many `channels`."""
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        raise ArgumentError(
            f"{name} must be a torch tensor of latents (B, 4, h, w) with floating-point numbers, or a .safetensors file"
        )
    if 0 in value.shape or value.shape[1] != (channels or value.shape[1]):
        raise ArgumentError(
            f"{name} has shape {list(value.shape)}; it must be (B, {channels or 4}, h, w) and not empty"
        )
    if not value.isfinite().all():
        raise ArgumentError(f"{name} has NaN or infinity in it; check its source")
    return value


def check_encoder(config: AnyVAEConfig, what: str) -> None:
    """Raise `ArgumentError` if the VAE cannot encode, as `what` asks for."""
    if not config.has_encoder:
        raise ArgumentError(
            f"{what} must be encoded, and the tiny VAE is a decoder alone; give one with an encoder, such as "
            "madebyollin/taesdxl, or leave vae out"
        )


def check_pixels(value: Any, config: AnyVAEConfig) -> None:
    """Raise `ArgumentError` unless `value` is a tensor of images (B, 3, H, W) that the VAE can encode."""
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        given = f"{list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"pixels are {given}; give a tensor (B, 3, H, W) of floating-point numbers in 0..1, 8-bit values divided "
            "by 255"
        )
    sides = value.shape[2:]
    if 0 in value.shape or value.shape[1] != config.image_channels or any(side % config.factor for side in sides):
        raise ArgumentError(
            f"pixels have shape {list(value.shape)}; they must be (B, {config.image_channels}, H, W) with sides that "
            f"are multiples of {config.factor}"
        )
    low, high = float(value.min()), float(value.max())
    if not math.isfinite(high - low):
        raise ArgumentError("pixels have NaN or infinity in them; check their source")
    if low < -_BEYOND or high > 1 + _BEYOND:
        warn(f"pixels have values from {low:.3g} to {high:.3g}, and 0..1 is expected: black is 0, white 1")
    check_encoder(config, "an image")


def check_posterior_noise(noise: Any, pixels: Tensor, config: AnyVAEConfig) -> None:
    """Raise `ArgumentError` unless `noise` is (N, C, h, w) for images (B, 3, H, W): N 1 or B, or any for one image."""
    count, wanted = len(pixels), [config.latent_channels, *(side // config.factor for side in pixels.shape[2:])]
    is_tensor = isinstance(noise, Tensor) and noise.ndim in (3, 4) and noise.is_floating_point()
    if not is_tensor or [*noise.shape[-3:]] != wanted or (count > 1 and noise.shape[:-3].numel() not in (1, count)):
        given = list(noise.shape) if isinstance(noise, Tensor) else brief(noise)
        raise ArgumentError(f"noise is {given}; expected standard normal numbers, a tensor {[count, *wanted]}")


def open_picture(source: Picture, name: str = "image", drops_alpha: bool = False) -> Image.Image:
    """An image as 8-bit RGB: rotated by its EXIF data, transparent parts on white, unless it `drops_alpha`. `name` is
    the argument's.
    """
    return _load(source, name, None if drops_alpha else "white")


def open_mask(source: Picture, name: str = "mask") -> Image.Image:
    """A mask as 8-bit grey (mode L), white where it repaints; transparent parts are black."""
    return _load(source, name, "black").convert("L")


def open_control(source: Picture, name: str = "control") -> Image.Image:
    """A control image as 8-bit RGB: rotated by its EXIF data, transparent parts on black, which is nothing in lines,
    poses and depths.
    """
    return _load(source, name, "black")


def _load(source: Picture, name: str, background: str | None) -> Image.Image:
    """The image as 8-bit RGB, transparent parts on a background of that colour, or as their own colour says."""
    where = f"{name} {source}" if isinstance(source, (str, Path)) else name
    try:
        image = open_header(source) if isinstance(source, (str, Path)) else source
        if image.width * image.height > MOST_PIXELS:
            raise ArgumentError(
                f"{where} is {image.width} x {image.height}; expected at most {MOST_PIXELS} pixels, make it smaller"
            )
        if not image.width * image.height:
            raise ArgumentError(f"{where} is {image.width} x {image.height} and has no pixels; give another")
        image.load()
        opened = _eight_bit(ImageOps.exif_transpose(image), where)
        return (opened if background is None else _flatten(opened, background)).convert("RGB")
    except ArgumentError:
        raise
    except FileNotFoundError as error:
        raise ArgumentError(f"{where} does not exist; give an image file") from error
    except IsADirectoryError as error:
        raise ArgumentError(f"{where} is a folder; give an image file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ArgumentError(f"{where} has too many pixels to be read safely; make it smaller") from error
    except UnidentifiedImageError as error:
        raise ArgumentError(f"{where} is not an image in a known format; save it as PNG or JPEG") from error
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        reason = brief(str(error))  # PIL repeats parts of the file
        raise ArgumentError(f"{where} cannot be read ({reason}); it is damaged, download or save it again") from error


def open_header(file: str | Path | BytesIO, formats: tuple[str, ...] | None = None) -> Image.Image:
    """An image, by its header. An image that is too large raises an error instead of PIL's warning."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(file if isinstance(file, BytesIO) else os.path.expanduser(file), formats=formats)


def _eight_bit(image: Image.Image, where: str) -> Image.Image:
    """16-bit grey scaled to 8 bits, which PIL would clip; PIL converts other modes correctly."""
    if image.mode == "F":
        raise ArgumentError(f"{where} has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ArgumentError(f"{where} has pixels outside 0..65535; save it with 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _flatten(image: Image.Image, background: str) -> Image.Image:
    """The image without transparent parts, on a background of one colour."""
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """To (height, width) with the Lanczos filter, as diffusers does; the same object if the size is the same."""
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS)


def blacken(mask: Image.Image, threshold: int) -> Image.Image:
    """A mask (mode L) whose greys below `threshold` are black."""
    return mask.point([0] * threshold + list(range(threshold, 256)))


def is_hard(mask: Image.Image) -> bool:
    """Whether a mask has only black and white."""
    counts = mask.histogram()
    return counts[0] + counts[255] == sum(counts)


def resize_mask(mask: Image.Image, size: tuple[int, int], threshold: int) -> Image.Image:
    """As `resize`, then greys below `threshold` are black. A mask of these and white alone stays black and white (128
    and above becomes white).
    """
    black = blacken(mask, threshold)
    if is_hard(black):
        return resize(black, size).point([0] * 128 + [255] * 128)
    return blacken(resize(mask, size), threshold)


def fingerprint(source: Image.Image | Tensor) -> str:
    """A hash of the content of an image or latents, whatever their file."""
    if isinstance(source, Tensor):
        header, data = str(list(source.shape)), source.detach().cpu().float().contiguous().numpy().tobytes()
    else:
        header, data = f"{source.mode} {source.width} x {source.height}", source.tobytes()
    return "sha256:" + hashlib.sha256(header.encode() + data).hexdigest()
