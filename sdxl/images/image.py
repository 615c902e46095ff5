"""Pictures from outside and back: any PIL mode to 8-bit RGB, masks to 8-bit grey, tensors, and content hashes."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import ArgumentError, brief
from ..models.config import VAEConfig
from ..weights.container import TensorFile

Picture = Image.Image | str | Path
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}  # modes that PIL converts to these alone
_filters = threading.Lock()  # of warnings: they are the whole process', and two threads would restore each other's
MOST_PIXELS = 2**26  # a picture far above what SDXL can draw, against typing errors and decompression bombs


def open_sources(value: Any, name: str, count: int) -> tuple[Image.Image, ...] | Tensor:
    """The argument `image` or `mask` (`name`) of `count` prompts, opened: RGB pictures, or grey ones for a mask, one
    for all or one for each; or, of an image, latents.
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
        raise ArgumentError(f"{name} is {brief(value)}; give a PIL picture, a path, a list of these, or a tensor")
    if len(sources) not in (1, count):
        raise ArgumentError(
            f"{name} has {len(sources)} entries for {count} prompts; give one for each, or a single one"
        )
    return tuple((open_mask if name == "mask" else open_picture)(each, name) for each in sources)


def _from_tensor(value: Tensor, name: str) -> list[Image.Image] | Tensor:
    """The pictures of a tensor, or latents as they are."""
    if value.ndim != 4 or 0 in value.shape or value.shape[1] not in ((1,) if name == "mask" else (3, 4)):
        kinds = "(B, 1, H, W) in 0..1" if name == "mask" else "(B, 3, H, W) in 0..1, or latents (B, 4, h, w)"
        raise ArgumentError(f"{name} has shape {list(value.shape)}; as a tensor it must be {kinds}")
    if value.shape[1] == 4:
        return check_latents(value, name)
    if not (value.min() >= 0 and value.max() <= 1):
        raise ArgumentError(f"{name} has values outside 0..1; divide 8-bit values by 255")
    return to_pil(value)


def open_latents(value: Any, name: str) -> Tensor:
    """Latents as they are, or those of a .safetensors file with one tensor."""
    if not isinstance(value, (str, Path)):
        return check_latents(value, name)
    file = TensorFile(Path(value))
    if len(file.shapes) != 1:
        raise ArgumentError(f"{value} has {len(file.shapes)} tensors; {name} takes a file with one")
    return check_latents(file.read(next(iter(file.shapes))).float(), name)


def check_latents(value: Any, name: str, channels: int | None = None) -> Tensor:
    """Latents (B, C, h, w) of finite numbers, with as many `channels`, or an `ArgumentError`."""
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        raise ArgumentError(
            f"{name} must be a torch tensor of latents (B, 4, h, w) with floating-point numbers, or a .safetensors file"
        )
    if 0 in value.shape or value.shape[1] != (channels or value.shape[1]):
        raise ArgumentError(
            f"{name} has shape {list(value.shape)}; it must be (B, {channels or 4}, h, w) and not empty"
        )
    if not value.isfinite().all():
        raise ArgumentError(f"{name} has NaN or infinity in it; check where it comes from")
    return value


def check_pixels(value: Any, config: VAEConfig) -> None:
    """An `ArgumentError` for what is no tensor of pictures (B, 3, H, W) in 0..1 that the VAE can encode."""
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        kind = f"{list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"pixels are {kind}; give a tensor (B, 3, H, W) of floating-point numbers in 0..1, 8-bit values divided by "
            "255"
        )
    sides = value.shape[2:]
    if 0 in value.shape or value.shape[1] != config.image_channels or any(side % config.factor for side in sides):
        raise ArgumentError(
            f"pixels have shape {list(value.shape)}; they must be (B, {config.image_channels}, H, W) with sides that "
            f"are multiples of {config.factor}"
        )


