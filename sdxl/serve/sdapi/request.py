"""The fields of AUTOMATIC1111's txt2img and img2img, as those of `sdxl.Request`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError, brief
from ..given import Given
from ..problems import refuse
from ..service import Service
from ..work import Work
from .names import model_name
from .sampling import read_names, read_sampling
from .scripts import read_scripts
from .sizes import read_size
from .sources import read_sources

_LATER = 2  # the last layer but one, which AUTOMATIC1111 counts as 2, is SDXL's own
_MOST_ID = 200  # characters of a task's name
_LACKING = {  # fields and what of them has no effect
    "restore_faces": (False,),
    "tiling": (False,),
    "disable_extra_networks": (False,),
    "infotext": ("",),
    "s_min_uncond": (0,),
    "initial_noise_multiplier": (0, 1),
    "firstpass_image": ("",),
}
_VAE = (None, "", "Automatic", "None")


@dataclass(frozen=True)
class Asked:
    """A request that was read: what to do, what the client should know of it, and whether it wants the images."""

    work: Work
    given: Mapping[str, Any]
    warnings: tuple[str, ...]
    sends: bool


async def read_request(service: Service, body: Mapping[str, Any], has_image: bool, clip_skip: int) -> Asked:
    """A body of img2img if it `has_image`, else of txt2img. `clip_skip` is AUTOMATIC1111's option of this name. Raises
    `ArgumentError`, `UnknownError` and `RefusedError`.
    """
    given, warnings = Given(body), list[str]()
    _check_lacking(given)
    settings = Given(given.mapping("override_settings"))
    model = model_name(service, settings.text("sd_model_checkpoint")) or service.model
    width, height = read_size(service, given)
    fields = {
        "prompt": given.text("prompt"),
        "negative_prompt": given.text("negative_prompt") or None,  # of no letters at all: zeros
        "prompt_syntax": "a1111",
        "width": width,
        "height": height,
        "steps": given.whole("steps"),
        "guidance_scale": given.number("cfg_scale"),
        "seed": _seed(given, "seed"),
        "num_images": given.whole("batch_size", 1),
        "clip_skip": _clip_skip(settings, clip_skip),
        **read_sampling(given),
        **_variation(given, warnings),
        **_refiner(service, given, model),
        **await read_scripts(service, given),
    }
    if has_image:
        fields |= await read_sources(service, given, warnings)
        fields |= _of_several(fields)
    elif given.flag("enable_hr"):
        fields["hires"] = _hires(given)
    _note(given, settings, warnings)
    work = await asyncio.to_thread(service.make_work, fields, given.whole("n_iter", 1), model, "sdapi", _task(given))
    return Asked(work, body, tuple(warnings), given.flag("send_images", True))


def _check_lacking(given: Given) -> None:
    for name, idle in _LACKING.items():
        if given.has(name) and given.fields[name] not in idle:
            raise refuse(
                422, f"{name} is {brief(given.fields[name])}, which this service cannot do; leave it out", name
            )


def _seed(given: Given, name: str) -> int | None:
    seed = given.whole(name)
    return None if seed is None or seed < 0 else seed


def _clip_skip(settings: Given, option: int) -> int | None:
    layers = settings.whole("CLIP_stop_at_last_layers", option)
    return layers - _LATER if layers > _LATER else None


def _variation(given: Given, warnings: list[str]) -> dict[str, Any]:
    strength = given.number("subseed_strength", 0.0)
    resized = [name for name in ("seed_resize_from_w", "seed_resize_from_h") if given.number(name, 0) > 0]
    if resized and strength:
        raise refuse(
            422, f"{resized[0]} is given, and noise of another size is not made here; leave it out", resized[0]
        )
    if resized:
        warnings.append(f"{resized[0]} has no effect here")
    if not strength:
        return {}
    return {"variation_seed": _seed(given, "subseed"), "variation_strength": strength}


def _refiner(service: Service, given: Given, model: str) -> dict[str, Any]:
    name, share = given.text("refiner_checkpoint"), given.number("refiner_switch_at")
    if name in ("", "None") or share is None:
        return {}
    if service.catalog.models[model].refiner is None:
        raise refuse(
            422,
            f"refiner_checkpoint is {brief(name)}, and {model} has no refiner here; leave it out",
            "refiner_checkpoint",
        )
    return {"refine_at": share}


def _of_several(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of several images, each is one of the batch."""
    count, most = len(fields["image"]), fields["num_images"]
    if count == 1:
        return {}
    if count > most:
        raise ArgumentError(f"init_images has {count} entries and batch_size is {most}; expected as many or fewer")
    return {"prompt": [fields["prompt"]] * count, "num_images": 1}


def _hires(given: Given) -> dict[str, Any]:
    """The second pass. A side of 0 is that which keeps the proportions."""
    if given.text("hr_checkpoint_name") not in ("", "Use same checkpoint"):
        raise refuse(422, "hr_checkpoint_name is given, and both passes have one model here; leave it out")
    sampler, schedule = read_names(given, "hr_sampler_name", "hr_scheduler")
    values = {
        **_enlarged(given),
        "upscaler": _upscaler(given),
        "steps": given.whole("hr_second_pass_steps", 0) or None,
        "strength": given.number("denoising_strength", 0.75),
        "prompt": given.text("hr_prompt") or None,
        "negative_prompt": given.text("hr_negative_prompt") or None,
        "sampler": sampler,
        "schedule": schedule,
    }
    return {name: value for name, value in values.items() if value is not None}


def _upscaler(given: Given) -> str:
    """None, which is in the list of upscalers, enlarges by Lanczos, as there."""
    name = given.text("hr_upscaler") or "Latent"
    return "Lanczos" if name == "None" else name


def _enlarged(given: Given) -> dict[str, Any]:
    width, height = given.whole("hr_resize_x", 0), given.whole("hr_resize_y", 0)
    first = given.whole("width"), given.whole("height")
    if not width and not height:
        return {"scale": given.number("hr_scale", 2.0)}
    if width and height:
        return {"size": [height, width]}
    if first[0] is None or first[1] is None:
        raise ArgumentError("hr_resize_x or hr_resize_y is given alone; give both, or width and height too")
    return {"size": [height, height * first[0] // first[1]] if height else [width * first[1] // first[0], width]}


def _task(given: Given) -> str | None:
    name = given.text("force_task_id")
    if len(name) > _MOST_ID:
        raise ArgumentError(f"force_task_id has {len(name)} characters; expected at most {_MOST_ID}")
    return name or None


def _note(given: Given, settings: Given, warnings: list[str]) -> None:
    """Warnings of what has no effect."""
    if styles := given.items("styles"):
        warnings.append(f"styles has {brief(styles[0])}, and there are no prompt styles here")
    if (vae := settings.fields.get("sd_vae")) not in _VAE:
        warnings.append(f"sd_vae is {brief(vae)}; each model here has its own VAE")
    if given.flag("save_images"):
        warnings.append("save_images has no effect: the service writes no files")
