"""`compat="a1111"`: AUTOMATIC1111's noise, sigmas, contexts, start, steps and blends against their rules restated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import comfyui
import numpy as np
import pytest
import tiny
import torch
from PIL import Image, ImageFilter

import sdxl
from sdxl.pipeline.noise import make_noise, step_noise
from sdxl.sampling.guidance import NEGATIVE, POSITIVE
from sdxl.sampling.philox import Philox, philox_normal

TOLERANCE = 5e-5
PROMPT = "A mecha robot in a favela"
LATENT: dict[str, Any] = {"output": "latent", "progress": False}
SIZE = {"width": 64, "height": 64}
TEXT = [(PROMPT, 1.0)]
IDS = (64, 64, 0, 0, 64, 64)
CPU = torch.device("cpu")


class Table(comfyui.Table):
    """From alphas in float32. The UNet gets timesteps with fractions, between whole ones in log sigma."""

    def __init__(self) -> None:
        super().__init__()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alphas = torch.cumprod(1 - betas, 0).float()
        self.sigmas = ((1 - alphas) / alphas) ** 0.5
        self.logs = self.sigmas.log()
        self.low, self.high = float(self.sigmas[0]), float(self.sigmas[-1])

    def network_timestep(self, sigma: float) -> Any:
        logs = self.sigmas.double().log().numpy()
        return float(np.interp(math.log(sigma), logs, np.arange(1000)))


@pytest.fixture(scope="module")
def model(reference_pipe: Any) -> comfyui.Model:
    own = comfyui.Model(reference_pipe)
    own.table = Table()
    return own


def plan_of(pipe: sdxl.Pipeline, **arguments: Any) -> Any:
    return pipe.plan(sdxl.Request(**{"prompt": PROMPT, "seed": 5, "steps": 5, "compat": "a1111"} | arguments))


def zeros(text: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros_like(text[0]), torch.zeros_like(text[1])


# ---- noise


def test_philox_against_its_check_values() -> None:
    """Those that AUTOMATIC1111 documents for seed 0."""
    expected = np.array([-0.92466259, -0.42534415, -2.6438457, 0.14518388])
    assert np.abs(philox_normal(0, 0, 4) - expected).max() < 5e-7


@pytest.mark.parametrize("seed", [0, 5, 2**32 + 7, 2**64 - 1])
def test_philox_number_by_number(seed: int) -> None:
    source = Philox(seed)
    for draw in range(3):
        assert (source.randn((2, 3, 5)).flatten() - comfyui.philox(seed, draw, 30)).abs().max() < 1e-6


def test_philox_is_normal() -> None:
    x = philox_normal(3, 0, 10**6).astype(np.float64)
    assert abs(x.mean()) < 5e-3
    assert abs(x.std() - 1) < 5e-3
    assert abs((x**4).mean() - 3) < 0.05
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5e-3


@pytest.mark.parametrize(
    ("compat", "kind"), [("a1111", "philox"), ("a1111,noise=cpu", "cpu"), ("a1111,ensd=31337", "philox")]
)
def test_noise_of_each_image(compat: str, kind: str, tiny_pipe: sdxl.Pipeline) -> None:
    """A generator for each image, which goes on in the steps; with ENSD another one after the first draw."""
    plan = plan_of(tiny_pipe, num_images=2, sampler="euler_ancestral", compat=compat)
    noise = make_noise(plan, (4, 8, 8), CPU)

    def drawn(seed: int, draw: int) -> torch.Tensor:
        if kind == "philox":
            return comfyui.philox(seed, draw, 256).reshape(4, 8, 8)
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(1, 4, 8, 8, generator=generator)[0] for _ in range(draw + 1)][-1]

    ensd = 31337 if "ensd" in compat else 0
    expected = [torch.stack([drawn(seed, 0) for seed in (5, 6)])]
    first = 0 if ensd else 1
    expected += [torch.stack([drawn(seed + ensd, first + n) for seed in (5, 6)]) for n in range(2)]
    found = [noise.draw()]
    of_steps = step_noise(plan, noise)(plan.sigmas)
    found += [of_steps(2.0, 1.0) for _ in range(2)]
    for own, other in zip(found, expected, strict=True):
        assert (own - other).abs().max() < 1e-6


def test_a_tree_of_each_image(tiny_pipe: sdxl.Pipeline) -> None:
    """Its numbers are Philox's too: over the whole range it is the first draw of the tree's root."""
    plan = plan_of(tiny_pipe, num_images=2, sampler="dpmpp_2m_sde", schedule="karras")
    of_steps = step_noise(plan, make_noise(plan, (4, 8, 8), CPU))(plan.sigmas)
    sigmas = plan.schedule.sigmas
    found = of_steps(sigmas[0], sigmas[-2])
    for row, seed in zip(found, (5, 6), strict=True):
        root = int(np.random.SeedSequence(entropy=seed, pool_size=24).generate_state(3)[0])
        assert (row.flatten() + comfyui.philox(root, 0, 256)).abs().max() < 1e-5


@pytest.mark.parametrize(("sampler", "draws"), [("euler", 5), ("heun", 5), ("dpm_2", 5), ("euler_ancestral", 4)])
def test_draws_of_a_run(sampler: str, draws: int, tiny_pipe: sdxl.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a second pass would go on from."""
    seen: list[int] = []
    old = Philox.randn
    monkeypatch.setattr(Philox, "randn", lambda self, shape: (seen.append(1), old(self, shape))[1])
    tiny_pipe(PROMPT, compat="a1111", seed=5, steps=5, sampler=sampler, schedule="karras", **SIZE, **LATENT)
    assert len(seen) == draws + 1


