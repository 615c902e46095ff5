"""Tiny VAEs in the layout of TAESD: their names, their configs from the shapes of a file, and how one takes the place
of a model's VAE.

The published files are diffusers' folder (`AutoencoderTiny`), and one file each for the encoder and the decoder, whose
keys are the places in a list of layers. Some tools write both into one file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from ..errors import CheckpointError, ConfigError, naming
from ..models.config import AnyVAEConfig, VAEConfig
from ..models.tiny_vae_config import TinyVAEConfig
from .component import Component
from .container import TensorFile, Weights
from .diffusers_config import TINY_CLASS, read_tiny_vae
from .folder import read_json
from .identify import Shapes
from .keymap import VAE, WEIGHT_BIAS, Row
from .recognise import cached_model

_FOLDER = "decoder.layers."
# (encoder, decoder), as their own files have them, and both in one file
_SINGLE = (("", ""), ("encoder.", "decoder."), ("taesd_encoder.", "taesd_decoder."))
_SCALES = ("vae_scale", "vae_shift")  # beside both halves in ComfyUI's files: of the VAE that the latents belong to
_OTHER = re.compile(r"(?<![a-z])taesd(?![a-z0-9])", re.IGNORECASE)
_GENERAL = ("diffusion_pytorch_model", "model", "vae")
_CONVS = (("conv1", "conv.0"), ("conv2", "conv.2"), ("conv3", "conv.4"))  # of a block: ours, the file's
SCALING_FACTOR = VAEConfig().scaling_factor
"""What SDXL's latents are multiplied with before a tiny VAE sees them."""


def is_tiny(shapes: Shapes) -> bool:
    """Whether a file has a tiny VAE, or half of one."""
    starts = {each for pair in _SINGLE for each in pair} | {_FOLDER, "encoder.layers."}
    return any(all(_block(f"{start}{n}", leaf) in shapes for leaf in (0, 2, 4)) for start in starts for n in (1, 2, 3))


def has_decoder(shapes: Shapes) -> bool:
    """Whether a tiny VAE's file has its decoder."""
    return any(f"{start}1.weight" in shapes for _, start in _SINGLE) or f"{_FOLDER}0.weight" in shapes


def _block(place: str, leaf: int) -> str:
    return f"{place}.conv.{leaf}.weight"


def component_of_tiny(file: TensorFile, own: AnyVAEConfig | None = None) -> Component:
    """The tiny VAE of a file, with or without an encoder, to replace a model's `own` VAE. Its keys are not checked.
    Raises `CheckpointError`.
    """
    shapes, beside = file.shapes, file.path.parent / "config.json"
    is_folder = any(key.startswith(_FOLDER) for key in shapes)
    pair = ("encoder.layers.", _FOLDER)
    if not is_folder:
        pair = next((each for each in _SINGLE if f"{each[1]}1.weight" in shapes), ("", ""))
    with naming(file.path):
        config = _infer(shapes, *pair, first=0 if is_folder else 1)
    if is_folder and os.path.isfile(beside):
        config = _with_encoder_of(read_tiny_vae(read_json(beside), str(beside)), shapes)
    if own is not None:
        _check_scale(file, own)
    layout = "folder" if is_folder else "single"
    others = frozenset(() if is_folder else {*_SCALES} & {*shapes})
    return Component(VAE, config, list(tiny_vae_rows(config, *pair)), layout, Weights([file]), others=others)


def component_of_folder(path: Path, files: list[TensorFile]) -> Component:
    """The tiny VAE of a folder as diffusers writes it. Its keys are not checked. Raises `CheckpointError`."""
    weights = Weights(files)
    config = _with_encoder_of(read_tiny_vae(read_json(path / "config.json"), str(path / "config.json")), weights)
    return Component(VAE, config, list(tiny_vae_rows(config)), "folder", weights)


def is_tiny_folder(path: Path) -> bool:
    """Whether the config.json of a folder is that of a tiny VAE."""
    return read_json(path / "config.json").get("_class_name") == TINY_CLASS


def _with_encoder_of(config: TinyVAEConfig, shapes: Shapes) -> TinyVAEConfig:
    """The config of a file that may have lost its encoder."""
    has_encoder = any(key.startswith("encoder.") for key in shapes)
    return config if has_encoder else replace(config, encoder_blocks=None)


def tiny_vae_rows(config: TinyVAEConfig, encoder: str = "", decoder: str = "") -> Iterator[Row]:
    """The parameters of a tiny VAE; `encoder` and `decoder` stand in front of the keys of a single file, whose decoder
    counts the bend of the latents as its first layer.
    """
    yield from _rows("decoder.conv_in", decoder, 1, _FOLDER, 0)
    n = 2  # behind the first ReLU; folder names
    for i, blocks in enumerate(config.decoder_blocks):
        is_last = i + 1 == len(config.decoder_blocks)
        level = f"decoder.levels.{i}"
        for j in range(blocks):
            for ours, theirs in _CONVS:
                yield from _rows(f"{level}.blocks.{j}.{ours}", decoder, n + 1, _FOLDER, n, f".{theirs}")
            n += 1
        n += 0 if is_last else 1  # the enlargement
        yield from _rows(f"{level}.conv", decoder, n + 1, _FOLDER, n, leaves=WEIGHT_BIAS if is_last else ("weight",))
        n += 1
    n = 0
    for i, blocks in enumerate(config.encoder_blocks or ()):
        level, leaves = f"encoder.levels.{i}", WEIGHT_BIAS if i == 0 else ("weight",)
        yield from _rows(f"{level}.conv", encoder, n, "encoder.layers.", n, leaves=leaves)
        n += 1
        for j in range(blocks):
            for ours, theirs in _CONVS:
                yield from _rows(f"{level}.blocks.{j}.{ours}", encoder, n, "encoder.layers.", n, f".{theirs}")
            n += 1
    if config.has_encoder:
        yield from _rows("encoder.conv_out", encoder, n, "encoder.layers.", n)


