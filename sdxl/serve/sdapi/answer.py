"""The answer to txt2img and img2img: images in base64, the request again, and `info`, a text of JSON."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from ...images.a1111 import parameters_text
from ...sampling.samplers import SAMPLERS
from ...sampling.schedules import SCHEDULES
from ...version import __version__
from ..job import Image, Job
from ..uploads import Upload
from .request import Asked

_IMAGES = ("init_images", "mask", "firstpass_image", "alwayson_scripts")  # fields that may hold images


def make_answer(job: Job, asked: Asked) -> dict[str, Any]:
    """The answer to a job that is over. It takes time, since images are large."""
    images = job.state.images
    given = {name: value for name, value in asked.given.items() if name not in _IMAGES}
    return {
        "images": [b64encode(each.png).decode() for each in images] if asked.sends else [],
        "parameters": given,
        "info": json.dumps(_info(job, asked, images)),
    }


def _info(job: Job, asked: Asked, images: Sequence[Image]) -> dict[str, Any]:
    """What AUTOMATIC1111 says of the images; clients fail where a name is missing."""
    first = images[0].parameters["request"] if images else _planned(asked)
    model: Mapping[str, Any] = images[0].parameters["model"] if images else {}
    sha256 = (model.get("sha256") or {}).get("model") or ""
    seeds, others = [each.seed for each in images], [_other_seed(each.parameters["request"]) for each in images]
    prompts = [each.parameters["request"]["prompt"] for each in images]
    negatives = [each.parameters["request"].get("negative_prompt") or "" for each in images]
    planned = asked.work.batches[0]
    schedule = first.get("schedule")
    return {
        "prompt": prompts[0] if prompts else first["prompt"],
        "all_prompts": prompts,
        "negative_prompt": first.get("negative_prompt") or "",
        "all_negative_prompts": negatives,
        "seed": seeds[0] if seeds else planned["seed"],
        "all_seeds": seeds,
        "subseed": others[0] if others else -1,
        "all_subseeds": others,
        "subseed_strength": first.get("variation_strength") or 0,
        "width": images[0].width if images else first.get("width") or 0,
        "height": images[0].height if images else first.get("height") or 0,
        "sampler_name": _label(SAMPLERS, first.get("sampler")) or "",
        "cfg_scale": _first(first.get("guidance_scale")) or 0,
        "steps": first.get("steps") or 0,
        "batch_size": planned.get("num_images", 1) * _prompts(planned),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.work.model.removesuffix(".safetensors"),
        "sd_model_hash": sha256[:10],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": first.get("strength"),
        "extra_generation_params": {} if schedule is None else {"Schedule type": _label(SCHEDULES, schedule)},
        "index_of_first_image": 0,
        "infotexts": [parameters_text(each.parameters, (each.width, each.height)) for each in images],
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created)),
        "clip_skip": first["clip_skip"] + 2 if first.get("clip_skip") else 1,
        "is_using_inpainting_conditioning": False,
        "version": f"sdxl {__version__}",
        "warnings": [*asked.warnings, *job.state.warnings],
    }


def _planned(asked: Asked) -> dict[str, Any]:
    """The arguments where no image was generated."""
    planned = {name: value for name, value in asked.work.batches[0].items() if not isinstance(value, (Upload, list))}
    return {"prompt": asked.given.get("prompt") or "", **planned}


def _other_seed(request: Mapping[str, Any]) -> int:
    seed = request.get("variation_seed")
    return seed if isinstance(seed, int) else -1


def _prompts(planned: Mapping[str, Any]) -> int:
    return len(planned["prompt"]) if isinstance(planned["prompt"], list) else 1


def _first(scale: Any) -> Any:
    return scale[0] if isinstance(scale, (list, tuple)) else scale


def _label(table: Mapping[str, Any], name: str | None) -> str | None:
    """AUTOMATIC1111's name of a sampler or schedule; ours where it has none."""
    return (table[name].a1111 or name) if name is not None and name in table else name
