"""Files of IP-Adapters: opened if they are for SDXL, else refused by name."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError, naming
from ..models.ip_adapter import file_order
from ..models.unet_config import UNetConfig
from ..models.vision_config import IPAdapterConfig
from ..weights import identify
from ..weights.component import Component, check_components
from ..weights.container import TensorFile, Weights
from ..weights.families import CONTEXTS
from ..weights.identify import Shapes
from ..weights.reference_rows import infer_ip_adapter, ip_adapter_rows, is_ip_adapter, is_vision, place_key
from .family import foreign

NAME = "ip_adapter"
_FIT = "give ip-adapter_sdxl_vit-h or ip-adapter-plus_sdxl_vit-h of h94/IP-Adapter"
_FACES = "give ip-adapter-plus-face_sdxl_vit-h of h94/IP-Adapter, which sees faces without it"
_FACE_WIDTH, _KOLORS_WIDTH = 512, 2048  # of InsightFace's embedding, and of the latents in Kolors' resampler


def open_ip_adapter(path: Path) -> Component:
    """Open an IP-Adapter of SDXL, plain or plus; headers alone. Raises `CheckpointError`."""
    component = read_ip_adapter(TensorFile(path))
    check_components([component])
    return component


def read_ip_adapter(file: TensorFile) -> Component:
    """As `open_ip_adapter`, without checking the keys of the file."""
    weights = Weights([file], canonical_key)
    if (found := refusal(weights)) is not None:
        name, advice = found
        raise CheckpointError(f"{file.path} is {name}; {advice}")
    with naming(file.path):
        config = infer_ip_adapter(weights)
    return Component(NAME, config, list(ip_adapter_rows(config)), "folder", weights)


def canonical_key(key: str) -> str:
    """A key in the published names: training scripts have `adapter_modules` for `ip_adapter`."""
    return f"ip_adapter.{key.removeprefix('adapter_modules.')}" if key.startswith("adapter_modules.") else key


def refusal(shapes: Shapes) -> tuple[str, str] | None:
    """What a file is that is no IP-Adapter for SDXL, and what to give in its place; None if it may be one."""
    if not is_ip_adapter(shapes):
        return _stranger(shapes)
    if any(key.startswith("image_proj.perceiver_resampler.") for key in shapes):
        return "IP-Adapter FaceID Plus, which needs the face recognition of InsightFace", _FACES
    if any("_lora." in key for key in shapes) or "image_proj.proj.2.weight" in shapes:
        if "image_proj.proj.3.weight" in shapes:
            return "IP-Adapter full-face, whose tokens are those of Stable Diffusion 1.5", _FACES
        return "IP-Adapter FaceID, which needs the face recognition of InsightFace", _FACES
    width = _width(shapes, "image_proj.latents")
    if width == _KOLORS_WIDTH:
        return "an IP-Adapter of Kolors", _FIT
    if width and _width(shapes, "image_proj.proj_in.weight") == _FACE_WIDTH:
        return "the IP-Adapter of InstantID, which needs the face recognition of InsightFace", _FACES
    context = _width(shapes, place_key(0, "k"))
    if context in CONTEXTS:
        return f"an IP-Adapter of {CONTEXTS[context]}, with a context of {context}", _FIT
    return None


def _width(shapes: Shapes, key: str) -> int:
    """The last side of a tensor; 0 where it is missing, or a single number."""
    return (shapes.get(key) or (0,))[-1]


def _stranger(shapes: Shapes) -> tuple[str, str]:
    if is_vision(shapes):
        return "an image encoder and no IP-Adapter", "give it as encoder="
    found = foreign(shapes)
    name = identify.foreign(shapes) or (found[0] if found else "no IP-Adapter")
    return (name if name.startswith("no ") else f"{name} and no IP-Adapter"), _FIT


def check_fits(adapter: Component, unet: UNetConfig, path: Path) -> None:
    """Raise `CheckpointError` for an adapter that was made for another UNet."""
    config = adapter.config
    assert isinstance(config, IPAdapterConfig)
    widths = places(unet)
    if config.context_dim != unet.context_dim:
        raise CheckpointError(
            f"{path} makes tokens of width {config.context_dim}, and the model's UNet takes {unet.context_dim}; give "
            "an IP-Adapter that was made for it"
        )
    count = len(config.widths)
    if [*config.widths] != widths:
        own = f"for {count} cross-attentions" if count != len(widths) else "of other widths"
        raise CheckpointError(
            f"{path} has keys and values {own}, and the model's UNet has {len(widths)} cross-attentions; give an "
            "IP-Adapter that was made for it"
        )


def places(unet: UNetConfig) -> list[int]:
    """The widths of a UNet's cross-attentions in the order of the files of adapters."""
    return [unet.channels[unet.level_of(name)] for name in file_order(unet.block_names())]
