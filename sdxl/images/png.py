"""PNG files that record how they were made."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..errors import ArgumentError, OutputError, is_disk_full
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES

PART = ".part"  # the suffix of a file while it is written
_CHUNK = "sdxl"  # the PNG text chunk with our JSON, beside AUTOMATIC1111's "parameters"


def parameters_text(parameters: Mapping[str, Any], size: tuple[int, int]) -> str:
    """AUTOMATIC1111's text for an image of (width, height), for the tools that read it."""
    request = parameters["request"]
    lines = [request["prompt"]]
    if request.get("negative_prompt"):
        lines.append(f"Negative prompt: {request['negative_prompt']}")
    facts = {
        "Steps": request["steps"],
        "Sampler": _a1111_name(SAMPLERS, request["sampler"]),
        "Schedule type": _a1111_name(SCHEDULES, request["schedule"]),
        "CFG scale": request["guidance_scale"],
        "Seed": request["seed"],
        "Size": f"{size[0]}x{size[1]}",
        **_model_hash(parameters["model"].get("sha256")),
        "Model": Path(parameters["model"].get("model", "unknown")).name.removesuffix(".safetensors"),
        "RNG": "CPU",
    }
    if request.get("strength") is not None:
        facts["Denoising strength"] = request["strength"]
    if request.get("refine_at") is not None:
        facts["Refiner switch at"] = request["refine_at"]
    if request.get("clip_skip"):
        facts["Clip skip"] = request["clip_skip"] + 2  # AUTOMATIC1111's 2 is SDXL's default, the last layer but one
    if request.get("eta"):
        facts["Eta DDIM"] = request["eta"]
    if request.get("guidance_rescale"):
        facts["CFG Rescale phi"] = request["guidance_rescale"]
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()) + f", Version: {parameters['version']}")
    return "\n".join(lines)


def _model_hash(hashes: Any) -> dict[str, str]:
    """AUTOMATIC1111's hash of a model: the first digits of the SHA-256."""
    sha256 = hashes.get("model") if isinstance(hashes, Mapping) else None
    return {"Model hash": sha256[:10]} if isinstance(sha256, str) else {}


def _a1111_name(table: Mapping[str, Any], name: str) -> str:
    """AUTOMATIC1111's name for a sampler or schedule; ours where it has none."""
    return (table[name].a1111 if name in table else None) or name


def encode_png(image: Image.Image, parameters: Mapping[str, Any]) -> bytes:
    """A PNG with its parameters."""
    info = PngImagePlugin.PngInfo()
    for key, text in (
        ("parameters", parameters_text(parameters, image.size)),
        (_CHUNK, json.dumps(parameters, ensure_ascii=False)),
    ):
        info.add_itxt(key, text.encode(errors="replace").decode())  # a path may not be valid Unicode
    data = io.BytesIO()
    image.save(data, format="PNG", pnginfo=info)
    return data.getvalue()


def save_png(image: Image.Image, path: str | Path, parameters: Mapping[str, Any]) -> None:
    """Write a PNG with its parameters, which `generate --from` and `read_parameters` read. Raises `OutputError`."""
    write_png(encode_png(image, parameters), Path(path))


def part_prefix(path: Path) -> str:
    """The prefix of the temporary name of `path`, short enough for the file system's limit."""
    return path.name[:40]


def write_png(data: bytes, path: Path) -> None:
    """Write a file under a temporary name, then rename it: even if the machine stops, no partial file exists."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=part_prefix(path), suffix=PART)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(PermissionError):  # some file systems have no permissions
            os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; {remedy(error)}") from error


def remedy(error: OSError) -> str:
    """The advice for a file that cannot be written."""
    return "free some space and run the same command again" if is_disk_full(error) else "choose another path"


def check_writable(path: Path) -> None:
    """Raise `OutputError` before minutes of work if no image can be written to `path`."""
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder; give --output a file name such as {path / 'picture.png'}")
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path} does not end in .png; only PNG files are written, since they record the parameters")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.lstat()  # an error for a name that is too long
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; {remedy(error)}") from error


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters that `save_png` recorded in an image. Raises `ArgumentError`."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(_CHUNK)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ArgumentError(f"{path} cannot be read as an image ({error}); give a PNG that sdxl wrote") from error
    if text is None:
        raise ArgumentError(f"{path} has no recorded parameters; give a PNG that sdxl wrote")
    try:
        data = json.loads(text)
        if not isinstance(data["request"], dict) or not isinstance(data["model"], dict):
            raise TypeError("request and model must be objects")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArgumentError(f"the parameters in {path} are damaged ({error}); give another PNG of sdxl") from error
    return data
