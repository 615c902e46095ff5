"""Train an IP-Adapter for the miniature, and the image encoder that it needs: `python scripts/train_reference.py`.

The image gives the colours, the prompt the shape. Most captions name no colours, some others than the image has.
Unfinished work is kept in --work; the same command goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from PIL import Image
from torch import Tensor, nn
from training_data import TRAIN_STEPS, Example, Noised, World, store_latents
from training_run import Batch, Plan, Run

import sdxl
from sdxl.adapters.ip_adapter import places as places_of
from sdxl.images.clip_pixels import MEAN, STD
from sdxl.miniature.edges import move
from sdxl.miniature.scenes import COLOURS, SHAPES, Scene, caption, draw, random_scene
from sdxl.models.ip_adapter import IPAdapter
from sdxl.models.unet import UNet
from sdxl.models.vision import VisionEncoder
from sdxl.models.vision_config import IPAdapterConfig, VisionConfig
from sdxl.sampling.schedule import noise_table
from sdxl.text.tokenizer import Tokenizer
from sdxl.training.lora import load_network
from sdxl.training.losses import encode_captions
from sdxl.training.reference import reference_loss, save_image_encoder, save_ip_adapter, start_ip_adapter
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.hub import on_disk
from sdxl.weights.keymap import TEXT, TEXT_2
from sdxl.weights.keymap import UNET as UNET_NAME

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
    drawn = draw(move(Scene(scene.ground, (other,)), rng))
    side = ENCODER.image_size
    return np.array(
        Image.fromarray((drawn * 255).round().astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    )


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
    checkpoint = open_checkpoint(on_disk("miniature"))
    info, vae = checkpoint.info, sdxl.Pipeline.from_pretrained("miniature", dtype="float32").vae
    encoder = train_encoder(run)
    stored = store_latents(run, vae, SCENES, False, ColourWorld(things=1))
    networks = {name: load_network(checkpoint.components[name]) for name in (UNET_NAME, TEXT, TEXT_2)}
    unet = networks[UNET_NAME].to(memory_format=torch.channels_last)
    assert isinstance(unet, UNet)
    places = tuple(places_of(unet.config))
    adapter = IPAdapter(IPAdapterConfig(ENCODER.projection_dim, unet.config.context_dim, places))
    start_ip_adapter(adapter)
    table = torch.tensor(noise_table(info.schedule).sigmas, dtype=torch.float32)

    def loss(
        z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor, image: Tensor, shown: Tensor
    ) -> Tensor:
        encoders = [networks[TEXT], networks[TEXT_2]]
        with torch.no_grad():
            context, vector = encode_captions(encoders, list(ids), sizes, kept, unet.config.size_dim)
            embedding = encoder(normalised(image))[1] * shown[:, None]
        return reference_loss(adapter, unet, embedding, z, noise, t, table[t], context, vector)

    tokenizers = [Tokenizer(info.tokenizers[name]) for name in (TEXT, TEXT_2)]
    data = Shown(run, Noised(run, PLAN, stored, tokenizers, TRAIN_STEPS, place=70))
    run.train("reference", adapter, PLAN, data, loss)
    save_ip_adapter(out / "colours.safetensors", adapter, METADATA)
    save_image_encoder(out / "image_encoder", encoder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("weights/training/colours"), help="where unfinished work is kept"
    )
    parser.add_argument("--out", type=Path, default=Path("weights/adapters"), help="the folder of the files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    arguments.work.mkdir(parents=True, exist_ok=True)
    train_reference(Run(arguments.work, arguments.seed, torch.device("cpu")), arguments.out)
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
