"""Opens networks that enlarge images: ESRGAN's generator."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError, naming
from .component import Component, check_components
from .container import TensorFile, Weights
from .esrgan_keys import NAME, esrgan_rows, found_names, infer_esrgan, second_copies


def open_esrgan(path: Path) -> Component:
    """The upscaler of a .safetensors file: its header alone is read. Raises `CheckpointError` for any other file."""
    component = component_of_esrgan(TensorFile(path))
    check_components([component])
    return component


def component_of_esrgan(file: TensorFile) -> Component:
    """The upscaler of a file. Its keys are not checked. Raises `CheckpointError`."""
    found = found_names(file.shapes)
    if found is None:
        raise CheckpointError(
            f"{file.path} is no upscaler of ESRGAN's architecture; those of others (Compact, SwinIR, DAT, HAT) are not "
            "read. Try RealESRGAN_x4plus or 4x-UltraSharp"
        )
    with naming(file.path):
        config = infer_esrgan(file.shapes, *found)
    rows = list(esrgan_rows(config, *found))
    return Component(NAME, config, rows, "single", Weights([file]), others=second_copies(file.shapes, found[0]))
