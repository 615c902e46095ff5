"""Optimizers, learning rate and averaged weights for SDXL's networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..errors import ArgumentError


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon), for the weights
    of linear layers and convolutions, seen as matrices (out, rest). torch.optim.Muon takes no convolutions.

    The update is scaled like Adam's (Liu et al. 2025, arXiv 2502.16982): both take the same learning rate. Raises
    `ArgumentError` for a parameter of one dimension.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        shapes = [list(each.shape) for group in self.param_groups for each in group["params"]]
        if short := next((shape for shape in shapes if len(shape) < 2), None):
            raise ArgumentError(f"a parameter has the shape {short}; expected matrices. Try make_optimizers, or AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters from their gradients; matrices of one shape together. Returns what a `closure` returns,
        which computes the loss and the gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:  # CLIP-L's last layer has none: SDXL does not read it
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                updates = orthogonalize(torch.stack([self._nesterov(each, group["momentum"]) for each in parameters]))
                scale = -0.2 * max(updates.shape[1:]) ** 0.5 * group["lr"]
                torch._foreach_add_(parameters, [update.reshape(shape) for update in updates], alpha=scale)
        return loss

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        """The gradient with Nesterov momentum, as a matrix."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum).flatten(1)


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U V^T of each singular value decomposition U S V^T: five Newton-Schulz steps of fifth order.

    matrices (N, rows, columns). A step multiplies X by a polynomial of X X^T. All steps run on this small square
    matrix, and X is multiplied once.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    identity = torch.eye(gram.shape[1], device=x.device, dtype=x.dtype).expand_as(gram)
    product = identity
    for _ in range(5):
        step = 3.4445 * identity + torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        product, gram = step @ product, step @ gram @ step
    x = product @ x
    return x if wide else x.mT


def make_optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network, AdamW for embeddings, biases, norms, and the first and last layer."""
    ends = ("conv_in.", "conv_out.", "token_embed.", "position_embed.")
    inner: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_inner = parameter.ndim > 1 and not any(end in name for end in ends)
        (inner if is_inner else rest).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if inner:
        optimizers.append(Muon(inner, rate))
    if rest:
        optimizers.append(torch.optim.AdamW(rest, rate, betas=(0.9, 0.99), weight_decay=0.0))
    return optimizers


def cosine_rate(step: int, steps: int, warmup: int) -> float:
    """The learning rate of a step as a fraction of the highest: a linear start, if there is a `warmup`, then a half
    cosine down to zero, where it stays.
    """
    return min(1.0, (step + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """Move the exponential moving average of the weights; it follows faster in the first steps. `average` should be
    float32, whatever the weights are: in halves a high `decay` moves nothing. Whole numbers are copied.
    """
    decay = min(decay, (1 + step) / (10 + step))
    state = model.state_dict()
    moving = [name for name in average if average[name].is_floating_point()]
    for name in average.keys() - moving:
        average[name].copy_(state[name])
    torch._foreach_lerp_(
        [average[name] for name in moving], [state[name].to(average[name]) for name in moving], 1 - decay
    )
