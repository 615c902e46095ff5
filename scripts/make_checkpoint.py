"""Write a full-size SDXL checkpoint with random weights in an official layout, to prove loading, memory and speed.

The real weights mean something; these do not, but they have the real names, shapes, dtype and file size, and a scale
at which the activations stay finite.

    python scripts/make_checkpoint.py base weights/random_base.safetensors
    python scripts/make_checkpoint.py refiner weights/random_refiner.safetensors
    python scripts/make_checkpoint.py base weights/random_base            # a diffusers folder
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from sdxl.models.config import ModelConfig
from sdxl.models.published import BASE, INPAINTING, REFINER
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.text import vocabulary
from sdxl.weights.component import Component
from sdxl.weights.container import Weights
from sdxl.weights.info import ModelInfo
from sdxl.weights.keymap import component_rows
from sdxl.weights.save import save_folder, save_single

MODELS = {"base": BASE, "refiner": REFINER, "inpainting": INPAINTING}


def random_weight(name: str, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Ones and small noise for norms, small biases, and matrices that keep the variance of their input."""
    device = generator.device
    if len(shape) == 1:
        noise = 0.02 * torch.randn(shape, generator=generator, device=device)
        return (noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)).to(dtype)
    fan_in = 1 if "embed.weight" in name else shape[1:].numel()
    scale = 0.02 if "embed.weight" in name else fan_in**-0.5
    return torch.empty(shape, device=device).normal_(0, scale, generator=generator).to(dtype)


def random_state(
    config: ModelConfig, dtype: torch.dtype, seed: int, device: str = "cpu"
) -> dict[str, dict[str, Tensor]]:
    """Our names and tensors of every component, seeded; numbers of a GPU are others, and come in a second."""
    generator = torch.Generator(device).manual_seed(seed)
    state = {}
    for name, rows in component_rows(config).items():
        model = Component(name, getattr(config, name), rows, "folder", Weights([])).build()
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        state[name] = {key: random_weight(key, shape, dtype, generator).cpu() for key, shape in shapes.items()}
    return state


def describe(config: ModelConfig) -> ModelInfo:
    """The description that the published models of this config have."""
    names = {"text_encoder": vocabulary.CLIP_L, "text_encoder_2": vocabulary.CLIP_G}
    tokenizers = {name: names[name] for name in names if getattr(config, name) is not None}
    return ModelInfo(config, ScheduleConfig(), config.kind != "refiner", tokenizers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a full-size checkpoint with random weights.")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("path", type=Path, help="a .safetensors file, or a folder to make")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where the numbers are drawn")
    options = parser.parse_args()
    config = MODELS[options.model]
    state = random_state(config, getattr(torch, options.dtype), options.seed, options.device)
    save = save_single if options.path.suffix == ".safetensors" else save_folder
    save(options.path, describe(config), state)
    print(f"{options.path}: {sum(v.numel() for part in state.values() for v in part.values()):,} parameters")


if __name__ == "__main__":
    main()
