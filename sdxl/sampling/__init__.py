"""Noise schedules, samplers, guidance, inpainting: all between a network and a finished x. Knows no network class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exports import exports

if TYPE_CHECKING:
    from .brownian import BrownianPath as BrownianPath
    from .denoiser import Network as Network
    from .denoiser import make_denoiser as make_denoiser
    from .guidance import Guidance as Guidance
    from .guidance import Guider as Guider
    from .inpaint import InpaintRegion as InpaintRegion
    from .inpaint import blend_known as blend_known
    from .names import read_sampler as read_sampler
    from .names import read_schedule as read_schedule
    from .prediction import Point as Point
    from .sampler import Denoiser as Denoiser
    from .sampler import Noise as Noise
    from .sampler import PairDenoiser as PairDenoiser
    from .sampler import Sampler as Sampler
    from .sampler import Step as Step
    from .sampler import euler_step as euler_step
    from .samplers import SAMPLERS as SAMPLERS
    from .schedule import NoiseTable as NoiseTable
    from .schedule import Schedule as Schedule
    from .schedule import make_schedule as make_schedule
    from .schedule import noise_table as noise_table
    from .schedules import SCHEDULES as SCHEDULES
    from .schedules import SigmaSchedule as SigmaSchedule
else:  # a type checker that saw it would take any name
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "brownian": ("BrownianPath",),
            "denoiser": ("Network", "make_denoiser"),
            "guidance": ("Guidance", "Guider"),
            "inpaint": ("InpaintRegion", "blend_known"),
            "names": ("read_sampler", "read_schedule"),
            "prediction": ("Point",),
            "sampler": ("Denoiser", "Noise", "PairDenoiser", "Sampler", "Step", "euler_step"),
            "samplers": ("SAMPLERS",),
            "schedule": ("NoiseTable", "Schedule", "make_schedule", "noise_table"),
            "schedules": ("SCHEDULES", "SigmaSchedule"),
        },
    )