def _rows(
    ours: str, single: str, n: int, folder: str, m: int, ending: str = "", leaves: tuple[str, ...] = WEIGHT_BIAS
) -> Iterator[Row]:
    for leaf in leaves:
        yield Row(f"{ours}.{leaf}", f"{single}{n}{ending}.{leaf}", f"{folder}{m}{ending}.{leaf}")


def _infer(shapes: Shapes, encoder: str, decoder: str, first: int) -> TinyVAEConfig:
    """The config from the shapes. `first` is the place of the decoder's first convolution."""
    start = f"{decoder}{first}.weight"
    if start not in shapes:
        raise CheckpointError(
            "it has the encoder of a tiny VAE alone, which decodes nothing; give the decoder, or the folder of both"
        )
    if len(shapes[start]) != 4:
        raise CheckpointError(f"{start} has shape {list(shapes[start])}; expected a convolution, download it again")
    width, latent = shapes[start][:2]
    levels, n = [], first + 2
    while True:
        blocks = _count(shapes, decoder, n)
        levels.append(blocks)
        n += blocks
        if f"{decoder}{n + 1}.weight" not in shapes:  # without an enlargement it is the last level
            break
        n += 2
    encoder_blocks = None
    if encoder != decoder and any(key.startswith(encoder) for key in shapes):
        encoder_blocks, n = [], 0
        while blocks := _count(shapes, encoder, n + 1):
            encoder_blocks.append(blocks)
            n += blocks + 1
    return TinyVAEConfig(
        latent_channels=latent,
        width=width,
        encoder_blocks=None if encoder_blocks is None else tuple(encoder_blocks),
        decoder_blocks=tuple(levels),
    )


def _count(shapes: Shapes, start: str, n: int) -> int:
    """How many blocks follow each other from a place on."""
    return next(number for number in count() if _block(f"{start}{n + number}", 0) not in shapes)


def is_named_otherwise(path: Path) -> bool:
    """Whether a file or folder has the name of TAESD for Stable Diffusion 1 and 2, whose tensors have the same shapes:
    nothing but the name tells.
    """
    stem = path.stem if path.suffix == ".safetensors" else path.name
    own = path.parent.name if stem.split(".")[0] in _GENERAL else stem
    return bool(_OTHER.search(own) or _OTHER.search(cached_model(path)))


def check_name(path: Path) -> None:
    """Raise `CheckpointError` for the name of TAESD."""
    if is_named_otherwise(path):
        raise CheckpointError(
            f"{path} is named TAESD, which decodes the latents of Stable Diffusion 1 and 2; expected TAESDXL. Try "
            "madebyollin/taesdxl, or another name if it is that"
        )


def _check_scale(file: TensorFile, own: AnyVAEConfig) -> None:
    """Some tools write the scale of the latents into the file, which then tells whose they are."""
    if "vae_scale" not in file.shapes or math.prod(file.shapes["vae_scale"]) != 1 or not isinstance(own, VAEConfig):
        return
    stated = float(file.read("vae_scale").double())
    if not math.isclose(stated, own.scaling_factor, rel_tol=0.01):
        raise CheckpointError(
            f"{file.path} is a tiny VAE for latents of the scale {stated:.5g}; expected {own.scaling_factor:.5g}, the "
            "model's. Try TAESDXL, and not TAESD, which is for Stable Diffusion 1 and 2"
        )


def fitted(config: TinyVAEConfig, own: AnyVAEConfig) -> TinyVAEConfig:
    """The config of a tiny VAE in the place of a model's own VAE: it gets the colours of the latents, and their mean
    and standard deviation, which a tiny VAE knows nothing of. Raises `ConfigError` where it decodes other latents.
    """
    if config.latent_channels != own.latent_channels:
        raise ConfigError(
            f"the tiny VAE decodes latents of {config.latent_channels} channels, and the model's have "
            f"{own.latent_channels}; give one for this model"
        )
    if config.factor != own.factor:
        raise ConfigError(
            f"the tiny VAE makes {config.factor} pixels of a latent and the model's VAE {own.factor}; give one for "
            "this model"
        )
    config = replace(config, latent_rgb=own.preview)
    if own.latents_std is None and own.latents_mean is None:
        return config
    mean, std = own.latents_mean or (0.0,) * own.latent_channels, own.latents_std or (1.0,) * own.latent_channels
    return replace(
        config,
        scaling_factor=own.scaling_factor,
        latents_mean=tuple(each * SCALING_FACTOR for each in mean),
        latents_std=tuple(each * SCALING_FACTOR for each in std),
    )
