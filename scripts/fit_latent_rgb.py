"""Fit the colours of the miniature's latents, for previews, and write them into its folders.

    python scripts/fit_latent_rgb.py weights/miniature/base weights/miniature/refiner

A preview is the linear function of a latent's channels that comes nearest to the mean colour of its 8 x 8 pixels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import sdxl
from sdxl.images.pixels import to_tensor
from sdxl.miniature.exam import make_picture, make_scenes

SCENES, SEED = 80, 0


def fit(latents: Tensor, pixels: Tensor) -> tuple[Tensor, float]:
    """The matrix with its constant, (C + 1, 3), from latents (N, C, h, w) to the mean colours in -1..1 of images
    (N, 3, H, W) in 0..1; and the share of their variance that it explains.
    """
    wanted = F.interpolate(pixels * 2 - 1, size=latents.shape[2:], mode="area").permute(0, 2, 3, 1).reshape(-1, 3)
    inputs = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    matrix = torch.linalg.lstsq(inputs.double(), wanted.double()).solution
    error = (inputs.double() @ matrix - wanted).square().mean() / wanted.double().var()
    return matrix, 1 - float(error)


def write(folder: Path) -> float:
    """Fit the colours of a model's VAE and write them into its config.json; the share that they explain."""
    pipe = sdxl.Pipeline.from_pretrained(folder, dtype="float32", device="cpu")
    scenes = [scene for things in (1, 2) for scene in make_scenes(SCENES // 2, SEED, things)]
    pixels = torch.stack([to_tensor(make_picture(scene)) for scene in scenes])
    matrix, share = fit(torch.cat([pipe.encode(image[None]) for image in pixels]), pixels)
    path = folder / "vae/config.json"
    config = json.loads(path.read_text()) | {"latent_rgb": [[round(x, 4) for x in row] for row in matrix.tolist()]}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return share


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: the preview explains {write(Path(name)):.1%} of the variance of the colours")
