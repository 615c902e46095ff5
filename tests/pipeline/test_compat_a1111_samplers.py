"""`compat="a1111"`: DDIM and LCM, which are no list of sigmas in AUTOMATIC1111, and its refiner, restated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import comfyui
import numpy as np
import pytest
import tiny
import torch
from test_compat_a1111 import IDS, LATENT, PROMPT, SIZE, TEXT, TOLERANCE, Table, plan_of, zeros

import sdxl

Tensor = torch.Tensor


class LCMTable(Table):
    """50 timesteps, of which the UNet gets the nearest one in log sigma."""

    def network_timestep(self, sigma: float) -> Any:
        logs = self.sigmas.double().log()[19::20]
        return 19 + 20 * int((logs - math.log(sigma)).abs().argmin())


def model_of(pipe: Any, table: Table) -> comfyui.Model:
    own = comfyui.Model(pipe)
    own.table = table
    return own


# ---- DDIM


def ddim(denoise: comfyui.Denoise, x: Tensor, timesteps: Sequence[int]) -> Tensor:
    """In the latents' own scale, from the last of rising timesteps to the first."""
    alphas = 1 / (1 + Table().sigmas.double() ** 2)
    for k in reversed(range(1, len(timesteps))):
        a, to = float(alphas[timesteps[k]]), float(alphas[timesteps[k - 1]])
        sigma = math.sqrt(1 / a - 1)
        guess = denoise(x / math.sqrt(a), sigma)
        noise = (x / math.sqrt(a) - guess) / sigma
        x = math.sqrt(to) * guess + math.sqrt(1 - to) * noise
    return x


