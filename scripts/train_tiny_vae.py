"""Train a tiny decoder for the miniature: `python scripts/train_tiny_vae.py`.

It learns to decode latents of drawn scenes as the miniature's own VAE does. Unfinished work is kept in --work; the same
command goes on where the last one stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from training_data import World, store_latents
from training_run import Batch, Plan, Run, make_parser, train_from

import sdxl
from sdxl.models.tiny_vae import TinyVAE
from sdxl.models.tiny_vae_config import TinyVAEConfig
from sdxl.models.vae import VAE
from sdxl.training.tiny_vae import decoder_loss, save_decoder

CONFIG = TinyVAEConfig(width=24, encoder_blocks=None)
PLAN = Plan(600, 4, 4e-3, warmup=30, decay=0.98)
AGAIN = Plan(160, 4, 2e-3, warmup=10, decay=0.96)  # the rate is raised again
SCENES = 1600
METADATA = {
    "modelspec.title": "tiny-decoder",
    "modelspec.description": "a tiny decoder of the miniature's latents, in TAESD's layout",
}


@dataclass(frozen=True)
class Pairs:
    """What a step trains on: latents of one bucket, and their images."""

    run: Run
    vae: VAE
    stored: list[Tensor]
    plan: Plan
    place: int

    def __len__(self) -> int:
        return self.plan.updates

    @torch.no_grad()
    def __getitem__(self, step: int) -> Batch:
        """Latents (B, 4, h, w) and what the VAE decodes, (B, 3, 8h, 8w)."""
        rng = self.run.numpy(self.place, step)
        bucket = self.stored[0 if rng.random() < 0.5 else int(rng.integers(1, len(self.stored)))]
        z = bucket[torch.from_numpy(rng.integers(0, len(bucket), self.plan.batch))]
        return z, self.vae.decode(z)


def train_decoder(run: Run, out: Path) -> None:
    """The latents, the decoder, its file."""
    torch.manual_seed(run.seed)
    vae = sdxl.Pipeline.from_pretrained("miniature", dtype="float32").vae
    assert isinstance(vae, VAE)
    stored = [each.z for each in store_latents(run, vae, SCENES, False, World())]
    tiny = TinyVAE(CONFIG).to(memory_format=torch.channels_last)
    for name, plan, place in (("decoder", PLAN, 81), ("again", AGAIN, 82)):
        tiny.requires_grad_(True)
        run.train(name, tiny, plan, Pairs(run, vae, stored, plan, place), lambda z, x: decoder_loss(tiny, z, x))
    save_decoder(out / "tiny-decoder.safetensors", tiny, METADATA)


def main() -> None:
    flags = make_parser(__doc__, "weights/training/tiny-decoder", "weights/adapters").parse_args()
    train_from(flags, lambda run: train_decoder(run, flags.out))


if __name__ == "__main__":
    main()