# ---- sigmas


def restated(name: str, n: int) -> list[float]:
    table, stats = Table(), pytest.importorskip("scipy.stats")
    if name == "beta":
        shares = stats.beta.ppf(1 - np.arange(n) / (n - 1), 0.6, 0.6)
        return [*(table.low + shares * (table.high - table.low)), 0.0]
    if name == "kl_optimal":
        u = np.arange(n + 1) / n
        return [*np.tan(u * math.atan(table.low) + (1 - u) * math.atan(table.high))]
    if name == "align_your_steps":
        levels = np.array([14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029])
        logs = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(levels)), np.log(levels))
        return [*np.exp(logs), 0.0]
    return comfyui.SCHEDULES[name](table, n)


@pytest.mark.parametrize("steps", [5, 7, 20])
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *(("Uniform", "normal"), ("Karras", "karras"), ("Exponential", "exponential"), ("SGM Uniform", "sgm_uniform")),
        *(("KL Optimal", "kl_optimal"), ("Align Your Steps", "align_your_steps"), ("Simple", "simple")),
        *(("DDIM", "ddim_uniform"), ("Beta", "beta")),
    ],
)
def test_sigmas(name: str, rule: str, steps: int, tiny_pipe: sdxl.Pipeline) -> None:
    sigmas = plan_of(tiny_pipe, sampler="Euler", schedule=name, steps=steps).sigmas
    assert np.allclose(sigmas, restated(rule, steps), rtol=2e-6, atol=1e-9)
    if rule in ("karras", "exponential"):  # to the last bit, as noise of a path needs it
        assert list(sigmas) == restated(rule, steps)


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [("Euler a", "normal"), ("DPM++ 2M", "karras"), ("DPM++ 2M SDE", "exponential"), ("DPM2 a", "karras")],
)
def test_automatic_schedules_and_discarded_sigmas(sampler: str, schedule: str, tiny_pipe: sdxl.Pipeline) -> None:
    plan = plan_of(tiny_pipe, sampler=sampler)
    discards = plan.request.sampler in ("dpm_2", "dpm_2_ancestral", "dpmpp_3m_sde")
    expected = restated(schedule, 5 + discards)
    expected = [*expected[:-2], expected[-1]] if discards else expected
    assert np.allclose(plan.sigmas, expected, rtol=2e-6, atol=1e-9)


