"""Writes the model of a pipeline to disk."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..errors import warn
from ..weights.keymap import UNET, VAE
from ..weights.save import save_folder, save_single
from .model import Model
from .own_networks import check_weights
from .residency import Residency


def save(residency: Residency, path: Path) -> None:
    """Write the model as a folder, or as a single file if `path` ends in .safetensors. Raises `OutputError`."""
    model = residency.model
    if len(model.experts) > 1:
        warn("the refiner is not saved; load it alone and save that too")
    loader = residency.loader
    state = _present(model) if loader is None or loader.trainable else loader.state()
    write = save_single if path.suffix == ".safetensors" else save_folder
    write(path, model.info, state)


def _present(model: Model) -> dict[str, dict[str, Tensor]]:
    """The weights of networks in memory, by component. Raises `ArgumentError` for prepacked ones, and for
    weights that a file has no place for.
    """
    expert = model.experts[0]
    encoders = dict(zip(expert.info.encoders, (stage.encoder for stage in expert.text()), strict=True))
    networks = {UNET: expert.unet(), VAE: model.vae(), **encoders}
    states = {name: each.state_dict() for name, each in networks.items()}
    for name, state in states.items():
        check_weights(name, state, expert.info.config)
    return {name: {key: value.detach().cpu() for key, value in state.items()} for name, state in states.items()}
