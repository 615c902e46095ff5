"""Control against diffusers, whole runs: ControlNets and T2I-Adapters with every task, windows, scales and guess mode."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
import control_nets
import tiny
from diffusers import (
    MultiAdapter,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
)
from PIL import Image

import sdxl
from sdxl import Control

SETTINGS: dict[str, Any] = {"steps": 4, "seed": 5, "output": "latent", "progress": False, "height": 64, "width": 80}
PROMPT, NEGATIVE = "a red cat", "photo of a dog"


def picture(seed: int = 3) -> Image.Image:
    return tiny.picture(seed, 80, 64)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks in folders, by name."""
    root = tmp_path_factory.mktemp("nets")
    made = {
        "full": control_nets.controlnet(),
        "second": control_nets.controlnet(seed=21),
        "small": control_nets.controlnet(control_nets.SMALL),
        "mid": control_nets.controlnet(control_nets.MID),
        "union": control_nets.union(),
        "promax": control_nets.union(control_nets.PROMAX, 31),
        "t2i": control_nets.t2i_adapter(),
        "t2i second": control_nets.t2i_adapter(seed=41),
        "t2i grey": control_nets.t2i_adapter(1),
    }
    return {name: control_nets.save_folder(net, root / name) for name, net in made.items()}


NETS: dict[str, Any] = {
    "full": control_nets.controlnet,
    "second": lambda: control_nets.controlnet(seed=21),
    "small": lambda: control_nets.controlnet(control_nets.SMALL),
    "mid": lambda: control_nets.controlnet(control_nets.MID),
}


def theirs(pipeline: Any, base: Any, nets: Any, name: str = "controlnet", **arguments: Any) -> torch.Tensor:
    """The final latents of diffusers' pipeline."""
    parts = {**base.components, name: nets}
    made = pipeline(**parts, add_watermarker=False)
    made.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 5.0}
    settings |= {"generator": tiny.generators([5]), "height": 64, "width": 80}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: torch.Tensor = made(PROMPT, negative_prompt=NEGATIVE, **(settings | arguments)).images
    return found


def ours(pipe: sdxl.Pipeline, control: Any, **arguments: Any) -> torch.Tensor:
    found = pipe(PROMPT, negative_prompt=NEGATIVE, control=control, **(SETTINGS | arguments)).images
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("name", NETS)
def test_text_to_image(name: str, tiny_pipe: Any, reference_pipe: Any, nets: dict[str, Path], error: Any) -> None:
    wanted = theirs(StableDiffusionXLControlNetPipeline, reference_pipe, NETS[name](), image=picture())
    found = ours(tiny_pipe, Control(nets[name], picture()))
    assert error(found, wanted) < 1e-4
    assert error(ours(tiny_pipe, None), wanted) > 1e-2
