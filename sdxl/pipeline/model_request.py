"""One statement of a model: the arguments of `Pipeline.from_pretrained`, the command line's flags of a model, a PNG's
"model" and the identity of a job are views of this dataclass. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.embedding import Embedding
from ..runtime.offload import OFFLOADS, Offload
from .option import option

if TYPE_CHECKING:
    import torch

AnyPath = str | os.PathLike[str]
DEFAULT_MODEL = "stabilityai/stable-diffusion-xl-base-1.0"


@dataclass(frozen=True)
class ModelRequest:
    """Which model, from where, and how it is kept in memory; see `Pipeline.from_pretrained`."""

    model: AnyPath = option(
        f"a file, a folder, a hub id or address, a name in SDXL_MODELS_DIR, or miniature (default: {DEFAULT_MODEL})",
        DEFAULT_MODEL,
    )
    refiner: AnyPath | None = option("a refiner that takes over at the end: a file, a folder, or a hub id")
    unet: AnyPath | None = option(
        "take the UNet from this file, folder or hub id; it also sets the prediction type if its file states it"
    )
    vae: AnyPath | None = option("take the VAE from this file, folder or hub id; a tiny one (TAESDXL) is for drafts")
    revision: str | None = option("a branch, tag or commit on the hub")
    variant: str | None = option("which files of a folder or hub model, such as fp16")
    embeddings: Sequence[Any] | Mapping[str, Any] = option(
        "[WORD=]FILE: learned vectors for a word of prompts (textual inversion)",
        (),
        type=Embedding,
        metavar="FILE",
        repeated=True,
        flag="embedding",
    )
    embedding_dir: AnyPath | None = option(
        "a folder whose embeddings are all known by their names", type=Path, metavar="DIR", recorded=False
    )
    loras: Sequence[Any] = option("the LoRAs of every image that names no others", (), flag=None, recorded=False)
    lora_dir: AnyPath | None = option(
        "a folder in which LoRAs are found by their names", type=Path, metavar="DIR", recorded=False
    )
    control_dir: AnyPath | None = option(
        "a folder in which ControlNets, T2I-Adapters, IP-Adapters and upscalers are found by their names",
        type=Path,
        metavar="DIR",
        recorded=False,
    )
    preview_vae: AnyPath | None = option(
        "decode previews with this tiny VAE, such as madebyollin/taesdxl", type=Path, flag=None, recorded=False
    )
    dtype: str | torch.dtype | None = option(
        "of the weights: float32, bfloat16 or float16 (default: bfloat16, or float16, where that is fast, else float32)"
    )
    offload: Offload = option(
        "what is in memory: none, all of the model; text, all but the text encoders; stage, the component at work; "
        "block, the layer at work; auto, as much as fits (default: auto)",
        "none",
        choices=OFFLOADS,
    )
    int8: bool = option("8-bit transformer blocks on a CPU: faster, an approximation", False, type=bool)
    fp8: bool = option("transformer blocks kept in float8: less memory, an approximation", False, type=bool)
    trainable: bool = option(
        "plain layers that own their weights, through which gradients flow", False, type=bool, flag=None, recorded=False
    )
    max_memory: float | None = option(
        "take at most so many GB: auto chooses what fits, and what cannot fit is an error",
        type=float,
        metavar="GB",
        recorded=False,
    )  # in bytes here
    device: str | torch.device | None = option("cpu, cuda, cuda:1, mps (default: the fastest there is)", recorded=False)

    def record(self, variant: str | None) -> dict[str, Any]:
        """What a PNG records of it, beside dtype and arithmetic: the names, with the `variant` that was read."""
        names = {name: getattr(self, name) for name in ("model", "refiner", "unet", "vae", "revision")}
        recorded = {name: str(value) for name, value in (names | {"variant": variant}).items() if value}
        return recorded | {name: True for name in ("int8", "fp8", "trainable") if getattr(self, name)}


RECORDED = tuple(each.name for each in fields(ModelRequest) if each.metadata["option"].recorded)
"""The fields that belong to the identity of an image and of a job."""
