"""The controls of a pipeline: which files their networks are, and what each of them does in a plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..adapters.control import TYPES, Control, read_controls
from ..adapters.image_encoder import is_encoder_folder
from ..adapters.lookup import find_by_hash, find_network
from ..errors import ArgumentError, CheckpointError
from ..models.control_config import LLLiteConfig
from ..models.unet_config import UNetConfig
from ..weights.component import Component
from ..weights.control import OpenedControl, open_control, read_files
from ..weights.control_kinds import LLLITE, T2I_ADAPTER
from ..weights.hashes import model_hash
from ..weights.keymap import UNET
from ..weights.weight_files import folder_files
from .control_images import ControlImages, fit_images
from .extra_networks import Extra
from .window import OUTSIDE, Window

if TYPE_CHECKING:
    from .plan import Plan

_WHAT = "ControlNet"


@dataclass(frozen=True)
class ActiveControl:
    """A control of a plan. `opened` says what its network is. `given` are the images as they came, `images` the same at
    the size of the work, one for each image to generate.
    """

    control: Control
    opened: OpenedControl = field(repr=False)
    network: Extra = field(repr=False)
    given: ControlImages = field(repr=False)
    images: tuple[Image.Image, ...] = field(repr=False)
    window: Window

    def acts(self, step: int) -> bool:
        """Whether it acts in a step, counted from 0."""
        return self.control.scale > 0 and self.window.acts(step)

    def idle(self, steps: range) -> str | None:
        """Why it does nothing in these steps; None where it acts in one."""
        if not self.control.scale:
            return "its scale is 0"
        return None if any(map(self.acts, steps)) else OUTSIDE

    @property
    def name(self) -> str:
        """As warnings have it."""
        return f"control {self.control.net}"

    @property
    def extras(self) -> tuple[Extra, ...]:
        """The networks that it needs."""
        return () if self.control.scale == 0 or self.window.is_empty else (self.network,)

    def record(self, number: int) -> dict[str, Any]:
        """What a PNG records of it for image `number`."""
        entries = self.control.images
        own = entries[number * len(entries) // len(self.images)]
        return replace(self.control, image=own, image_hash=self.given.hash(number)).record()


class Controls:
    """Opens the networks of controls, each once, for a model with this UNet; `base` has its weights. Names are looked
    for in `folders`. Of a network's folder the files of a `variant` are taken.
    """

    def __init__(
        self, unet: UNetConfig, base: Component | None = None, folders: Sequence[Path] = (), variant: str | None = None
    ) -> None:
        self._unet, self._base, self._folders, self._variant = unet, base, folders, variant
        self._opened: dict[Path, tuple[str, OpenedControl, Extra]] = {}  # each with its hash

    def activate(self, plan: Plan) -> tuple[ActiveControl, ...]:
        """The controls of a plan. Raises `CheckpointError`, `HubError` and `ArgumentError`."""
        controls = read_controls(plan.request.control or ())
        return tuple(self._activate(each, own, plan) for each, own in zip(controls, plan.sources.controls, strict=True))

    def _activate(self, control: Control, given: ControlImages, plan: Plan) -> ActiveControl:
        control, opened, network = self._open(control)
        _check_type(control, opened)
        _check_size(control, opened, plan.size)
        window = Window(control.start, control.end, plan.steps)
        return ActiveControl(control, opened, network, given, fit_images(control, given, plan), window)

    def _open(self, control: Control) -> tuple[Control, OpenedControl, Extra]:
        """A control with the hash of its network, which is opened."""
        path = self._find(control)
        folder, names = folder_files(path, self._variant, UNET)
        if is_encoder_folder(path):
            raise CheckpointError(f"{path} is an image encoder; give it as encoder= of a reference, or a ControlNet")
        if not names and os.path.isdir(path):
            read_files(path, self._variant)  # says what is wrong with it
        hash = model_hash(folder, names)
        if control.hash is not None and not hash.startswith(control.hash.lower()):
            raise CheckpointError(
                f"{path} is not the network that is asked for: its hash begins with {hash[:12]}, expected "
                f"{control.hash[:12]}; give the right file, or leave the hash out"
            )
        known = self._opened.get(path)
        if known is None or known[0] != hash:
            opened = open_control(path, self._unet, self._variant, self._base)
            known = self._opened[path] = hash, opened, Extra(opened.component, opened.changes)
        return replace(control, hash=hash), *known[1:]

    def _find(self, control: Control) -> Path:
        """The file or folder of a network; where it is gone, a file with its hash."""
        try:
            return find_network(control.net, self._folders, _WHAT, self._variant)
        except CheckpointError:
            found = None if control.hash is None else find_by_hash(control.hash, self._folders)
            if found is None:
                raise
            return found


def _check_type(control: Control, opened: OpenedControl) -> None:
    """Raise `ArgumentError` unless the control has a type that its network has, and nothing that it has not."""
    if opened.kind in (T2I_ADAPTER, LLLITE) and control.guess:
        raise ArgumentError(f"control {control.net} is a {opened.kind}, which has no guess mode; leave guess out")
    if not opened.types:
        if control.type is not None:
            raise ArgumentError(
                f"control {control.net} is a {opened.kind}, which has no types; leave type {control.type} out"
            )
        return
    names = ", ".join(name for name, number in TYPES.items() if number < opened.types)
    if control.number is None:
        raise ArgumentError(
            f"control {control.net} is a union of {opened.types} types; give the type of its image: {names}"
        )
    if control.number >= opened.types:
        raise ArgumentError(
            f"the type of control {control.net} is {control.type}, number {control.number}, and the union has "
            f"{opened.types} types; expected {names}"
        )


def _check_size(control: Control, opened: OpenedControl, size: tuple[int, int]) -> None:
    """Raise `ArgumentError` unless a ControlNet-LLLite has a token for each of the UNet's."""
    config = opened.component.config
    if not isinstance(config, LLLiteConfig) or not any(side % config.factor for side in size):
        return
    height, width = (max(round(side / config.factor), 1) * config.factor for side in size)
    raise ArgumentError(
        f"control {control.net} is a {opened.kind}, and the size is {size[1]} x {size[0]}; expected multiples of "
        f"{config.factor}. Try {width} x {height}"
    )
