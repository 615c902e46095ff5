"""What AUTOMATIC1111's clients list: samplers, schedules, models and the like. Names, never folders."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

from ...images.upscalers import UPSCALERS, a1111_name
from ...runtime import system_memory
from ...sampling.names import AUTOMATIC
from ...sampling.samplers import SAMPLERS
from ...sampling.schedules import SCHEDULES
from ..service import Service

_LABELS = {"leading": "DDIM"}  # where AUTOMATIC1111's is no name of ours alone


def samplers() -> list[dict[str, Any]]:
    """The samplers under AUTOMATIC1111's names; those that it has not, under ours."""
    return [
        {"name": each.a1111 or name, "aliases": [name, *each.names], "options": _own_schedule(each.automatic)}
        for name, each in sorted(SAMPLERS.items(), key=lambda item: item[0] != "euler")
    ]


def _own_schedule(schedule: str) -> dict[str, str]:
    return {} if schedule == "linspace" else {"scheduler": schedule}


def schedulers() -> list[dict[str, Any]]:
    """The schedules; `automatic` is the sampler's own."""
    labels = {name: each.a1111 or _LABELS.get(name) or name.title() for name, each in SCHEDULES.items()}
    rows: list[tuple[str, str, Any]] = [(AUTOMATIC, "Automatic", None)]
    rows += [(_key(label), label, SCHEDULES[name].options.get("rho")) for name, label in labels.items()]
    return [
        {"name": name, "label": label, "aliases": None, "default_rho": -1 if rho is None else rho}
        | {"need_inner_model": False}
        for name, label, rho in rows
    ]


def _key(label: str) -> str:
    return label.lower().replace(" ", "_")


def models(service: Service) -> list[dict[str, Any]]:
    """The models; their titles are what options.sd_model_checkpoint has."""
    return [
        {
            "title": name,
            "model_name": name.removesuffix(".safetensors"),
            "hash": None,
            "sha256": None,
            "filename": name,
            "config": None,
        }
        for name in service.catalog.models
    ]


def loras(service: Service) -> list[dict[str, Any]]:
    """The LoRAs, with the names that prompts use."""
    found = service.catalog.files("lora").items()
    return [{"name": name, "alias": name, "path": each.path.name, "metadata": {}} for name, each in found]


def embeddings(service: Service) -> dict[str, Any]:
    """The words with learned vectors."""
    facts = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": None, "vectors": None}
    return {"loaded": {name: dict(facts) for name in service.catalog.files("embedding")}, "skipped": {}}


def upscalers(service: Service) -> list[dict[str, Any]]:
    """The ways to enlarge pixels, also by networks."""
    names = ["None", *(each.a1111 for each in UPSCALERS.values() if each.mode is None)]
    files = service.catalog.files("upscaler")
    names += [name if "/" in name else a1111_name(name) for name in files]  # folders tell files of one name apart
    return [{"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in names]


def latent_upscalers() -> list[dict[str, Any]]:
    """The ways to enlarge latents."""
    return [{"name": each.a1111} for each in UPSCALERS.values() if each.mode is not None]


def options(service: Service, clip_skip: int) -> dict[str, Any]:
    """The settings that clients read; the first and the second can be set."""
    return {
        "sd_model_checkpoint": service.model,
        "CLIP_stop_at_last_layers": clip_skip,
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "samples_format": "png",
        "samples_save": False,
        "grid_save": False,
        "return_grid": False,
        "inpainting_mask_weight": 1.0,
        "img2img_background_color": "#ffffff",
        "enable_pnginfo": True,
        "show_progress_type": "Approx NN",
        "live_previews_enable": True,
    }


def memory() -> dict[str, Any]:
    """Memory in bytes, of the system and of the first GPU."""
    return {"ram": _system_memory(), "cuda": _gpu_memory()}


def _system_memory() -> dict[str, Any]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, unused = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return {"error": "the system does not say"}
    known = system_memory.free()  # also what the cache of files takes, and no more than a container may
    free = min(unused if known == math.inf else int(known), total)
    return {"free": free, "used": total - free, "total": total}


def _gpu_memory() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # the worker imports it
    if torch is None or not torch.cuda.is_available():
        return {"error": "there is no GPU"}
    free, total = torch.cuda.mem_get_info()
    used = torch.cuda.memory_allocated()
    peak = {"current": used, "peak": torch.cuda.max_memory_allocated()}
    return {"system": {"free": free, "used": total - free, "total": total}, "active": peak, "allocated": peak}
