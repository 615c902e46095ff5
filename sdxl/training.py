"""What training SDXL adds to its networks: their start, the losses, and averaged weights.

Loops, data and optimizers belong to the recipe (`scripts/train_miniature.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clip import TextEncoder
from .unet import SpatialTransformer, UNet
from .vae import VAE


def start_unet(unet: UNet) -> None:
    """Zero the last layer of every residual branch and of the network, so that all blocks begin as the identity
    (Dhariwal & Nichol 2021, arXiv 2105.05233, as the official code does).
    """
    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            _zero(module.proj_out)
    for level in (*unet.down, unet.mid, *unet.up):
        for block in level.res:
            _zero(block.conv2)
    _zero(unet.conv_out)


def start_text_encoder(encoder: TextEncoder) -> None:
    """Positions begin small beside the tokens, whose embeddings have a standard deviation of 1."""
    nn.init.normal_(encoder.position_embed.weight, std=0.1)


def start_vae(vae: VAE) -> None:
    """The posterior begins narrow (log variance -6): the decoder first learns from clean latents."""
    latent = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[latent:] = 0
        assert vae.quant_conv.bias is not None
        vae.quant_conv.bias[latent:] = -6


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def autoencoder_loss(vae: VAE, x: Tensor, noise: Tensor, l1_weight: float, kl_weight: float) -> Tensor:
    """Squared and absolute error of the reconstruction and the KL divergence from the standard normal.

    x (B, 3, H, W) in -1..1, noise (B, 4, H/8, W/8). All three terms are means. (SDXL's own VAE adds a perceptual and an
    adversarial loss, which drawn pictures do not need.)
    """
    mean, logvar = vae.moments(x)
    z = mean + torch.exp(logvar / 2) * noise
    error = vae.decode(z * vae.config.scaling_factor) - x
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return error.square().mean() + l1_weight * error.abs().mean() + kl_weight * divergence


def stratified_timesteps(count: int, low: int, high: int, generator: torch.Generator) -> Tensor:
    """`count` whole timesteps of [low, high), one from each of `count` equal parts: uniform, with less variance."""
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (low + places * (high - low)).long().clamp(max=high - 1)


def offset_noise(noise: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Noise (B, C, H, W) with a random constant added to each channel, so that the model learns to set the overall
    brightness too (SDXL paper, section 2.5: 0.05).
    """
    return noise + strength * torch.randn(noise.shape[:2], generator=generator).to(noise)[:, :, None, None]


def denoising_loss(
    unet: UNet, z: Tensor, noise: Tensor, t: Tensor, sigma: Tensor, context: Tensor, vector: Tensor, gamma: float = 5.0
) -> Tensor:
    """The loss of epsilon prediction, weighted with min-SNR-gamma (Hang et al. 2023, arXiv 2303.09556).

    z and noise (B, C, H, W); t (B,) timesteps and sigma (B,) their noise levels; context (B, L, D); vector (B, V).
    """
    sigma = sigma.to(z)[:, None, None, None]
    x = (z + sigma * noise) / (sigma.square() + 1).sqrt()
    error = F.mse_loss(unet(x, t, context, vector), noise, reduction="none")
    snr = 1 / sigma.square()
    return (snr.clamp(max=gamma) / snr * error).mean()


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon), for the weights
    of linear layers and convolutions, seen as matrices (out, rest). torch.optim.Muon takes no convolutions.

    The update is scaled like one of Adam (Liu et al. 2025, arXiv 2502.16982), so that both share a learning rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters from their gradients; matrices of one shape together."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:  # CLIP-L's last layer has none, SDXL does not read it
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                updates = orthogonalize(torch.stack([self._nesterov(each, group["momentum"]) for each in parameters]))
                scale = -0.2 * max(updates.shape[1:]) ** 0.5 * group["lr"]
                torch._foreach_add_(parameters, [update.reshape(shape) for update in updates], alpha=scale)

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        """The gradient with the momentum's look ahead, as a matrix."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum).flatten(1)


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U V^T of each singular value decomposition U S V^T: five Newton-Schulz steps of fifth order.

    matrices (N, rows, columns). A step multiplies X by a polynomial of X X^T, so all of them are taken on this small
    square matrix, and X is multiplied once.
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
    return [Muon(inner, rate), torch.optim.AdamW(rest, rate, betas=(0.9, 0.99), weight_decay=0.0)]


def cosine_rate(step: int, steps: int, warmup: int) -> float:
    """The learning rate of a step as a part of the highest: a linear start, then a half cosine down to zero."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """Move the exponential moving average of the weights; it follows faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    names = list(average)
    state = model.state_dict()
    torch._foreach_lerp_([average[name] for name in names], [state[name] for name in names], 1 - decay)
