"""Controls at work: what they add to a UNet, step by step. Each control image is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch
from PIL import Image
from torch import Tensor

from ..images.pixels import to_tensor
from ..models.conditioned import ConditionedUNet, Conditioning, Steer, precompute, with_shifts
from ..models.controlnet import ControlNet
from ..models.lllite import LLLite
from ..models.t2i_adapter import T2IAdapter, as_residuals
from ..models.unet import NO_RESIDUALS, Residuals, total
from ..weights.control_kinds import LLLITE, T2I_ADAPTER
from .controls import ActiveControl
from .finite import check_finite
from .model import Model
from .plan import Plan
from .stages import stage
from .window import step_at

T = TypeVar("T")


@dataclass(frozen=True)
class Steering:
    """The controls of a plan, by their numbers, for the UNet of its first expert. ControlNets see the same
    `conditionings` as the UNet.
    """

    plan: Plan
    model: Model
    conditionings: Mapping[str, Conditioning]
    _made: dict[tuple[object, ...], object] = field(default_factory=dict)

    def active(self, sigma: float) -> tuple[int, ...]:
        """The controls that act in the step that is under way at a noise level."""
        if not self.plan.controls:
            return ()
        step = step_at(sigma, self.plan.sigmas)
        return tuple(number for number, each in enumerate(self.plan.controls) if each.acts(step))

    def steered(self, conditioned: ConditionedUNet, active: Sequence[int]) -> ConditionedUNet:
        """The same UNet under some of the controls."""
        if not active:
            return conditioned
        steers, features = [], []
        for group in self._groups(active):
            kind = self.plan.controls[group[0]].opened.kind
            if kind == LLLITE:
                conditioned = self._shifted(conditioned, group[0])
            elif kind == T2I_ADAPTER:
                features.append(self._features(group[0], len(conditioned.branches)))
            elif any(acts := self._acts(group[0], conditioned.branches)):
                steers.append(self._steer(group, conditioned.branches, acts))
        return replace(conditioned, steers=tuple(steers), added=total(features) if features else NO_RESIDUALS)

    def _groups(self, active: Sequence[int]) -> list[list[int]]:
        """The controls of each call of a network: a union sees several at once."""
        groups: dict[object, list[int]] = {}
        for number in active:
            each = self.plan.controls[number]
            key = (each.network, each.control.guess) if each.opened.types else number
            groups.setdefault(key, []).append(number)
        return list(groups.values())

    def _acts(self, number: int, branches: Sequence[str]) -> tuple[bool, ...]:
        """On which branches a ControlNet acts: in guess mode not on the negative ones."""
        guess, negatives = self.plan.controls[number].control.guess, self.plan.branches.negatives
        return tuple(not (guess and branch in negatives) for branch in branches)

    def _steer(self, group: Sequence[int], branches: Sequence[str], acts: tuple[bool, ...]) -> Steer:
        controls = [self.plan.controls[number] for number in group]
        net = self._net(controls[0])
        assert isinstance(net, ControlNet)
        scale = max(each.control.scale for each in controls)
        hints = [self._hint(number, net, self.plan.controls[number].control.scale / scale) for number in group]
        types = tuple(cast(int, each.control.number) for each in controls) if net.union is not None else ()
        acting = tuple(branch for branch, does in zip(branches, acts, strict=True) if does)
        return Steer(
            net,
            self._conditioned(controls[0], net, types).select(acting),
            _of_branches(sum(hints[1:], hints[0]), len(acting)),
            factors(scale, len(net.zero), controls[0].control.guess),
            acts,
        )

    def _conditioned(self, control: ActiveControl, net: ControlNet, types: tuple[int, ...]) -> ConditionedUNet:
        """A ControlNet for all branches and steps, that sees these types at once."""

        def make() -> ConditionedUNet:
            own = self.conditionings
            if types:
                own = {n: replace(each, vector=net.with_types(each.vector, types)) for n, each in own.items()}
            return precompute(net, own, self.plan.schedule.timesteps)

        return self._once(("conditioned", control.network, types), make)

    def _hint(self, number: int, net: ControlNet, weight: float) -> Tensor:
        """What a ControlNet sees of the images of a control, (1 or B, C, h, w)."""
        control = self.plan.controls[number]

        def make() -> Tensor:
            with stage("control", self.model.placement, str(control.control.net)):
                rows = self._of_images(control, lambda x: [net.encode(x, control.control.number, weight)])[0]
            check_finite(rows, f"the encoder of control {control.control.net}", self.model.placement)
            return rows

        return self._once(("hint", number, weight), make)

    def _features(self, number: int, branches: int) -> Residuals:
        """What a T2I-Adapter adds, for the rows of so many branches."""
        control = self.plan.controls[number]

        def make() -> list[Tensor]:
            with stage("control", self.model.placement, str(control.control.net)):
                net = self._net(control)
                assert isinstance(net, T2IAdapter)
                features = self._of_images(control, net, net.config.image_channels)
            self.model.release(self.model.extra(control.network))
            for each in features:
                check_finite(each, f"control {control.control.net}", self.model.placement)
            return [each * control.control.scale for each in features]

        features = [_of_branches(each, branches) for each in self._once(("features", number), make)]
        return as_residuals(features, self.model.info.config.unet)

    def _shifted(self, conditioned: ConditionedUNet, number: int) -> ConditionedUNet:
        """A UNet with the changes of a ControlNet-LLLite, each of which sees those of the ones before."""
        control = self.plan.controls[number]
        net = self._net(control)
        assert isinstance(net, LLLite)

        def make() -> list[Tensor]:
            with stage("control", self.model.placement, str(control.control.net)):
                features = self._of_images(control, net)
            check_finite(torch.cat([each.flatten() for each in features]), control.name, self.model.placement)
            return features

        shifts = net.shifts(self._once(("shifts", number), make), control.control.scale)
        return with_shifts(conditioned, net, shifts)

    def _net(self, control: ActiveControl) -> object:
        return self.model.extra(control.network)()

    def _once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return cast(T, self._made[key])

    def _of_images(
        self, control: ActiveControl, encode: Callable[[Tensor], list[Tensor]], channels: int | None = None
    ) -> list[Tensor]:
        """The tensors that a network makes of each image, as batches: of one image if all share it. A T2I-Adapter has
        a number of `channels`.
        """
        at, shared = self.model.placement, {id(image): image for image in control.images}
        pixels = {key: _pixels(image, channels).to(at.device, at.arithmetic) for key, image in shared.items()}
        made = {key: encode(each) for key, each in pixels.items()}
        rows = list(made.values()) if len(made) == 1 else [made[id(image)] for image in control.images]
        return [torch.cat(same) for same in zip(*rows, strict=True)]


def factors(scale: float, skips: int, guess: bool) -> tuple[float, ...]:
    """The factors of a ControlNet's residuals, the last one for the middle block. In guess mode they grow from a tenth
    of the scale to the scale, in equal ratios, as in diffusers and the authors' code.
    """
    return tuple(scale * (10 ** (n / skips - 1) if guess else 1) for n in range(skips + 1))


def _pixels(image: Image.Image, channels: int | None) -> Tensor:
    """A control image as (1, C, H, W) in 0..1. T2I-Adapters of SDXL were trained on blue, green, red
    (github.com/TencentARC/T2I-Adapter/issues/134); which one shows in poses alone, whose images are not grey.
    """
    if channels == 1:
        return to_tensor(image.convert("L"))[None]
    return to_tensor(image)[None] if channels is None else to_tensor(image)[None].flip(1)


def _of_branches(rows: Tensor, branches: int) -> Tensor:
    """A tensor of one image for all, or of each image, for the rows of all branches."""
    return rows if len(rows) == 1 else rows.repeat(branches, 1, 1, 1)
