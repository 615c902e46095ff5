"""Train a network that enlarges the miniature's images: `python scripts/train_upscaler.py`.

It learns to make scenes at twice the size of what the miniature's VAE decodes of them. Unfinished work is kept in
--work; the same command goes on where the last one stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from training_data import Example, Pictures
from training_run import Batch, Plan, Run, make_parser, train_from

import sdxl
from sdxl.miniature.scenes import Scene, random_scene
from sdxl.models.esrgan import ESRGAN
from sdxl.models.esrgan_config import ESRGANConfig
from sdxl.models.vae import VAE
from sdxl.weights.container import save_tensors
from sdxl.weights.esrgan_keys import esrgan_rows

CONFIG = ESRGANConfig(width=24, growth=12, blocks=2, doublings=1)
PLAN = Plan(1500, 16, 2e-3, warmup=50)
SCENES = 600
SMALL, CROP = 128, 32  # sides in pixels, of small images
METADATA = {
    "modelspec.title": "2x-scenes",
    "modelspec.description": "enlarges images of the miniature, in Real-ESRGAN's layout",
}


@dataclass(frozen=True)
class Crops:
    """What a step trains on: crops of small images (N, 3, 128, 128) and of the large ones, both in 0..1."""

    run: Run
    small: Tensor
    large: Tensor

    def __len__(self) -> int:
        return PLAN.updates

    def __getitem__(self, step: int) -> Batch:
        """Crops (B, 3, 32, 32) and (B, 3, 64, 64)."""
        rng = self.run.numpy(91, step)
        chosen = rng.integers(0, len(self.small), PLAN.batch)
        places = rng.integers(0, SMALL - CROP + 1, (PLAN.batch, 2))
        pairs = [
            (
                self.small[n, :, y : y + CROP, x : x + CROP],
                self.large[n, :, 2 * y : 2 * (y + CROP), 2 * x : 2 * (x + CROP)],
            )
            for n, (y, x) in zip(chosen, places, strict=True)
        ]
        small, large = (torch.stack(each) for each in zip(*pairs, strict=True))
        return small, large


def drawn(scenes: list[Scene], density: int) -> Tensor:
    """Images (N, 3, H, W) in -1..1 of scenes, `density` times as large as the miniature's."""
    side = SMALL * density
    examples = [Example(each, (side, side), (0, 0), (SMALL, SMALL), density=density) for each in scenes]
    return torch.cat([*DataLoader(Pictures(examples), 64)])


@torch.no_grad()
def make_pairs(run: Run, vae: VAE) -> tuple[Tensor, Tensor]:
    """Scenes as the VAE decodes them, and the same drawn twice as large."""
    rng = run.numpy(90)
    scenes = [random_scene(rng) for _ in range(SCENES)]
    decoded = torch.cat([vae.decode(vae.encode(each, None)) for each in drawn(scenes, 1).split(16)])
    return (decoded.clamp(-1, 1) + 1) / 2, (drawn(scenes, 2) + 1) / 2


def train_upscaler(run: Run, out: Path) -> None:
    """The images, the network, its file."""
    torch.manual_seed(run.seed)
    vae = sdxl.Pipeline.from_pretrained("miniature", dtype="float32").vae
    assert isinstance(vae, VAE)
    network = ESRGAN(CONFIG).to(memory_format=torch.channels_last)
    with torch.no_grad():
        network.conv_last.bias.add_(0.5)  # images are around grey
    data = Crops(run, *make_pairs(run, vae))
    run.train("upscaler", network, PLAN, data, lambda small, large: (network(small) - large).abs().mean())
    state = network.state_dict()
    tensors = {row.single: state[row.ours].half().contiguous() for row in esrgan_rows(CONFIG)}
    save_tensors(tensors, out / "2x-scenes.safetensors", METADATA)


def main() -> None:
    flags = make_parser(__doc__, "weights/training/upscaler", "weights/adapters").parse_args()
    train_from(flags, lambda run: train_upscaler(run, flags.out))


if __name__ == "__main__":
    main()
