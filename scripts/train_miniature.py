"""Train the miniature from nothing, by SDXL's recipe: `python scripts/train_miniature.py`.

Stages: vocabulary, autoencoder, base (UNet and text encoders), refiner. Each saves as it goes into --work; the same
command goes on where the last one stopped. All randomness comes from the seed, the stage and the step.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from training_data import TRAIN_STEPS, Crops, Latents, Noised, World, store_latents, to_tensor
from training_run import Plan, Run, make_parser, train_from

from sdxl.miniature.scenes import caption, draw, random_scene, to_image
from sdxl.models.clip import TextEncoder
from sdxl.models.config import ModelConfig, TextConfig, VAEConfig
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.models.unet import UNet as UNetModel
from sdxl.models.unet_config import UNetConfig
from sdxl.models.vae import VAE as VAEModel
from sdxl.pipeline.pipeline import Pipeline
from sdxl.sampling.schedule import noise_table
from sdxl.text.encode import TextStage
from sdxl.text.learn import learn_vocabulary
from sdxl.text.tokenizer import Tokenizer
from sdxl.text.vocabulary import TokenizerConfig, Vocabulary
from sdxl.training.losses import autoencoder_loss, captioned_loss, denoising_loss, size_embedding
from sdxl.training.start import start_text_encoder, start_unet, start_vae
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.info import ModelInfo
from sdxl.weights.keymap import TEXT, TEXT_2, UNET, VAE
from sdxl.weights.save import save_folder

SIZE_DIM = 32
TEXT_DIM = 64
REFINER_STEPS = 200  # the refiner's share of the 1000 timesteps


@dataclass(frozen=True)
class Recipe:
    """How long each stage trains, on how many pictures, of what."""

    autoencoder: Plan
    base: Plan
    refiner: Plan
    scenes: int
    refiner_scenes: int
    world: World = field(default_factory=World)


RECIPES = {
    "cpu": Recipe(Plan(5400, 16, 2e-3, decay=0.999), Plan(3800, 32, 2e-3), Plan(600, 32, 2e-3), 24000, 4000),
    "smoke": Recipe(
        Plan(1000, 16, 2e-3), Plan(1300, 48, 2e-3, decay=0.99), Plan(20, 24, 2e-3, 5), 8000, 400, World(1, side=64)
    ),
    "cuda": Recipe(
        Plan(3500, 128, 2e-3, decay=0.999), Plan(1500, 256, 2e-3, decay=0.998), Plan(500, 256, 2e-3), 80000, 16000
    ),
}

VAE_CONFIG = VAEConfig(channels=(16, 16, 64, 64), blocks=1, norm_groups=8, scaling_factor=1.0)
BASE_UNET = UNetConfig(
    channels=(64, 128, 128),
    down=((None,), (1,), (1,)),
    mid=1,
    up=((1, 1), (1, 1), (None, None)),
    heads=(1, 2, 2),
    context_dim=2 * TEXT_DIM,
    vector_dim=TEXT_DIM + 6 * SIZE_DIM,
    size_dim=SIZE_DIM,
)
REFINER_UNET = UNetConfig(
    channels=(32, 64, 64, 64),
    down=((None,), (1,), (1,), (None,)),
    mid=1,
    up=((None, None), (1, 1), (1, 1), (None, None)),
    heads=(1, 1, 1, 1),
    context_dim=TEXT_DIM,
    vector_dim=TEXT_DIM + 5 * SIZE_DIM,
    size_dim=SIZE_DIM,
)


# ---- autoencoder -----------------------------------------------------------------------------------------------------


def train_autoencoder(run: Run, plan: Plan, world: World) -> VAEModel:
    """The autoencoder, on crops."""
    torch.manual_seed(run.seed)
    vae = VAEModel(VAE_CONFIG).to(run.device)
    start_vae(vae)

    def loss(x: Tensor, noise: Tensor) -> Tensor:
        return autoencoder_loss(vae, x, noise, l1_weight=0.1, kl_weight=3e-5)

    run.train("autoencoder", vae, plan, Crops(run, plan, world), loss)
    return vae


@torch.no_grad()
def reconstruction_psnr(vae: VAEModel, device: torch.device, world: World) -> float:
    """Mean PSNR in dB over 100 scenes of held-out combinations."""
    rng, values = np.random.default_rng(7), []
    for _ in range(100):
        x = to_tensor([draw(random_scene(rng, unseen=True), world.buckets[0])]).to(device)
        error = (vae.decode(vae.encode(x)).clamp(-1, 1) - x) / 2
        values.append(float(-10 * error.square().mean().log10()))
    return float(np.mean(values))


@torch.no_grad()
def latent_scale(vae: VAEModel, run: Run, world: World) -> float:
    """1 / the standard deviation of the latents of scenes, which `scaling_factor` brings to 1."""
    rng, size = run.numpy(3), world.buckets[0]
    latents = [vae.encode(to_tensor([world.example(rng, size, False).pixels()]).to(run.device)) for _ in range(500)]
    return round(1 / float(torch.cat(latents).std()), 5)


# ---- diffusion -------------------------------------------------------------------------------------------------------


def train_base(
    run: Run, plan: Plan, stored: list[Latents], model: nn.ModuleDict, info: ModelInfo, vae: VAEModel
) -> None:
    """The UNet and both text encoders together; a dropped caption is zeros."""
    table = torch.tensor(noise_table(info.schedule).sigmas, dtype=torch.float32, device=run.device)
    tokenizers = [Tokenizer(info.tokenizers[name]) for name in (TEXT, TEXT_2)]

    def loss(z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor) -> Tensor:
        encoders = [model[TEXT], model[TEXT_2]]
        return captioned_loss(model[UNET], encoders, z, noise, t, table[t], list(ids), sizes, kept)

    data = Noised(run, plan, stored, tokenizers, TRAIN_STEPS, place=10)
    run.train("base", model, plan, data, loss, lambda: preview(run, model, info, vae))


def train_refiner(
    run: Run, plan: Plan, stored: list[Latents], unet: UNetModel, text: TextEncoder, info: ModelInfo
) -> None:
    """The specialist for little noise, conditioned on an aesthetic score; the text encoder is the base's, frozen.

    A dropped caption is the empty text.
    """
    table = torch.tensor(noise_table(info.schedule).sigmas, dtype=torch.float32, device=run.device)
    tokenizer = Tokenizer(info.tokenizers[TEXT_2])
    empty = torch.tensor(tokenizer([""]), device=run.device)

    def loss(z: Tensor, noise: Tensor, t: Tensor, ids: Tensor, sizes: Tensor, kept: Tensor) -> Tensor:
        with torch.no_grad():
            context, pooled = text(torch.where(kept[:, None] > 0, ids[0], empty))
        vector = torch.cat([pooled, size_embedding(sizes, SIZE_DIM)], dim=1)
        return denoising_loss(unet, z, noise, t, table[t], context, vector)

    run.train("refiner", unet, plan, Noised(run, plan, stored, [tokenizer], REFINER_STEPS, place=20), loss)


def preview(run: Run, model: nn.ModuleDict, info: ModelInfo, vae: VAEModel) -> None:
    """A sheet of pictures from eight fixed prompts, drawn as a user would draw them."""
    rng = np.random.default_rng(5)
    prompts = [caption(random_scene(rng, things=1 + i // 4)) for i in range(8)]
    stages = [TextStage(Tokenizer(info.tokenizers[name]), model[name]) for name in (TEXT, TEXT_2)]
    pipeline = Pipeline.from_networks(info, model[UNET], vae, stages)
    pixels = pipeline(prompts, steps=12, seed=1, output="tensor", progress=False).images
    assert isinstance(pixels, Tensor)
    side = pixels.shape[-1]
    sheet = pixels.reshape(2, 4, 3, side, side).permute(0, 3, 1, 4, 2).reshape(2 * side, 4 * side, 3)
    to_image(sheet.cpu().numpy()).save(run.work / "preview.png")


# ---- all of it -------------------------------------------------------------------------------------------------------


def describe(vocabulary: Vocabulary, scale: float, refiner: bool, side: int) -> ModelInfo:
    """Everything about the miniature but its weights; `side` is that of a square picture in pixels."""
    text = TextConfig(vocab_size=len(vocabulary.ids), dim=TEXT_DIM, ff_dim=4 * TEXT_DIM, layers=3, heads=1)
    second = replace(text, activation="gelu", projection_dim=TEXT_DIM)
    first = None if refiner else text
    unet = replace(REFINER_UNET if refiner else BASE_UNET, sample_size=(side // 8, side // 8))
    config = ModelConfig(unet, replace(VAE_CONFIG, scaling_factor=scale), first, second)
    tokenizers = {TEXT_2: TokenizerConfig(pad="!", vocabulary=vocabulary)}
    if not refiner:
        tokenizers[TEXT] = TokenizerConfig(vocabulary=vocabulary)
    return ModelInfo(config, ScheduleConfig(), not refiner, tokenizers)


def make_vocabulary(run: Run) -> Vocabulary:
    rng = run.numpy(0)
    return learn_vocabulary([caption(random_scene(rng), rng) for _ in range(5000)], 1024)


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().to(torch.float16) for name, value in state.items()}


def write(out: Path, info: ModelInfo, networks: dict[str, nn.Module]) -> None:
    """A diffusers folder in float16 in place of an older one."""
    shutil.rmtree(out, ignore_errors=True)
    save_folder(out, info, {name: half(network.state_dict()) for name, network in networks.items()})
    open_checkpoint(out)  # every key and shape accounted for


def make_base(info: ModelInfo, run: Run) -> nn.ModuleDict:
    """The base's UNet and text encoders before training."""
    assert info.config.text_encoder
    torch.manual_seed(run.seed)
    networks = {
        UNET: UNetModel(info.config.unet),
        TEXT: TextEncoder(info.config.text_encoder),
        TEXT_2: TextEncoder(info.config.text_encoder_2),
    }
    start_unet(networks[UNET])
    start_text_encoder(networks[TEXT])
    start_text_encoder(networks[TEXT_2])
    networks[UNET].to(memory_format=memory_format(run.device))
    return nn.ModuleDict(networks).to(run.device)


