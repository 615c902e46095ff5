"""Distil the miniature to one and two steps without guidance: `python scripts/distill_miniature.py`.

First the teacher, the miniature with guidance, takes noise to images; only those that the judge finds right are kept.
Then a LoRA learns to go there from the same noise in one step, and from where this has led in a second one. The
same command goes on where the last one stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from training_miniature import load_miniature
from training_run import Batch, Plan, Run, make_parser, train_from

import sdxl
from sdxl.miniature.judge import agrees, look
from sdxl.miniature.scenes import Scene, caption, random_scene
from sdxl.text.encode import embed_sizes, encode_text
from sdxl.training.distillation import distillation_loss
from sdxl.training.lora import attach_lora, save_lora
from sdxl.weights.keymap import UNET as UNET_NAME

RANK = 32
PLAN = Plan(480, 16, 4e-3, warmup=30, decay=0.99, fall=800)
MIDDLE = 499  # the timestep of the second of two steps, of trailing spacing
FRESH = 0.3  # the share of second guesses that begin with fresh noise
METADATA = {
    "modelspec.title": "two-steps",
    "modelspec.description": "the miniature distilled to one and two steps: euler, trailing, guidance 1",
}
CHUNK = 40  # images that the teacher makes in one call
TEACHER = {"steps": 8, "sampler": "dpmpp_2m", "schedule": "trailing", "guidance_scale": 3.0}


def make_pairs(run: Run, count: int) -> tuple[Tensor, Tensor, list[str]]:
    """At least `count` pairs of noise and the latents that the teacher makes of it (N, 4, 16, 16), and captions."""
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
    noise: list[Tensor] = []
    z: list[Tensor] = []
    captions: list[str] = []
    number = 0
    while len(captions) < count:
        path = run.work / f"pairs_{number}.pt"
        if not path.exists():
            torch.save(teach(pipe, run, number), path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        some_noise, some_z, some_captions = torch.load(path)
        noise.append(some_noise)
        z.append(some_z)
        captions += some_captions
        number += 1
    return torch.cat(noise), torch.cat(z), captions


def teach(pipe: sdxl.Pipeline, run: Run, number: int) -> tuple[Tensor, Tensor, list[str]]:
    """A chunk of pairs whose images show their scenes."""
    rng = run.numpy(30, number)
    scenes = [random_scene(rng, things=1 if rng.random() < 0.7 else 2) for _ in range(CHUNK)]
    captions = [caption(scene, None if rng.random() < 0.7 else rng) for scene in scenes]
    noise = torch.randn(CHUNK, 4, 16, 16, generator=run.torch(31, number))
    z = pipe(captions, latents=noise, output="latent", progress=False, **TEACHER).images
    assert isinstance(z, Tensor)
    right = right_ones(pipe, scenes, z)
    print(f"pairs {number}: {len(right)} of {CHUNK} right", flush=True)
    return noise[right], z[right], [captions[i] for i in right]


def right_ones(pipe: sdxl.Pipeline, scenes: Sequence[Scene], z: Tensor) -> list[int]:
    """The indices of the latents whose images show their scenes."""
    pixels = pipe.decode(z).permute(0, 2, 3, 1).cpu().numpy()
    return [i for i, (scene, each) in enumerate(zip(scenes, pixels, strict=True)) if agrees(look(each), scene)]


@dataclass(frozen=True)
class Pairs(Dataset[Batch]):
    """What the student trains on."""

    run: Run
    plan: Plan
    noise: Tensor
    z: Tensor

    def __len__(self) -> int:
        return self.plan.updates

    def __getitem__(self, step: int) -> Batch:
        """The indices of pairs (B,), their noise and latents (B, 4, 16, 16), and timestep and fresh noise of the second
        guess, zeros where it begins at the first one.
        """
        rng, count = self.run.numpy(32, step), self.plan.batch
        chosen = torch.from_numpy(rng.permutation(len(self.z))[:count])
        is_fresh = torch.from_numpy(rng.random(count) < FRESH)
        middle = torch.where(is_fresh, torch.from_numpy(rng.integers(0, 1000, count)), MIDDLE)
        fresh = torch.randn(self.z[chosen].shape, generator=self.run.torch(33, step))
        return chosen, self.noise[chosen], self.z[chosen], middle, fresh * is_fresh[:, None, None, None]


def train(run: Run, pairs: int, out: Path) -> None:
    """The pairs, the layers, the file."""
    noise, z, captions = make_pairs(run, pairs)
    torch.manual_seed(run.seed)
    miniature = load_miniature()
    info, stages, table = miniature.info, miniature.pipe.text, miniature.table
    unet = miniature.unet.to(memory_format=torch.channels_last)
    sizes = embed_sizes((128, 128, 0, 0, 128, 128), unet.config.size_dim)
    layers = attach_lora(unet, RANK)

    def loss(chosen: Tensor, noise: Tensor, z: Tensor, middle: Tensor, fresh: Tensor) -> Tensor:
        with torch.no_grad():
            texts = [captions[i] for i in chosen.tolist()]
            context, pooled = encode_text(stages, texts, texts)
            vector = torch.cat([pooled, sizes.expand(len(pooled), -1)], dim=1)
        return distillation_loss(unet, noise, z, table, middle, fresh, context, vector)

    factors = nn.ModuleList(factor for layer in layers.values() for factor in (layer.down, layer.up))

    def preview() -> None:
        save_lora(run.work / "two-steps.safetensors", info.config, {UNET_NAME: layers}, METADATA)

    run.train("two-steps", factors, PLAN, Pairs(run, PLAN, noise, z), loss, preview)
    save_lora(out, info.config, {UNET_NAME: layers}, METADATA)


def main() -> None:
    parser = make_parser(__doc__, "weights/distilling", "weights/adapters/two-steps.safetensors")
    parser.add_argument("--pairs", type=int, default=2000)
    flags = parser.parse_args()
    train_from(flags, lambda run: train(run, flags.pairs, flags.out))


if __name__ == "__main__":
    main()