def test_the_3m_sde_sampler_discards_a_sigma(tiny_pipe: sdxl.Pipeline) -> None:
    plan = plan_of(tiny_pipe, sampler="DPM++ 3M SDE", schedule="Karras")
    assert list(plan.sigmas) == [*restated("karras", 6)[:-2], 0.0]


def test_noise_is_left_by_kl_optimal(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    sigmas = restated("kl_optimal", 5)
    positive = model.encode(TEXT)
    denoise = model.denoiser(positive, zeros(positive), 5.0, IDS)
    noise = comfyui.philox(5, 0, 256).reshape(1, 4, 8, 8).double()
    expected = comfyui.euler(denoise, noise * sigmas[0], sigmas, lambda s, t: noise)
    own = {"sampler": "euler", "schedule": "kl_optimal", "steps": 5, "seed": 5, "compat": "a1111"}
    assert error(tiny_pipe(PROMPT, **own, **SIZE, **LATENT).images, expected) < TOLERANCE


# ---- steps and start


@pytest.mark.parametrize("steps", [1, 8, 20])
@pytest.mark.parametrize("strength", [0.05, 0.3, 0.5, 0.75, 1.0])
def test_steps_of_image_to_image(steps: int, strength: float, tiny_pipe: sdxl.Pipeline) -> None:
    image = Image.new("RGB", (64, 64))
    plan = plan_of(tiny_pipe, image=image, strength=strength, steps=steps, sampler="euler")
    left = int(min(strength, 0.999) * steps)
    assert list(plan.sigmas) == list(plan.schedule.sigmas)[steps - left - 1 :]
    assert plan.steps == left + 1
    if left > 1:
        assert plan_of(tiny_pipe, image=image, strength=strength, steps=steps, sampler="ddim").steps == left - 1


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim"])
def test_the_start_scale(sampler: str, tiny_pipe: sdxl.Pipeline) -> None:
    plan = plan_of(tiny_pipe, sampler=sampler)
    sigma = plan.sigmas[0]
    assert plan.schedule.start_scale == (math.sqrt(1 + sigma**2) if sampler == "ddim" else sigma)


def test_defaults(tiny_pipe: sdxl.Pipeline) -> None:
    plan = plan_of(tiny_pipe, image=Image.new("RGB", (64, 64)))
    assert (plan.request.strength, plan.request.prompt_syntax) == (0.75, "a1111")


# ---- text


@pytest.mark.parametrize("negative", [None, ""])
def test_an_empty_negative_prompt_is_zeros(negative: str | None, tiny_folder: Path, refiner_folder: Path) -> None:
    """For the refiner too; one of blanks is encoded."""
    pipe = sdxl.Pipeline.from_pretrained(tiny_folder, refiner=refiner_folder, dtype="float32", device="cpu")
    for expert in pipe.experts:
        encoded = expert.encode(plan_of(pipe, negative_prompt=negative), (NEGATIVE, POSITIVE))
        assert encoded[NEGATIVE].is_zero
        assert not encoded[NEGATIVE].context.any()
        assert encoded[POSITIVE].context.any()
        assert expert.encode(plan_of(pipe, negative_prompt=" "), (NEGATIVE,))[NEGATIVE].context.any()


def test_an_empty_negative_prompt_among_others(tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    """Each image as it is alone."""
    own: dict[str, Any] = {"compat": "a1111", "steps": 3, **SIZE, **LATENT}
    both = tiny_pipe([PROMPT] * 2, negative_prompt=["", "a dog"], seed=[5, 6], **own).images
    assert error(both[:1], tiny_pipe(PROMPT, seed=5, **own).images) < 1e-4
    assert error(both[1:], tiny_pipe(PROMPT, negative_prompt="a dog", seed=6, **own).images) < 1e-4


def test_clip_skip_of_the_first_encoder(tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    expert = tiny_pipe.experts[0]
    found = expert.encode(plan_of(tiny_pipe, clip_skip=1), (POSITIVE,))[POSITIVE]
    width = 16
    expected = torch.cat([model.encode(TEXT, -3)[0][..., :width], model.encode(TEXT)[0][..., width:]], dim=-1)
    assert error(found.context, expected) < 1e-5
    assert error(found.pooled, model.encode(TEXT)[1]) < 1e-5


def test_weights_and_chunks(tiny_pipe: sdxl.Pipeline) -> None:
    """As prompt_syntax a1111 alone, whose rules have tests of their own."""
    text = "a (red:1.3) [cat] BREAK photo of a dog"
    expert = tiny_pipe.experts[0]
    plans = [plan_of(tiny_pipe, prompt=text), plan_of(tiny_pipe, prompt=text, compat=None, prompt_syntax="a1111")]
    one, two = (expert.encode(plan, (POSITIVE,))[POSITIVE] for plan in plans)
    assert torch.equal(one.context, two.context)
    assert one.context.shape[1] == 2 * 77


# ---- whole runs


@pytest.mark.parametrize(
    "sampler", ["euler_ancestral", *(pytest.param(s, marks=pytest.mark.slow) for s in ("euler", "dpmpp_2m", "dpm_2"))]
)
def test_whole_runs(sampler: str, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """Zeros for no negative prompt, guidance below 1 too, timesteps with fractions, noise that goes on."""
    schedule = "normal" if "euler" in sampler else "karras"
    sigmas = restated(schedule, 5 + (sampler == "dpm_2"))
    sigmas = [*sigmas[:-2], 0.0] if sampler == "dpm_2" else sigmas
    positive = model.encode(TEXT)
    for cfg in (0.5, 5.0):
        denoise, noise = model.denoiser(positive, zeros(positive), cfg, IDS), comfyui.on_a_card(7, (1, 4, 8, 8))
        expected = comfyui.sample(denoise, sampler, sigmas, noise(0, 0) * sigmas[0], noise)
        own = {"seed": 7, "sampler": sampler, "steps": 5, "guidance_scale": cfg, "compat": "a1111"}
        assert error(tiny_pipe(PROMPT, **own, **SIZE, **LATENT).images, expected) < TOLERANCE


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting(strength: float, tiny_pipe: sdxl.Pipeline, model: comfyui.Model, error: Any) -> None:
    """The mask by PIL's bicubic filter and rounded; the guess's known part is the image, the input is left alone; from
    the image with noise at strength 1 too.
    """
    image, mask = tiny.picture(1, 64, 64), tiny.mask(2).filter(ImageFilter.GaussianBlur(4))
    z = model.encode_image(comfyui.pixels_of(image))
    small = np.around(np.asarray(mask.convert("RGB").resize((8, 8)), dtype=np.float64)[..., 0] / 255)
    m = torch.from_numpy(small)[None, None]
    sigmas = restated("normal", 6)[6 - int(6 * min(strength, 0.999)) - 1 :]
    positive = model.encode(TEXT)
    plain = model.denoiser(positive, zeros(positive), 5.0, IDS)
    noise = comfyui.on_a_card(7, (1, 4, 8, 8))
    x = z + noise(0, 0) * sigmas[0]
    blended = comfyui.euler_ancestral(lambda x, s: plain(x, s) * m + z * (1 - m), x, sigmas, noise)
    expected = blended * m + z * (1 - m)
    own = {"seed": 7, "sampler": "Euler a", "steps": 6, "strength": strength, "compat": "a1111"}
    images = tiny_pipe(PROMPT, image=image, mask=mask, **own, **LATENT).images
    assert error(images, expected) < TOLERANCE