def make_refiner(info: ModelInfo, run: Run) -> UNetModel:
    """The refiner's UNet before training."""
    torch.manual_seed(run.seed)
    unet = UNetModel(info.config.unet)
    start_unet(unet)
    return unet.to(run.device, memory_format=memory_format(run.device))


def memory_format(device: torch.device) -> torch.memory_format:
    """channels_last is a tenth faster on a CPU; on CUDA every group norm would undo it."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def train(run: Run, recipe: Recipe, out: Path) -> None:
    """All stages that are not done yet; the two folders are written to `out`."""
    run.work.mkdir(parents=True, exist_ok=True)
    vocabulary = make_vocabulary(run)
    vae = train_autoencoder(run, recipe.autoencoder, recipe.world)
    vae.config = replace(vae.config, scaling_factor=latent_scale(vae, run, recipe.world))
    print(
        f"autoencoder: {reconstruction_psnr(vae, run.device, recipe.world):.2f} dB, scale {vae.config.scaling_factor}",
        flush=True,
    )

    info = describe(vocabulary, vae.config.scaling_factor, False, recipe.world.side)
    base = make_base(info, run)
    stored = store_latents(run, vae, recipe.scenes, False, recipe.world)
    train_base(run, recipe.base, stored, base, info, vae)
    write(out / "base", info, {**base, VAE: vae})

    info = describe(vocabulary, vae.config.scaling_factor, True, recipe.world.side)
    refiner, text = make_refiner(info, run), base[TEXT_2]
    stored = store_latents(run, vae, recipe.refiner_scenes, True, recipe.world)
    train_refiner(run, recipe.refiner, stored, refiner, text, info)
    write(out / "refiner", info, {UNET: refiner, TEXT_2: text, VAE: vae})


def main() -> None:
    cuda = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = True
    parser = make_parser(__doc__, "weights/training", "weights/miniature")
    parser.add_argument("--recipe", choices=RECIPES, default="cuda" if cuda else "cpu")
    flags = parser.parse_args()
    device, workers = torch.device("cuda" if cuda else "cpu"), (os.cpu_count() or 1) if cuda else 0
    train_from(flags, lambda run: train(run, RECIPES[flags.recipe], flags.out), device=device, workers=workers)


if __name__ == "__main__":
    main()