@pytest.mark.parametrize("steps", [5, 7])
def test_ddim(steps: int, tiny_pipe: sdxl.Pipeline, reference_pipe: Any, error: Any) -> None:
    """Its timesteps are its own without a schedule, begin at 1, and the step from there is left out."""
    model = model_of(reference_pipe, Table())
    text = model.encode(TEXT)
    noise = comfyui.philox(7, 0, 256).reshape(1, 4, 8, 8).double()
    expected = ddim(model.denoiser(text, zeros(text), 5.0, IDS), noise, range(1, 1000, 1000 // steps))
    found = tiny_pipe(PROMPT, seed=7, steps=steps, sampler="DDIM", compat="a1111", **SIZE, **LATENT).images
    assert error(found, expected) < TOLERANCE


def test_ddim_from_an_image(tiny_pipe: sdxl.Pipeline, reference_pipe: Any, error: Any) -> None:
    """The noise is that of timestep number int(8 * 0.5), the steps begin at the one below."""
    model = model_of(reference_pipe, Table())
    text, image = model.encode(TEXT), tiny.picture(1, 64, 64)
    z, noise = model.encode_image(comfyui.pixels_of(image)), comfyui.philox(7, 0, 256).reshape(1, 4, 8, 8).double()
    timesteps = [*range(1, 1000, 125)]
    alpha = float(1 / (1 + Table().sigmas[timesteps[4]].double() ** 2))
    x = z * math.sqrt(alpha) + noise * math.sqrt(1 - alpha)
    expected = ddim(model.denoiser(text, zeros(text), 5.0, IDS), x, timesteps[:4])
    own: dict[str, Any] = {"seed": 7, "steps": 8, "sampler": "DDIM", "strength": 0.5, "compat": "a1111"}
    assert error(tiny_pipe(PROMPT, image=image, **own, **LATENT).images, expected) < TOLERANCE


# ---- LCM


@pytest.mark.parametrize(("schedule", "steps"), [(None, 4), ("Karras", 5), ("SGM Uniform", 3)])
def test_lcm(schedule: str | None, steps: int, tiny_pipe: sdxl.Pipeline, reference_pipe: Any, error: Any) -> None:
    """Its schedules lie within the 50 timesteps. The boundary conditions of LCM are in the reference."""
    model, text_table = model_of(reference_pipe, LCMTable()), Table().sigmas[19::20].double()
    if schedule == "Karras":
        low, high = (float(text_table[n]) ** (1 / 7) for n in (0, -1))
        sigmas = [(high + n / (steps - 1) * (low - high)) ** 7 for n in range(steps)]
    else:
        places = np.linspace(49, 0, steps + (schedule is not None))[:steps]
        sigmas = [*np.exp(np.interp(places, np.arange(50), text_table.log().numpy()))]
    text = model.encode(TEXT)
    denoise, noise = model.denoiser(text, zeros(text), 1.5, IDS), comfyui.on_a_card(7, (1, 4, 8, 8))

    def bounded(x: Tensor, sigma: float) -> Tensor:
        t = 10.0 * model.table.network_timestep(sigma)
        return t / math.sqrt(t**2 + 0.25) * denoise(x, sigma) + 0.25 / (t**2 + 0.25) * x

    expected = comfyui.lcm(bounded, noise(0, 0) * sigmas[0], [*sigmas, 0.0], noise)
    own: dict[str, Any] = {"seed": 7, "steps": steps, "sampler": "LCM", "schedule": schedule, "guidance_scale": 1.5}
    assert error(tiny_pipe(PROMPT, compat="a1111", **own, **SIZE, **LATENT).images, expected) < TOLERANCE


# ---- the refiner


@pytest.mark.parametrize("refine_at", [0.55, 0.8, 0.85])
@pytest.mark.parametrize("steps", [9, 20, 30])
def test_the_hand_over(steps: int, refine_at: float, pair_pipe: sdxl.Pipeline) -> None:
    """The base runs while the part of the whole timesteps that are done, (999 - t) / 1000, is below; t is that of the
    nearest sigma.
    """
    plan = plan_of(pair_pipe, steps=steps, sampler="DPM++ 2M", schedule="Karras", refine_at=refine_at)
    table = Table().sigmas
    nearest = [int((table - sigma).abs().argmin()) for sigma in plan.schedule.sigmas[:-1]]
    assert plan.handoff == sum((999 - t) / 1000 < refine_at for t in nearest)


@pytest.fixture(scope="module")
def pair_pipe(tiny_folder: Any, refiner_folder: Any) -> sdxl.Pipeline:
    return sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")


# ---- Forge


@pytest.mark.parametrize("strength", [None, 0.6])
def test_forge(strength: float | None, tiny_pipe: sdxl.Pipeline, reference_pipe: Any, error: Any) -> None:
    """Whole timesteps, nearest in log sigma; with a mask the input's known part is the image with noise too."""
    model = model_of(reference_pipe, comfyui.Table())
    text, noise = model.encode(TEXT), comfyui.on_a_card(7, (1, 4, 8, 8))
    denoise, sigmas = model.denoiser(text, zeros(text), 5.0, IDS), comfyui.karras(comfyui.Table(), 5)
    own: dict[str, Any] = {
        "seed": 7,
        "steps": 5,
        "sampler": "euler_ancestral",
        "schedule": "karras",
        "strength": strength,
    }
    own["compat"] = {"profile": "a1111", "timesteps": "nearest", "alphas": "exact", "known": "always"}
    if strength is None:
        expected = comfyui.euler_ancestral(denoise, noise(0, 0) * sigmas[0], sigmas, noise)
        assert error(tiny_pipe(PROMPT, **own, **SIZE, **LATENT).images, expected) < TOLERANCE
        return
    image, mask = tiny.picture(1, 64, 64), tiny.mask(2)
    z, sigmas = model.encode_image(comfyui.pixels_of(image)), sigmas[5 - int(5 * strength) - 1 :]
    small = np.around(np.asarray(mask.convert("RGB").resize((8, 8)), dtype=np.float64)[..., 0] / 255)
    first = noise(0, 0)
    blended = comfyui.masked(denoise, z, first, torch.from_numpy(small)[None, None])
    expected = comfyui.euler_ancestral(blended, z + first * sigmas[0], sigmas, noise)
    assert error(tiny_pipe(PROMPT, image=image, mask=mask, **own, **LATENT).images, expected) < TOLERANCE
