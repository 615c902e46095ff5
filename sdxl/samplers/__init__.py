"""The samplers: generators of steps over a list of sigmas, which know only `denoised = denoise(x, sigma)`."""

from .ddim import ddim
from .dpmpp import dpmpp_2m
from .euler import euler, euler_ancestral
from .heun import heun
from .step import Denoiser, Noise, Sampler, Step

SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
}

__all__ = ["SAMPLERS", "Denoiser", "Noise", "Sampler", "Step"]