def open_picture(source: Picture, name: str = "image") -> Image.Image:
    """A picture as 8-bit RGB: turned as its EXIF says, transparent parts on white. `name` is the argument's."""
    return _load(source, name, "white")


def open_mask(source: Picture, name: str = "mask") -> Image.Image:
    """A mask as 8-bit grey (mode L), white where it repaints; transparent parts are black."""
    return _load(source, name, "black").convert("L")


def _load(source: Picture, name: str, ground: str) -> Image.Image:
    """The whole picture as 8-bit RGB, transparent parts on a ground of that colour."""
    where = f"{name} {source}" if isinstance(source, (str, Path)) else name
    try:
        picture = _open(source) if isinstance(source, (str, Path)) else source
        if picture.width * picture.height > MOST_PIXELS:
            raise ArgumentError(
                f"{where} is {picture.width} x {picture.height}; at most {MOST_PIXELS} pixels are read, make it smaller"
            )
        if not picture.width * picture.height:
            raise ArgumentError(f"{where} is {picture.width} x {picture.height} and has no pixels; give another")
        picture.load()
        return _flat(_eight_bit(ImageOps.exif_transpose(picture), where), ground).convert("RGB")
    except ArgumentError:
        raise
    except FileNotFoundError as error:
        raise ArgumentError(f"{where} does not exist; give a picture file") from error
    except IsADirectoryError as error:
        raise ArgumentError(f"{where} is a folder; give a picture file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ArgumentError(f"{where} has too many pixels to be read safely; make it smaller") from error
    except UnidentifiedImageError as error:
        raise ArgumentError(
            f"{where} is not a picture in a format that is known here; save it as PNG or JPEG"
        ) from error
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        raise ArgumentError(f"{where} cannot be read ({error}); it is damaged, fetch it again") from error


def _open(path: str | Path) -> Image.Image:
    """A picture by its header; too large a one is an error and not PIL's warning."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(os.path.expanduser(path))


def _eight_bit(picture: Image.Image, where: str) -> Image.Image:
    """16-bit grey scaled to 8 bits, which PIL would clip; other modes PIL converts rightly by itself."""
    if picture.mode == "F":
        raise ArgumentError(f"{where} has floating-point pixels, whose range nobody knows; save it with 8 or 16 bits")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ArgumentError(f"{where} has pixels outside 0..65535; save it with 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _flat(picture: Image.Image, ground: str) -> Image.Image:
    """The picture on a ground of one colour where it has transparent parts."""
    if picture.mode in _PREMULTIPLIED:
        picture = picture.convert(_PREMULTIPLIED[picture.mode])
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture)


def resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """To (height, width) with the Lanczos filter, as diffusers does; the same object where nothing changes."""
    height, width = size
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def is_hard(mask: Image.Image) -> bool:
    """Whether a mask is black and white only."""
    counts = mask.histogram()
    return counts[0] + counts[255] == sum(counts)


def resize_mask(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The same for a mask: a black and white one stays so (grey from 128 on is white)."""
    resized = resize(mask, size)
    return resized.point([0] * 128 + [255] * 128) if is_hard(mask) else resized


def to_tensor(picture: Image.Image) -> Tensor:
    """A picture as (3, H, W), a mask as (1, H, W), float32 in 0..1."""
    pixels = np.array(picture)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).float() / 255


def to_pil(x: Tensor) -> list[Image.Image]:
    """Pictures (B, 3, H, W) or masks (B, 1, H, W) in 0..1 with 8 bits, rounded to the nearest value."""
    pixels = (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture) for picture in pixels]


def fingerprint(source: Image.Image | Tensor) -> str:
    """What identifies a picture or latents by content, whatever file they came in."""
    if isinstance(source, Tensor):
        kind, data = str(list(source.shape)), source.detach().cpu().float().contiguous().numpy().tobytes()
    else:
        kind, data = f"{source.mode} {source.width} x {source.height}", source.tobytes()
    return "sha256:" + hashlib.sha256(kind.encode() + data).hexdigest()
