"""Upscalers with random weights, in the files of all generations of ESRGAN's code, and spandrel's reading of them."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdxl.models.esrgan import ESRGAN
from sdxl.models.esrgan_config import ESRGANConfig

SMALL = ESRGANConfig(width=16, blocks=2, doublings=2)
OLD, MIDDLE, NEW = "old", "middle", "new"


def random_upscaler(config: ESRGANConfig = SMALL, seed: int = 0) -> ESRGAN:
    """A network whose every layer is seen in its result."""
    torch.manual_seed(seed)
    model = ESRGAN(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(2.0)
            if name == "conv_last.bias":
                weight.add_(0.5)  # images are around grey
    return model


def stored(model: ESRGAN, generation: str, prefix: str = "") -> dict[str, Tensor]:
    """Its tensors as a generation of the code stores them, written down by hand from those codes' modules."""
    doublings, blocks = model.config.doublings, model.config.blocks
    names: dict[str, list[tuple[str, Any]]] = {
        OLD: [
            (r"conv_first", "model.0"),
            (r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0"),
            (r"conv_body", f"model.1.sub.{blocks}"),
            (r"conv_up\.(\d+)", lambda found: f"model.{3 + 3 * int(found[1])}"),
            (r"conv_hr", f"model.{[2, 5, 8, 11][doublings]}"),
            (r"conv_last", f"model.{[4, 7, 10, 13][doublings]}"),
        ],
        MIDDLE: [
            (r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"RRDB_trunk.\1.RDB\2.conv\3"),
            (r"conv_body", "trunk_conv"),
            (r"conv_up\.(\d+)", lambda found: f"upconv{int(found[1]) + 1}"),
            (r"conv_hr", "HRconv"),
        ],
        NEW: [(r"conv_up\.(\d+)", lambda found: f"conv_up{int(found[1]) + 1}")],
    }
    state = {}
    for key, value in model.state_dict().items():
        module, leaf = key.rsplit(".", 1)
        for pattern, name in names[generation]:
            module, count = re.subn(f"^{pattern}$", name, module)
            if count:
                break
        state[f"{prefix}{module}.{leaf}"] = value.contiguous()
    return state


def save(model: ESRGAN, path: Path, generation: str = NEW, prefix: str = "", dtype: torch.dtype | None = None) -> Path:
    """The file of a network."""
    tensors = stored(model, generation, prefix)
    save_file({name: each.to(dtype or each.dtype) for name, each in tensors.items()}, path)
    return path


def spandrel_loader() -> Any:
    """spandrel's loader. Two of its other networks want torchvision: an empty module stands there meanwhile."""
    if find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")
    with pytest.MonkeyPatch.context() as patch:
        functional = ModuleType("torchvision.transforms.functional")
        for name in ("InterpolationMode", "rotate", "normalize"):
            setattr(functional, name, None)
        if "spandrel" not in sys.modules:
            for name in ("torchvision", "torchvision.transforms"):
                patch.setitem(sys.modules, name, ModuleType(name))
            patch.setitem(sys.modules, "torchvision.transforms.functional", functional)
        spandrel: Any = import_module("spandrel")
    return spandrel.ModelLoader("cpu")
