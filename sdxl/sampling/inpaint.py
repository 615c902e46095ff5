"""Inpainting: what a 4-channel model keeps of the image, and the 5 channels more that a 9-channel model sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from .denoiser import Network
from .sampler import Denoiser, PairDenoiser


class Region(Protocol):
    """The known part of an image in each call of a denoiser."""

    def input(self, x: Tensor, sigma: float) -> Tensor:
        """x with the known part as the image has it at that noise level."""
        ...

    def output(self, denoised: Tensor, sigma: float) -> Tensor:
        """A guess with the known part of the image."""
        ...

    def result(self, x: Tensor, sigma: float) -> Tensor:
        """The last x, at the last sigma, with the known part of the image."""
        ...


@dataclass(frozen=True)
class InpaintRegion:
    """What inpainting with a 4-channel model keeps: the image's latents `z` and the start `noise`, (B, 4, h, w).

    `mask` (B, 1, h, w) is 0 where the image stays and 1 where it is repainted; values between are repainted in the
    last mask * n of the n steps of `sigmas`, as if that were its strength (differential diffusion, Levin & Fried 2023,
    arXiv 2306.00950). `from_noise`: the first x is noise alone.
    """

    z: Tensor
    noise: Tensor
    mask: Tensor
    sigmas: Sequence[float]
    from_noise: bool

    def repaint_mask(self, sigma: float) -> Tensor:
        """Where x is repainted in the step from `sigma`; at the last sigma, where it was in the last step."""
        steps = len(self.sigmas) - 1
        begun = sum(each > sigma for each in self.sigmas)  # steps, without the one from `sigma`
        left = max(steps - (begun if sigma in self.sigmas else max(begun - 1, 0)), 1)
        return self.mask * steps >= left - 1e-4  # as int(steps * strength) counts

    def start(self, scale: float) -> Tensor:
        """The first x. Where a mask is grey the image must be in it, to be there when its steps begin."""
        noised = self.z + self.noise * self.sigmas[0]
        if not self.from_noise:
            return noised
        joins_later = self.repaint_mask(self.sigmas[-1]) & (self.mask < 1)
        return torch.where(joins_later, noised, self.noise * scale)

    def input(self, x: Tensor, sigma: float) -> Tensor:
        """x with the known part as the image has it at that noise level."""
        if self.from_noise and sigma == self.sigmas[0]:
            return x
        return torch.where(self.repaint_mask(sigma), x, self.z + self.noise * sigma)

    def output(self, denoised: Tensor, sigma: float) -> Tensor:
        """A guess, or the result, with the known part of the image."""
        return torch.where(self.repaint_mask(sigma), denoised, self.z)

    def result(self, x: Tensor, sigma: float) -> Tensor:
        """The last x, at the last sigma, with the known part of the image."""
        return self.output(x, sigma)


@dataclass(frozen=True)
class BlendRegion:
    """What other tools keep: the image's latents `z` and the `noise` of its known part, (B, 4, h, w), blended linearly
    by `mask` (B, 1, h, w), 1 where it is repainted: in the denoiser's output, and if it `replaces_input` in its input.
    With a `threshold` for each sigma, greys from it on are white and others black.
    """

    z: Tensor
    noise: Tensor
    mask: Tensor
    replaces_input: bool
    threshold: Callable[[float], float] | None = None

    def _at(self, sigma: float) -> Tensor:
        return self.mask if self.threshold is None else (self.mask >= self.threshold(sigma)).to(self.mask)

    def input(self, x: Tensor, sigma: float) -> Tensor:
        """x with the known part as the image has it at that noise level."""
        mask = self._at(sigma)
        return x * mask + (self.z + self.noise * sigma) * (1 - mask) if self.replaces_input else x

    def output(self, denoised: Tensor, sigma: float) -> Tensor:
        """A guess with the known part of the image."""
        mask = self._at(sigma)
        return denoised * mask + self.z * (1 - mask)

    def result(self, x: Tensor, sigma: float) -> Tensor:
        """The last x: already blended, if the input was; else blended now."""
        return x if self.replaces_input else self.output(x, sigma)


@dataclass(frozen=True)
class BlendedDenoiser:
    """A denoiser that sees and gives the known part of a region as it is."""

    denoise: Denoiser
    region: Region

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.region.output(self.denoise(self.region.input(x, sigma), sigma), sigma)

    def pair(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Both guesses of a `PairDenoiser`."""
        denoise = cast(PairDenoiser, self.denoise)
        guess, negative = denoise.pair(self.region.input(x, sigma), sigma)
        return self.region.output(guess, sigma), self.region.output(negative, sigma)


def blend_known(denoise: Denoiser, region: Region) -> BlendedDenoiser:
    """A denoiser that sees and gives the known part as it is.

    Replacing both equals diffusers' blend after every step, for every eta; the output alone would do so only at eta 0.
    """
    return BlendedDenoiser(denoise, region)


def with_channels(network: Network, channels: Tensor) -> Network:
    """The 9-channel inpainting UNet as a network of 4 channels: mask and masked latents (B, 5, h, w) stand behind x."""

    def concatenated(x: Tensor, t: float) -> Tensor:
        copies = len(x) // len(channels)  # one for each guidance branch
        return network(torch.cat([x, channels.to(x.dtype).repeat(copies, 1, 1, 1)], dim=1), t)

    return concatenated
