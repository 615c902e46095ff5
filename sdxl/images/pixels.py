"""Images as tensors, and back."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ArgumentError


def to_tensor(image: Image.Image) -> Tensor:
    """An image as (3, H, W), a mask as (1, H, W), float32 in 0..1."""
    pixels = np.array(image)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).float() / 255


def to_pil(x: Tensor, cut: bool = False) -> list[Image.Image]:
    """Images (B, 3, H, W) or masks (B, 1, H, W) in 0..1 as 8-bit images, rounded to the nearest value or `cut` off.
    Values beyond are black or white. Raises `ArgumentError` for another shape.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ArgumentError(
            f"the tensor has shape {list(x.shape)}; expected images (B, 3, H, W) or masks (B, 1, H, W). Try x[None] "
            "for a single one, pipe.decode for latents"
        )
    pixels = (x * 255 if cut else (x * 255).round()).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each) for each in pixels]
