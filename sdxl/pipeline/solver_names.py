"""Names that other programs have for our samplers and schedules, for hints in error messages."""

from __future__ import annotations

import re

from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES

_MORE = {"normal": "linspace", "sgmuniform": "sgm", "ddimuniform": "leading", "discrete": "leading"}  # ComfyUI's


def translate(value: object) -> str:
    """What another program's name of a sampler or schedule is here, as the end of a sentence; "" for an unknown one."""
    plain = _plain(str(value)[:100])
    samplers = {_plain(other): name for name in SAMPLERS for other in _sampler_names(name)}
    schedules = {_plain(other): name for name in SCHEDULES for other in (name, SCHEDULES[name].a1111) if other} | _MORE
    for ending, schedule in (("", ""), *schedules.items()):
        if plain.endswith(ending) and (sampler := samplers.get(plain[: len(plain) - len(ending)])):
            return f"; that is sampler {sampler}" + (f" with schedule {schedule}" if schedule else "")
    return f"; that is schedule {schedules[plain]}" if plain in schedules else ""


def _sampler_names(name: str) -> list[str]:
    sampler = SAMPLERS[name]
    others = [sampler.a1111, sampler.diffusers.name if sampler.diffusers else None]
    return [name, *(other for other in others if other)]


def _plain(name: str) -> str:
    """A name without what programs write differently: k-diffusion's k_, diffusers' endings, signs."""
    short = re.sub("^(k|sample)_|(Discrete)?Scheduler$|_ode$", "", name.strip())
    return re.sub("[^a-z0-9]", "", short.lower().replace("++", "pp"))
