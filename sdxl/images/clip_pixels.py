"""An image as the image encoder of CLIP sees it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# of OpenAI's CLIP (github.com/openai/CLIP, MIT licence), whose numbers all encoders here were trained with
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(image: Image.Image, side: int) -> Tensor:
    """The middle square of an RGB image, (1, 3, side, side) in float32, normalised: bit for bit what transformers' PIL
    image processor gives.
    """
    short, long = sorted(image.size)
    fitted = side, int(side * long / short)
    width, height = fitted if image.width <= image.height else fitted[::-1]
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    pixels = np.asarray(resized.crop((left, top, left + side, top + side)))
    values = (pixels.astype(np.float64) * (1 / 255)).astype(np.float32)
    normal = (values - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(normal).permute(2, 0, 1)[None].contiguous()


def lost_share(image: Image.Image) -> float:
    """The share of an image that lies outside of its middle square."""
    return 1 - min(image.size) / max(image.size)
