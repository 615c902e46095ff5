"""Layers for CUDA that compute the same with other kernels of torch. A compiler makes its own: it gets the plain ones.

Group norm: torch's has one block of threads for each group of an image, 32 for a decoder's map of 1024 x 1024, on a GPU
that runs hundreds. Here each channel has its own, and large ones several, by the kernels that torch has for batch norm.
Feed-forward: halves of one product lie side by side in memory, and torch goes over such numbers by slower kernels than
over numbers in a row; so it is two products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.layers import Linear
from ..models.unet import GEGLU

PARTS = 16  # of a large channel
LARGE = 1 << 16  # pixels
MOST = 2**31 - 1  # numbers of an image that the kernels for channels that lie side by side count: they do in 32 bits


def quick(name: str, layer: nn.Module) -> nn.Module | None:
    """The layer in place of a plain one, with its weights; None for another. A rule for `rewrite`."""
    if type(layer) is nn.GroupNorm and layer.affine:
        return QuickGroupNorm(layer)
    return QuickGEGLU(layer) if type(layer) is GEGLU else None


class QuickGroupNorm(nn.GroupNorm):
    """The same layer with the same weights. Gradients, other devices and compilers get torch's."""

    def __init__(self, plain: nn.GroupNorm) -> None:
        nn.Module.__init__(self)
        self.num_groups, self.num_channels = plain.num_groups, plain.num_channels
        self.eps, self.affine = plain.eps, True
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        if not _can(x):
            return super().forward(x)
        is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if is_last and x[0].numel() <= MOST:
            return self._of_pixels(x)
        count, pixels = len(x), x[0, 0].numel()
        channels = x.contiguous().view(1, count * self.num_channels, pixels)
        parts = PARTS if pixels >= LARGE and pixels % PARTS == 0 else 1
        mean, rstd = torch.batch_norm_stats(channels.view(1, -1, pixels // parts), self.eps)
        mean, rstd = (each.flatten() for each in self._of_channels(mean, rstd, count))
        weight, bias = (each.repeat(count) for each in (self.weight, self.bias))
        return torch.batch_norm_elemt(channels, weight, bias, mean, rstd, self.eps).view(x.shape)

    def _of_pixels(self, x: Tensor) -> Tensor:
        """For an x whose channels lie side by side: one image after the other."""
        found = [torch.batch_norm_stats(image, self.eps) for image in x.split(1)]
        mean, rstd = (torch.stack(each) for each in zip(*found, strict=True))
        means, rstds = self._of_channels(mean, rstd, len(x))
        y = torch.empty_like(x)
        for image, out, mean, rstd in zip(x.split(1), y.split(1), means, rstds, strict=True):
            torch.batch_norm_elemt(image, self.weight, self.bias, mean, rstd, self.eps, out=out)
        return y

    def _of_channels(self, mean: Tensor, rstd: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Those of each channel's group, (B, C), from those of all channels or parts of them."""
        found = of_groups(*(each.view(count, self.num_groups, -1) for each in (mean, rstd)))
        of_each = count, self.num_groups, self.num_channels // self.num_groups
        mean, rstd = (each.expand(of_each).reshape(count, -1) for each in found)
        return mean, rstd


def of_groups(mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """The means and 1 / sqrt(variance + eps) of groups, (B, G, 1), from those of their parts of one size, (B, G, n)."""
    spread, whole = torch.var_mean(mean, dim=2, correction=0, keepdim=True)
    return whole, torch.rsqrt(rstd.pow(-2).mean(2, keepdim=True) + spread)


class QuickGEGLU(GEGLU):
    """The same layer with the same weights, as two products; plain where another layer or a hook is in their place."""

    def __init__(self, plain: GEGLU) -> None:
        nn.Module.__init__(self)
        self.proj, self.out = plain.proj, plain.out

    def forward(self, x: Tensor) -> Tensor:
        proj: nn.Module = self.proj
        if not _can(x) or type(proj) is not Linear or proj._forward_hooks or proj._forward_pre_hooks:
            return super().forward(x)
        h, gate = (F.linear(x, *each) for each in zip(proj.weight.chunk(2), proj.bias.chunk(2), strict=True))
        return self.out(F.gelu(gate).mul_(h))


def _can(x: Tensor) -> bool:
    return x.is_cuda and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
