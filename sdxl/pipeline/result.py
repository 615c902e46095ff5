"""What a pipeline gives: the state after each step, and the finished images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..images.pixels import to_pil
from ..models.config import VAEConfig

if TYPE_CHECKING:
    from PIL.Image import Image

Output = Literal["pil", "tensor", "latent"]


@dataclass(frozen=True)
class Result:
    """`images` as asked for: PIL images, a tensor (B, 3, H, W) in 0..1, or latents (B, 4, H/8, W/8).

    `seeds[i]` and `parameters[i]` belong to image i: all that is needed to make it again.
    """

    images: list[Image] | Tensor
    seeds: list[int]
    parameters: list[dict[str, Any]]


def _no_pipeline(latents: Tensor, output: Output) -> Result:
    raise ArgumentError("this step belongs to no pipeline, so it has no result; take it from Pipeline.steps")


@dataclass(frozen=True)
class PipelineStep:
    """The state after step `index` of `total`: `latents` at noise level `sigma`, and the guess of the clean ones.

    Both are (B, 4, H/8, W/8), float32; after the last step `latents` are the finished ones. The next steps start from
    `latents`, so a change of them in place changes what follows.
    """

    index: int
    total: int
    sigma: float
    latents: Tensor
    denoised: Tensor
    finish: Callable[[Tensor, Output], Result] = field(default=_no_pipeline, repr=False, compare=False)
    vae: VAEConfig | None = field(default=None, repr=False, compare=False)

    @property
    def is_last(self) -> bool:
        """Whether the images are finished."""
        return self.index + 1 >= self.total

    def result(self, output: Output = "pil") -> Result:
        """The images of this step, decoded, with the parts that a mask keeps pasted back: after the last step the
        call's result, before it the present guess.
        """
        return self.finish(self.latents if self.is_last else self.denoised, output)

    def preview(self) -> list[Image]:
        """The present guess as PIL images of the size of the latents, one product of matrices each, without the VAE.
        An empty list for a VAE whose latents have no known colours.
        """
        colours = None if self.vae is None else self.vae.preview
        if colours is None:
            return []
        z = self.denoised.float().cpu()
        matrix, bias = torch.tensor(colours[:-1]), torch.tensor(colours[-1])
        pixels = torch.einsum("bchw,cr->brhw", z, matrix) + bias[:, None, None]
        return to_pil((pixels / 2 + 0.5).clamp(0, 1))
