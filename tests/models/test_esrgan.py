"""ESRGAN's generator against spandrel's, float32, within 1e-5, from the files of all generations of its code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from esrgan_files import MIDDLE, NEW, OLD, SMALL, random_upscaler, save, spandrel_loader, stored
from safetensors.torch import save_file

from sdxl.errors import SDXLError
from sdxl.models.esrgan_config import ESRGANConfig
from sdxl.pipeline.network_loading import load
from sdxl.runtime.placement import Placement
from sdxl.weights.esrgan import open_esrgan

F32 = torch.float32
PLAIN = Placement(torch.device("cpu"), F32, F32)
CASES = {
    "x4": (SMALL, OLD, ""),
    "x4, middle": (SMALL, MIDDLE, ""),
    "x4, new": (SMALL, NEW, "params_ema."),
    "x1": (replace(SMALL, doublings=0), OLD, ""),
    "x2": (replace(SMALL, doublings=1), OLD, ""),
    "x8": (replace(SMALL, doublings=3, blocks=1), OLD, ""),
    "x2 folded": (replace(SMALL, fold=2), NEW, "params."),
    "x1 folded": (replace(SMALL, fold=4), NEW, ""),
    "six blocks": (ESRGANConfig(blocks=6), NEW, ""),
}


def images(height: int = 13, width: int = 10) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", CASES)
def test_equals_spandrel(case: str, tmp_path: Path, error: Any) -> None:
    config, generation, prefix = CASES[case]
    loader, model = spandrel_loader(), random_upscaler(config)
    component = open_esrgan(save(model, tmp_path / "own.safetensors", generation, prefix))
    assert component.config == config
    x, network = images(), load(component, PLAIN)
    theirs = loader.load_from_file(save(model, tmp_path / "bare.safetensors", generation))
    assert theirs.architecture.id == "ESRGAN"
    assert theirs.scale == config.scale
    with torch.no_grad():
        expected = theirs.model(x)
        assert expected.shape[2:] == (13 * config.scale, 10 * config.scale)
        assert expected.std() > 0.1  # every layer is seen
        assert error(network(x), expected) < 1e-5


@pytest.mark.parametrize("case", ["x4", "x1", "x2", "x8", "x2 folded", "x1 folded"])
@pytest.mark.parametrize("strip", [1, 4, 5, 100])
def test_strips_equal_the_whole(case: str, strip: int, error: Any) -> None:
    model, x = random_upscaler(CASES[case][0]), images(22, 7)
    with torch.no_grad():
        whole = model(x)
        assert error(model(x, strip), whole) < 1e-6


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("conv_first.weight", (16, 27, 3, 3), "folds 3 x 3 pixels and enlarges 4 times"),
        ("conv_first.weight", (16, 1, 3, 3), r"conv_first.weight has shape \[16, 1, 3, 3\]; expected \[16, 3, 3, 3\]"),
        ("conv_first.weight", (16,), "the upscaler is incomplete"),
        ("body.1.rdb2.conv3.weight", None, "1 tensors of the upscaler are missing: body.1.rdb2.conv3.weight"),
        ("conv_hr.weight", (17, 16, 3, 3), r"conv_hr.weight has shape"),
        ("conv_up7.weight", (16, 16, 3, 3), "1 tensors do not belong to this"),
    ],
)
def test_damaged_files_are_refused(name: str, shape: tuple[int, ...] | None, message: str, tmp_path: Path) -> None:
    tensors = stored(random_upscaler(), NEW)
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = torch.zeros(shape)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(SDXLError, match=message) as caught:
        open_esrgan(tmp_path / "a.safetensors")
    assert "a.safetensors" in str(caught.value)


def test_a_file_with_the_average_and_the_last_weights(tmp_path: Path) -> None:
    """As training code keeps them: the average is read, as in the tools that open pickles."""
    average, last = random_upscaler(), random_upscaler(seed=1)
    save_file(stored(average, NEW, "params_ema.") | stored(last, NEW, "params."), tmp_path / "a.safetensors")
    x, network = images(), load(open_esrgan(tmp_path / "a.safetensors"), PLAIN)
    assert torch.equal(network(x), load(open_esrgan(save(average, tmp_path / "b.safetensors")), PLAIN)(x))
