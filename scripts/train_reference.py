"""Train an IP-Adapter for the miniature, and the image encoder that it needs: `python scripts/train_reference.py`.

The image gives the colours, the prompt the shape. Most captions name no colours, some others than the image has.
Unfinished work is kept in --work; the same command goes on where the last one stopped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from PIL import Image
from torch import Tensor, nn
from training_data import Example, Noised, World
from training_miniature import load_miniature
from training_run import Batch, Plan, Run, make_parser, train_from

from sdxl.adapters.ip_adapter import places as places_of
from sdxl.images.clip_pixels import MEAN, STD
from sdxl.miniature.edges import move
from sdxl.miniature.scenes import COLOURS, SHAPES, Scene, caption, draw, random_scene, to_image
from sdxl.models.ip_adapter import IPAdapter
from sdxl.models.vision import VisionEncoder
from sdxl.models.vision_config import IPAdapterConfig, VisionConfig
from sdxl.training.reference import reference_loss, save_image_encoder, save_ip_adapter, start_ip_adapter

ENCODER = VisionConfig(dim=64, ff_dim=128, layers=2, heads=2, patch=8, image_size=32, projection_dim=64)
ENCODER_PLAN = Plan(600, 64, 2e-3, warmup=30, decay=0.99)
PLAN = Plan(600, 16, 4e-3, warmup=30, decay=0.99)
SCENES = 3200
METADATA = {
    "modelspec.title": "colours",
    "modelspec.description": "the miniature's IP-Adapter: the colours of a reference image",
}
HIDDEN = 0.5  # the share of reference images that are left out where the caption is, for guidance
COLOURLESS, OTHER = 0.55, 0.3  # the shares of captions without colours, and with other ones than the image


def show(scene: Scene, rng: Generator) -> np.ndarray:
    """An image (S, S, 3) of 8 bits as the encoder sees it: another thing in the scene's colours, at any place."""
    (thing,) = scene.things
    other = replace(thing, shape=str(rng.choice(SHAPES)))
    drawn, side = to_image(draw(move(Scene(scene.ground, (other,)), rng))), ENCODER.image_size
    return np.array(drawn.resize((side, side), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class ColourWorld(World):
    """Scenes of one thing, each with the image of another one that has its colours."""

    def example(self, rng: Generator, bucket: tuple[int, int], flawed: bool) -> Example:
        example, words, kind = super().example(rng, bucket, flawed), None, rng.random()
        if kind < COLOURLESS:
            words = without_colours(caption(example.scene, rng))
        elif kind < COLOURLESS + OTHER:
            words = caption(recolour(example.scene, rng), rng)
        return replace(example, hint=show(example.scene, rng), words=words)


def without_colours(text: str) -> str:
    """A caption without its colours: a star on a background."""
    return re.sub(r"\ban (?=[^aeiou])", "a ", re.sub(rf"\b({'|'.join(COLOURS)}) ", "", text))


def recolour(scene: Scene, rng: Generator) -> Scene:
    """The scene of one thing in two other colours."""
    (thing,) = scene.things
    others = [name for name in COLOURS if name not in (scene.ground, thing.colour)]
    ground, colour = (str(name) for name in rng.choice(others, 2, replace=False))
    return replace(scene, ground=ground, things=(replace(thing, colour=colour),))


@dataclass(frozen=True)
class Colours:
    """What the image encoder trains on: images, and the numbers of their two colours."""

    run: Run

    def __len__(self) -> int:
        return ENCODER_PLAN.updates

    def __getitem__(self, step: int) -> Batch:
        """Pixels (B, 3, S, S) in 0..1, and the colours (B, 2) of grounds and things."""
        rng, names = self.run.numpy(73, step), list(COLOURS)
        scenes = [random_scene(rng, things=1) for _ in range(ENCODER_PLAN.batch)]
        images = np.stack([show(scene, rng) for scene in scenes])
        colours = [[names.index(scene.ground), names.index(scene.things[0].colour)] for scene in scenes]
        return torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.tensor(colours)


def normalised(image: Tensor) -> Tensor:
    """Pixels as the encoder sees them."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (image - mean) / std


def train_encoder(run: Run) -> VisionEncoder:
    """The image encoder: its embedding names the colours of an image to a linear layer, which is not kept."""
    encoder = VisionEncoder(ENCODER)
    nn.init.normal_(encoder.class_embed.weight, std=0.1)
    nn.init.normal_(encoder.position_embed.weight, std=0.1)
    head = nn.Linear(ENCODER.projection_dim, 2 * len(COLOURS))

    def loss(image: Tensor, colours: Tensor) -> Tensor:
        scores = head(encoder(normalised(image))[1]).unflatten(1, (len(COLOURS), 2))
        return F.cross_entropy(scores, colours)

    run.train("encoder", nn.ModuleDict({"encoder": encoder, "head": head}), ENCODER_PLAN, Colours(run), loss)
    return encoder


@dataclass(frozen=True)
class Shown:
    """What a batch trains on, and which of its images are shown."""

    run: Run
    noised: Noised

    def __len__(self) -> int:
        return len(self.noised)

    def __getitem__(self, step: int) -> Batch:
        """As `Noised`, then (B,): 0 where the reference image is left out."""
        *batch, kept, image = self.noised[step]
        drawn = torch.tensor(self.run.numpy(72, step).random(len(kept)) >= HIDDEN)
        return *batch, kept, image, torch.maximum(kept, drawn.float())


def train_reference(run: Run, out: Path) -> None:
    """The latents, the adapter and its image encoder, the files."""
    torch.manual_seed(run.seed)
    miniature = load_miniature()
    encoder = train_encoder(run)
    stored = miniature.store(run, SCENES, ColourWorld(things=1))
    unet = miniature.unet.to(memory_format=torch.channels_last)
    places = tuple(places_of(unet.config))
    adapter = IPAdapter(IPAdapterConfig(ENCODER.projection_dim, unet.config.context_dim, places))
    start_ip_adapter(adapter)

    def loss(
        z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor, image: Tensor, shown: Tensor
    ) -> Tensor:
        context, vector = miniature.encode(ids, sizes, kept)
        with torch.no_grad():
            embedding = encoder(normalised(image))[1] * shown[:, None]
        return reference_loss(adapter, unet, embedding, z, noise, t, miniature.table[t], context, vector)

    run.train("reference", adapter, PLAN, Shown(run, miniature.noised(run, PLAN, stored, place=70)), loss)
    save_ip_adapter(out / "colours.safetensors", adapter, METADATA)
    save_image_encoder(out / "image_encoder", encoder)


def main() -> None:
    flags = make_parser(__doc__, "weights/training/colours", "weights/adapters").parse_args()
    train_from(flags, lambda run: train_reference(run, flags.out))


if __name__ == "__main__":
    main()
