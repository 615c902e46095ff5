"""The networks that enlarge images between the passes of hires fix: which file one is, and the network at work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..adapters.lookup import checked_hash, find_again
from ..errors import CheckpointError
from ..images.pixels import to_pil, to_tensor
from ..images.upscalers import UPSCALERS, is_network
from ..models.esrgan import ESRGAN
from ..weights import library
from ..weights.esrgan import open_esrgan
from .extra_networks import Extra
from .finite import check_finite
from .hires import Hires, read_hires
from .model import Model
from .stages import stage

if TYPE_CHECKING:
    from .plan import Plan

_PICKLES = (".pth", ".pt")  # as which most upscalers are published
_MOST_NUMBERS = 2**25  # of the largest map that a strip makes: 128 MB in float32


@dataclass
class Upscalers:
    """Opens the networks of upscalers, each once. Names are looked for in `folders` and in the user's library."""

    folders: Sequence[Path] = ()
    _opened: dict[Path, tuple[str, Extra]] = field(default_factory=dict)  # each with its hash

    def activate(self, plan: Plan) -> Plan:
        """A plan whose hires fix has its network opened, if it has one. Raises `CheckpointError` and `HubError`."""
        if plan.request.hires is None or not is_network((hires := read_hires(plan.request.hires)).upscaler):
            return plan
        path, hires = self._find(hires)
        hash = str(hires.upscaler_hash)
        known = self._opened.get(path)
        if known is None or known[0] != hash:
            known = self._opened[path] = hash, Extra(open_esrgan(path))
        return replace(plan, request=replace(plan.request, hires=hires), upscaler=known[1])

    def located(self, hires: Hires) -> Hires:
        """The same with the path and the hash of its network. Raises `CheckpointError` and `HubError`."""
        path, hires = self._find(hires)
        return replace(hires, upscaler=str(path.absolute()))

    def _find(self, hires: Hires) -> tuple[Path, Hires]:
        """The file of a network, and hires fix with its hash."""
        places = library.places(self.folders)
        try:
            path = find_again(hires.upscaler, hires.upscaler_hash, places, "upscaler")
        except CheckpointError as error:
            if pickle := _pickle(hires.upscaler, places):
                raise _not_read(pickle) from error
            raise CheckpointError(f"{error}; without a network it is one of {', '.join(UPSCALERS)}") from error
        if path.suffix in _PICKLES:
            raise _not_read(path)
        return path, replace(hires, upscaler_hash=checked_hash(path, hires.upscaler_hash))


def _pickle(name: str, places: Iterable[Path]) -> Path | None:
    """The pickle that has the name of a network in one of the places."""
    known = {f"{name}{ending}" for ending in _PICKLES}
    found = (Path(folder, each) for place in places for folder, _, files in library.walk(place) for each in files)
    return next((path for path in found if path.name in known), None)


def _not_read(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is a pickle, which can run code when it is opened; convert it to .safetensors as docs/hires.md shows, "
        "or download it in that format"
    )


@torch.no_grad()
def upscale(image: Image.Image, size: tuple[int, int], plan: Plan, model: Model) -> Image.Image:
    """An image of at least (height, width): the network of a plan works on it as often as that takes, at least once."""
    assert plan.upscaler is not None
    lazy, is_bgr = model.extra(plan.upscaler), plan.request.conventions.upscaler_input == "bgr"
    with model.using(lazy):
        network = lazy()
        assert isinstance(network, ESRGAN)
        while True:
            with stage("enlarging", model.placement):
                pixels = _once(network, to_tensor(image)[None], is_bgr)
            check_finite(pixels, "the upscaler", model.placement)
            image = to_pil(pixels.clamp(0, 1))[0]
            if network.config.scale == 1 or (image.height >= size[0] and image.width >= size[1]):
                return image


def _once(network: ESRGAN, x: Tensor, is_bgr: bool) -> Tensor:
    """Images (B, 3, H, W) in 0..1 in any memory, enlarged, about 0..1, float32."""
    config, beside = network.config, network.conv_first.bias  # a packed layer has no weight
    assert beside is not None
    strip = max(_MOST_NUMBERS // (x.shape[3] * config.scale**2 * config.width), 1)
    y = network((x.flip(1) if is_bgr else x).to(beside.device, beside.dtype), strip).float()
    return y.flip(1) if is_bgr else y
