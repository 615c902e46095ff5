"""ControlNets (Zhang et al. 2023, arXiv 2302.05543): how they begin, their loss, and their file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..models.controlnet import ControlNet
from ..models.unet import UNet
from ..weights.container import save_tensors
from ..weights.control_keys import controlnet_rows
from ..weights.path import AnyPath
from .losses import denoising_loss
from .start import zero
from .tensors import file_tensors


def start_controlnet(net: ControlNet, unet: UNet) -> None:
    """Begin with the UNet's own contracting half and with zeros behind each feature map and behind the encoder of
    control images: at first nothing is added to the UNet.
    """
    own = net.state_dict()
    net.load_state_dict({**own, **{name: value for name, value in unet.state_dict().items() if name in own}})
    for layer in (*net.zero, net.zero_mid, net.hint.convs[-1]):
        assert isinstance(layer, nn.Conv2d)
        zero(layer)


def control_loss(
    net: ControlNet,
    unet: UNet,
    image: Tensor,
    z: Tensor,
    noise: Tensor,
    t: Tensor,
    sigma: Tensor,
    context: Tensor,
    vector: Tensor,
    gamma: float | None = 5.0,
    prediction: str = "epsilon",
) -> Tensor:
    """The `denoising_loss` of a UNet that is steered by control images (B, 3, H, W) in 0..1 of the pixels' size."""

    def predict(x: Tensor, t: Tensor, context: Tensor, vector: Tensor) -> Tensor:
        residuals = net(x, t, context, vector, image)
        return unet.predict(x, unet.embed(t, vector), unet.context_kv(context), residuals)

    return denoising_loss(predict, z, noise, t, sigma, context, vector, gamma, prediction)


def save_controlnet(
    path: AnyPath, net: ControlNet, metadata: Mapping[str, str], dtype: torch.dtype = torch.float16
) -> None:
    """Write a ControlNet as one file in diffusers' names, which needs no config. `metadata` is for its header. Raises
    `OutputError`.
    """
    tensors = file_tensors(net, controlnet_rows(net.control_config), dtype)
    architecture = "stable-diffusion-xl-v1-base/controlnet"
    save_tensors(tensors, path, {"modelspec.architecture": architecture, **metadata})
