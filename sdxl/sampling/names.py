"""Names of samplers and schedules in AUTOMATIC1111, ComfyUI, k-diffusion and diffusers, from the records. Imports no
torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ArgumentError, brief
from .samplers import SAMPLERS
from .schedules import SCHEDULES

MISSING = {
    "plms": "lms",
    "dpm_fast": "dpmpp_2m",
    "dpm_adaptive": "dpmpp_2m",
    "dpm_ad": "dpmpp_2m",
    "seeds_2": "dpmpp_sde",
    "seeds_3": "dpmpp_3m_sde",
    "sa_solver": "dpmpp_2m_sde",
    "sa_solver_pece": "dpmpp_2m_sde",
    "heunpp2": "heun",
    "deis": "uni_pc_bh2",
    "ipndm": "lms",
    "ipndm_v": "lms",
    "er_sde": "dpmpp_3m_sde",
    "restart": "heun",
    "gradient_estimation": "dpmpp_2m",
    "dpm++2mv2": "dpmpp_2m",
    "dpmpp_2m_cfg_pp": "euler_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp": "euler_ancestral_cfg_pp",
    "res_multistep_cfg_pp": "euler_cfg_pp",
    "DDIM CFG++": "euler_cfg_pp",
    "PNDMScheduler": "lms",
    "DEISMultistepScheduler": "uni_pc_bh2",
    "SASolverScheduler": "dpmpp_2m_sde",
    "IPNDMScheduler": "lms",
    "DPMSolverSinglestepScheduler": "dpmpp_2m",
}
"""Samplers of other tools that are left out on purpose, and the nearest one."""
MISSING_SCHEDULES = {
    "linear_quadratic": "sgm_uniform",
    "Align Your Steps GITS": "align_your_steps",
    "Align Your Steps 11": "align_your_steps",
    "Align Your Steps 32": "align_your_steps",
    "gits": "align_your_steps",
}
AUTOMATIC = "automatic"


def read_sampler(name: str) -> tuple[str, str | None]:
    """Our sampler for its name in any tool, and our schedule where the name ends with one ("DPM++ 2M Karras"). Raises
    `ArgumentError`, which names the nearest sampler for one that is left out on purpose.
    """
    if name in SAMPLERS:
        return name, None
    known, own = _known(SAMPLERS), _key(name)
    if own in known:
        return known[own], None
    if (missing := _missing(MISSING, own)) is not None:
        raise ArgumentError(f"sampler is {brief(name)}, which is left out on purpose. Try {missing}, the nearest one")
    for ending, schedule in _endings():
        if not own.endswith(ending):
            continue
        front = own.removesuffix(ending)
        if front in known:
            return known[front], schedule
        if (missing := _missing(MISSING, front)) is not None:
            raise ArgumentError(
                f"sampler is {brief(name)}, which is left out on purpose. Try {missing} with schedule {schedule}"
            )
    raise ArgumentError(f"sampler is {brief(name)}; it must be one of {', '.join(sorted(SAMPLERS))}")


def read_schedule(name: str, sampler: str | None) -> str | None:
    """Our schedule for its name in any tool; that of AUTOMATIC1111's Automatic belongs to our `sampler`. Raises
    `ArgumentError`.
    """
    if name in SCHEDULES:
        return name
    known, own = _known(SCHEDULES), _key(name)
    if own == AUTOMATIC:
        return None if sampler is None else SAMPLERS[sampler].automatic
    if own in known:
        return known[own]
    if (missing := _missing(MISSING_SCHEDULES, own)) is not None:
        raise ArgumentError(f"schedule is {brief(name)}, which is left out on purpose. Try {missing}, the nearest one")
    raise ArgumentError(f"schedule is {brief(name)}; it must be one of {', '.join(SCHEDULES)}")


def _key(name: str) -> str:
    """A name without regard to case, spaces and marks."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p"))


def _known(table: Mapping[str, Any]) -> dict[str, str]:
    """Our names by the key of every name; our own take precedence, and then those of the first record."""
    found: dict[str, str] = {_key(name): name for name in table}
    for name, record in table.items():
        for other in _others(record):
            found.setdefault(_key(other), name)
    return found


def _others(record: Any) -> Iterator[str]:
    """The names that other tools have for a sampler or a schedule."""
    if record.a1111 is not None:
        yield record.a1111
    if hasattr(record.diffusers, "name"):
        yield record.diffusers.name
    yield from record.names


def _endings() -> list[tuple[str, str]]:
    """How the names of samplers may end, and the schedule that it stands for; the longest first."""
    endings = {**_known(SCHEDULES), "ka": "karras"}
    return sorted(endings.items(), key=lambda each: -len(each[0]))


def _missing(table: Mapping[str, str], key: str) -> str | None:
    keys = {_key(name): nearest for name, nearest in table.items()}
    return keys.get(key.removeprefix("k"))
