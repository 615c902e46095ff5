"""From a network to a denoiser: input scaling, prediction type, classifier-free guidance, and what inpainting keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .samplers import Denoiser
from .schedule import Schedule
from .unet import Text, UNet


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told beside the timestep: context (B, 77, D) and vector (B, V).

    `silent` says that the context is zeros.
    """

    context: Tensor
    vector: Tensor
    silent: bool = False

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        return replace(self, context=self.context.to(device, dtype), vector=self.vector.to(device, dtype))


class Network(Protocol):
    """A UNet that knows its conditioning: x (B, C, H, W) and the timestep in, the raw output (B, 4, H, W) out."""

    def __call__(self, x: Tensor, t: float) -> Tensor: ...


@dataclass(frozen=True)
class Told:
    """A UNet with all that it computes from its conditioning alone, done once for all steps."""

    unet: UNet
    vector: Tensor  # (B, V), as in `Conditioning`
    embs: dict[float, Tensor]  # (B, emb_dim) of each timestep
    text: Text

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return self.unet.denoise(x, self.emb(t), self.text)

    def emb(self, t: float) -> Tensor:
        """The embedding of a timestep (B, emb_dim), made now if a sampler asks for one that is not in the schedule."""
        if t not in self.embs:
            times = torch.full((len(self.vector),), t, dtype=torch.float32, device=self.vector.device)
            self.embs[t] = self.unet.embed(times, self.vector)
        return self.embs[t]

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows a batch has, and how many of them were told a text."""
        return len(self.vector), next((len(k) for place in self.text for k, _ in place), 0)

    def last(self, count: int) -> Told:
        """The same for the last `count` rows alone."""
        embs = {t: emb[-count:] for t, emb in self.embs.items()}
        return replace(
            self,
            vector=self.vector[-count:],
            embs=embs,
            text=[[(k[-count:], v[-count:]) for k, v in place] for place in self.text],
        )


def tell(unet: UNet, conditionings: Sequence[Conditioning], timesteps: Sequence[float]) -> Told:
    """Tell a UNet the conditionings of the parts of its batch, in order; those with no text come first."""
    heard = [each.context for each in conditionings if not each.silent] or [conditionings[-1].context]
    vector = torch.cat([each.vector for each in conditionings])
    times = torch.tensor(timesteps, dtype=torch.float32, device=vector.device).repeat_interleave(len(vector))
    embs = torch.split(unet.embed(times, vector.repeat(len(timesteps), 1)), len(vector))
    return Told(unet, vector, dict(zip(timesteps, embs, strict=True)), unet.read(torch.cat(heard)))


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598). At a `scale` of at most 1 there is none.

    Outside of `interval`, from the lowest sigma to the highest, there is none either (Kynkaanniemi et al. 2024, arXiv
    2404.07724).
    """

    scale: float = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, math.inf)

    def active(self, sigma: float) -> bool:
        """Whether it acts at that noise level."""
        return self.scale > 1 and self.interval[0] <= sigma <= self.interval[1]

    def combine(self, negative: Tensor, positive: Tensor) -> Tensor:
        """Combine the network's raw outputs, (B, C, H, W) each.

        `rescale` is phi of Lin et al. 2023 (arXiv 2305.08891, equations 15 and 16).
        """
        guided = negative + self.scale * (positive - negative)
        if not self.rescale:
            return guided
        axes = tuple(range(1, guided.ndim))
        ratio = positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
        return guided * (self.rescale * ratio + 1 - self.rescale)


def make_denoiser(
    network: Network, pair: Network, schedule: Schedule, prediction: str, guidance: Guidance, dtype: torch.dtype
) -> Denoiser:
    """A `Denoiser` over float32 x. The network runs in `dtype`, everything else in float32.

    `network` is told the positive conditioning; `pair` the negative and the positive one, of a batch of twice the rows.
    """

    def denoise(x: Tensor, sigma: float) -> Tensor:
        scale = 1 / math.sqrt(sigma**2 + 1)
        scaled, t = (x * scale).to(dtype), schedule.timestep(sigma)
        if guidance.active(sigma):
            output = guidance.combine(*pair(torch.cat([scaled, scaled]), t).to(x.dtype).chunk(2))
        else:
            output = network(scaled, t).to(x.dtype)
        if prediction == "v_prediction":  # Salimans & Ho 2022, arXiv 2202.00512, appendix D, in sigma space
            return x * scale**2 - output * (sigma * scale)
        return x - output * sigma

    return denoise


def with_channels(network: Network, channels: Tensor) -> Network:
    """The 9-channel inpainting UNet as a network of 4 channels: mask and masked latents (B, 5, h, w) stand behind x."""

    def concatenated(x: Tensor, t: float) -> Tensor:
        copies = len(x) // len(channels)  # guidance has doubled the batch
        return network(torch.cat([x, channels.to(x.dtype).repeat(copies, 1, 1, 1)], dim=1), t)

    return concatenated


@dataclass(frozen=True)
class Known:
    """What inpainting with a 4-channel model keeps: the picture's latents `z` and the start `noise`, (B, 4, h, w).

    `mask` (B, 1, h, w) is 0 where the picture stays and 1 where it is repainted; what is between is repainted in the
    last mask * n of the n steps of `sigmas`, as if that were its strength (differential diffusion, Levin & Fried 2023,
    arXiv 2306.00950). `from_noise`: the work starts from noise alone.
    """

    z: Tensor
    noise: Tensor
    mask: Tensor
    sigmas: Sequence[float]
    from_noise: bool

    def free(self, sigma: float) -> Tensor:
        """Where x is repainted in the step from `sigma`; at the last sigma, where it was in the last step."""
        steps = len(self.sigmas) - 1
        begun = sum(each > sigma for each in self.sigmas)  # steps, without the one from `sigma`
        left = max(steps - (begun if sigma in self.sigmas else max(begun - 1, 0)), 1)
        return self.mask * steps >= left - 1e-4  # as int(steps * strength) counts

    def start(self, scale: float) -> Tensor:
        """The first x. Where a mask is grey the picture must be in it, to be there when its steps begin."""
        noised = self.z + self.noise * self.sigmas[0]
        if not self.from_noise:
            return noised
        return torch.where((self.mask > 0) & (self.mask < 1), noised, self.noise * scale)

    def input(self, x: Tensor, sigma: float) -> Tensor:
        """x with the known part as the picture has it at that noise level."""
        if self.from_noise and sigma == self.sigmas[0]:
            return x
        return torch.where(self.free(sigma), x, self.z + self.noise * sigma)

    def output(self, denoised: Tensor, sigma: float) -> Tensor:
        """A guess, or the result, with the known part of the picture."""
        return torch.where(self.free(sigma), denoised, self.z)


def keep_known(denoise: Denoiser, known: Known) -> Denoiser:
    """A denoiser that sees and gives the known part as it is.

    Replacing both equals diffusers' blend after every step, for every eta; the output alone would do so only at eta 0.
    """

    def kept(x: Tensor, sigma: float) -> Tensor:
        return known.output(denoise(known.input(x, sigma), sigma), sigma)

    return kept
