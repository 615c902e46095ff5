"""ComfyUI's conventions restated in float64, on diffusers' and transformers' networks: an independent reference.

Written from a description of the rules; it shares no code with the package. Only noise and noise levels are float32,
since ComfyUI's are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

Tensor = torch.Tensor
Denoise = Callable[[Tensor, float], Tensor]
NoiseSampler = Callable[[float, float], Tensor]
Segments = Sequence[tuple[str, float]]
"""The texts of a prompt with their weights, as its grammar splits it."""


class Table:
    """The noise levels of SDXL, in float32."""

    def __init__(self, zero_snr: bool = False) -> None:
        alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
        if zero_snr:
            root = alphas.sqrt()
            root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
            alphas = root**2
            alphas[-1] = 4.8973451890853435e-08
        exact = ((1 - alphas) / alphas).sqrt()
        self.sigmas, self.logs = exact.float(), exact.log().float()
        self.low, self.high = float(self.sigmas[0]), float(self.sigmas[-1])

    def network_timestep(self, sigma: float) -> int:
        return int((torch.tensor(sigma, dtype=torch.float32).log() - self.logs).abs().argmin())

    def at(self, timesteps: Tensor) -> list[float]:
        """Sigmas at timesteps with fractions."""
        found = []
        for t in timesteps:
            part = t.frac()
            log = (1 - part) * self.logs[int(t.floor())] + part * self.logs[int(t.ceil())]
            found.append(float(log.exp()))
        return found


def normal(table: Table, n: int) -> list[float]:
    return [*table.at(torch.linspace(999, 0, n)), 0.0]


def sgm_uniform(table: Table, n: int) -> list[float]:
    return [*table.at(torch.linspace(999, 0, n + 1)[:-1]), 0.0]


def simple(table: Table, n: int) -> list[float]:
    return [*(float(table.sigmas[-(1 + int(k * 1000 / n))]) for k in range(n)), 0.0]


def ddim_uniform(table: Table, n: int) -> list[float]:
    return [*(float(table.sigmas[t]) for t in reversed(range(1, 1000, 1000 // n))), 0.0]


def karras(table: Table, n: int) -> list[float]:
    low, high = table.low ** (1 / 7), table.high ** (1 / 7)
    return [*((high + torch.linspace(0, 1, n) * (low - high)) ** 7).tolist(), 0.0]


def exponential(table: Table, n: int) -> list[float]:
    return [*torch.linspace(math.log(table.high), math.log(table.low), n).exp().tolist(), 0.0]


def beta(table: Table, n: int) -> list[float]:
    stats = pytest.importorskip("scipy.stats")
    places = np.rint(stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6) * 999)
    return [*(float(table.sigmas[int(t)]) for t in dict.fromkeys(places)), 0.0]


def kl_optimal(table: Table, n: int) -> list[float]:
    u = torch.arange(n, dtype=torch.float32) / (n - 1)
    return [*(u * math.atan(table.low) + (1 - u) * math.atan(table.high)).tan().tolist(), 0.0]


SCHEDULES: dict[str, Callable[[Table, int], list[float]]] = {
    "normal": normal,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "ddim_uniform": ddim_uniform,
    "karras": karras,
    "exponential": exponential,
    "beta": beta,
    "kl_optimal": kl_optimal,
}
DISCARDS = ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")


def sigmas_of(table: Table, schedule: str, sampler: str, n: int, denoise: float = 1.0) -> list[float]:
    """The levels of a KSampler."""
    whole = n if denoise > 0.9999 else int(n / denoise)
    discards = sampler in DISCARDS
    found = SCHEDULES[schedule](table, whole + discards)
    found = [*found[:-2], found[-1]] if discards else found
    return found if denoise > 0.9999 else found[-(n + 1) :]


# ---- noise


def philox(seed: int, draw: int, count: int) -> Tensor:
    """Philox 4x32-10, number by number in Python's integers."""
    numbers = []
    for i in range(count):
        c, key = [draw, 0, i, 0], [seed & 0xFFFFFFFF, seed >> 32]
        for _ in range(10):
            a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [b >> 32 ^ c[1] ^ key[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ key[1], a & 0xFFFFFFFF]
            key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
        u, v = (c[0] + 0.5) / 2**32, 2 * math.pi * (c[1] + 0.5) / 2**32
        numbers.append(math.sqrt(-2 * math.log(u)) * math.sin(v))
    return torch.tensor(numbers, dtype=torch.float32)


def first_noise(seed: int, shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).double()


def on_a_card(seed: int, shape: Sequence[int]) -> NoiseSampler:
    draws = iter(range(1000))
    return lambda sigma, to: philox(seed, next(draws), math.prod(shape)).reshape(tuple(shape)).double()


def on_a_cpu(seed: int, shape: Sequence[int]) -> NoiseSampler:
    generator = torch.Generator().manual_seed(seed)
    return lambda sigma, to: torch.randn(tuple(shape), generator=generator).double()


def tree(seed: int, shape: Sequence[int], sigmas: Sequence[float]) -> NoiseSampler:
    """One Brownian tree for the whole batch, over the sigmas of this run."""
    torchsde = pytest.importorskip("torchsde")
    levels = torch.tensor(sigmas, dtype=torch.float32)
    low, high = levels[levels > 0].min(), levels.max()
    path = torchsde.BrownianTree(low, torch.zeros(tuple(shape)), high, entropy=seed)

    def sample(sigma: float, to: float) -> Tensor:
        begin, end = (torch.tensor(each, dtype=torch.float32) for each in (sigma, to))
        increment: Tensor = -path(end, begin)
        return increment.double() / (begin - end).double().sqrt()

    return sample


# ---- samplers: denoise(x, sigma), from x at sigmas[0]


def down_up(sigma: float, to: float) -> tuple[float, float]:
    up = min(to, math.sqrt(to**2 * (sigma**2 - to**2) / sigma**2))
    return math.sqrt(to**2 - up**2), up


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    for s, t in pairwise(sigmas):
        x = x + (x - denoise(x, s)) / s * (t - s)
    return x


def euler_ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    for s, t in pairwise(sigmas):
        guess, (down, up) = denoise(x, s), down_up(s, t)
        x = x + (x - guess) / s * (down - s)
        x = x + noise(s, t) * up if t > 0 else guess
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    for s, t in pairwise(sigmas):
        slope = (x - denoise(x, s)) / s
        guess = x + slope * (t - s)
        x = guess if t == 0 else x + (slope + (guess - denoise(guess, t)) / t) / 2 * (t - s)
    return x


def dpm_2(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler, ancestral: bool = False) -> Tensor:
    for s, t in pairwise(sigmas):
        slope, (down, up) = (x - denoise(x, s)) / s, down_up(s, t) if ancestral else (t, 0.0)
        if down == 0:
            x = x + slope * (down - s)
            continue
        m = math.exp((math.log(s) + math.log(down)) / 2)
        middle = x + slope * (m - s)
        x = x + (middle - denoise(middle, m)) / m * (down - s)
        x = x + noise(s, t) * up if up else x
    return x


def dpm_2_ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    return dpm_2(denoise, x, sigmas, noise, ancestral=True)


def dpmpp_2s_ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    for s, t in pairwise(sigmas):
        guess, (down, up) = denoise(x, s), down_up(s, t)
        if down == 0:
            x = guess
            continue
        h = math.log(s / down)
        m = s * math.exp(-h / 2)
        middle = m / s * x - math.expm1(-h / 2) * guess
        x = down / s * x - math.expm1(-h) * denoise(middle, m) + noise(s, t) * up
    return x


def dpmpp_sde(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    for s, t in pairwise(sigmas):
        guess = denoise(x, s)
        if t == 0:
            x = guess
            continue
        begin, end = (-torch.tensor(each, dtype=torch.float32).log() for each in (s, t))
        m = float((-(begin + 0.5 * (end - begin))).exp())
        down, up = down_up(s, m)
        middle = down / s * x + (1 - down / s) * guess + up * noise(s, m)
        second = denoise(middle, m)
        down, up = down_up(s, t)
        x = down / s * x + (1 - down / s) * second + up * noise(s, t)
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    old, last = None, 0.0
    for s, t in pairwise(sigmas):
        guess = denoise(x, s)
        if t == 0:
            return guess
        h = math.log(s / t)
        both = guess if old is None else (1 + h / last / 2) * guess - h / last / 2 * old
        x, old, last = t / s * x - math.expm1(-h) * both, guess, h
    return x


def dpmpp_2m_sde(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler, heun: bool = False
) -> Tensor:
    old, last = None, 0.0
    for s, t in pairwise(sigmas):
        guess = denoise(x, s)
        if t == 0:
            return guess
        h = math.log(s / t)
        a = 2 * h  # eta 1
        x = t / s * math.exp(-h) * x - math.expm1(-a) * guess
        if old is not None:
            weight = 1 + math.expm1(-a) / a if heun else -math.expm1(-a) / 2
            x = x + weight * h / last * (guess - old)
        x = x + noise(s, t) * t * math.sqrt(-math.expm1(-2 * h))
        old, last = guess, h
    return x


def dpmpp_2m_sde_heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    return dpmpp_2m_sde(denoise, x, sigmas, noise, heun=True)


def dpmpp_3m_sde(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    old: list[tuple[Tensor, float]] = []  # newest first
    for s, t in pairwise(sigmas):
        guess = denoise(x, s)
        if t == 0:
            return guess
        h = math.log(s / t)
        a = 2 * h  # eta 1
        x = t / s * math.exp(-h) * x - math.expm1(-a) * guess
        two = math.expm1(-a) / a + 1
        if len(old) == 2:
            r0, r1 = old[0][1] / h, old[1][1] / h
            near, far = (guess - old[0][0]) / r0, (old[0][0] - old[1][0]) / r1
            d1 = near + (near - far) * r0 / (r0 + r1)
            x = x + two * d1 - (two / a - 0.5) * (near - far) / (r0 + r1)
        elif old:
            x = x + two * (guess - old[0][0]) / (old[0][1] / h)
        x = x + noise(s, t) * t * math.sqrt(-math.expm1(-2 * h))
        old = [(guess, h), *old[:1]]
    return x


def lcm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    for s, t in pairwise(sigmas):
        x = denoise(x, s)
        x = x + noise(s, t) * t if t > 0 else x
    return x


def lms(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    slopes: list[Tensor] = []
    for i, (s, t) in enumerate(pairwise(sigmas)):
        guess = denoise(x, s)
        if t == 0:
            return guess
        slopes = [(x - guess) / s, *slopes][:4]
        for j, slope in enumerate(slopes):
            basis = np.polynomial.Polynomial([1.0])
            for k in range(len(slopes)):
                if k != j:
                    own, other = sigmas[i - j], sigmas[i - k]
                    basis = basis * np.polynomial.Polynomial([-other, 1.0]) / (own - other)
            whole = basis.integ()
            x = x + slope * float(whole(t) - whole(s))
    return x


def uni_pc(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler, variant: str = "bh1") -> Tensor:
    """arXiv 2302.04867 in data prediction, of order 3, in x / sqrt(1 + sigma^2); it ends at 0.001."""
    levels = [*sigmas[:-1], sigmas[-1] or 0.001]
    n = len(levels) - 1
    order = min(3, n - 1)

    def alpha(s: float) -> float:
        return 1 / math.sqrt(1 + s * s)

    past = [(denoise(x, levels[0]), levels[0])]
    y = x * alpha(levels[0])
    for i in range(1, n + 1):
        s, t, o = levels[i - 1], levels[i], min(i, order, n + 1 - i)
        h = math.log(s / t)
        newest = past[-1][0]
        rks = [math.log(s / past[-1 - k][1]) / h for k in range(1, o)]
        steps = [(past[-1 - k][0] - newest) / rk for k, rk in zip(range(1, o), rks, strict=True)]
        ratios = np.array([*rks, 1.0])
        scale = -h if variant == "bh1" else math.expm1(-h)
        rows, b, phi = [], [], math.expm1(-h) / -h - 1
        for k in range(1, o + 1):
            rows.append(ratios ** (k - 1))
            b.append(phi * math.factorial(k) / scale)
            phi = phi / -h - 1 / math.factorial(k + 1)
        matrix, right = np.stack(rows), np.array(b)
        corrector = np.array([0.5]) if o == 1 else np.linalg.solve(matrix, right)
        predictor = (
            np.array([0.5]) if o == 2 else np.linalg.solve(matrix[:-1, :-1], right[:-1]) if o > 2 else np.array([])
        )
        st = t * alpha(t) / (s * alpha(s))
        base = st * y - alpha(t) * math.expm1(-h) * newest
        guess = base
        for weight, d in zip(predictor, steps, strict=True):
            guess = guess - alpha(t) * scale * float(weight) * d
        if i == n:
            y = guess
            break
        at = denoise(guess / alpha(t), t)
        y = base
        for weight, d in zip(corrector, [*steps, at - newest], strict=True):
            y = y - alpha(t) * scale * float(weight) * d
        past.append((at, t))
    return y / alpha(levels[-1])


def uni_pc_bh2(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: NoiseSampler) -> Tensor:
    return uni_pc(denoise, x, sigmas, noise, "bh2")


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    each.__name__: each
    for each in (
        *(euler, euler_ancestral, heun, dpm_2, dpm_2_ancestral, dpmpp_2s_ancestral, dpmpp_sde, dpmpp_2m),
        *(dpmpp_2m_sde, dpmpp_2m_sde_heun, dpmpp_3m_sde, lcm, lms, uni_pc, uni_pc_bh2),
    )
} | {"ddim": euler}
SDE = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")


# ---- text


class Model:
    """A base model or a refiner of diffusers in float64, with ComfyUI's way from texts to its conditioning."""

    def __init__(self, pipe: Any, prediction: str = "epsilon", zero_snr: bool = False) -> None:
        self.unet, self.vae = (copy.deepcopy(each).double() for each in (pipe.unet, pipe.vae))
        pairs = [(pipe.text_encoder, pipe.tokenizer), (pipe.text_encoder_2, pipe.tokenizer_2)]
        self.encoders = [(copy.deepcopy(e).double(), tokenizer) for e, tokenizer in pairs if e is not None]
        self.table, self.prediction = Table(zero_snr), prediction

    @torch.no_grad()
    def encode(self, segments: Segments, layer: int = -2, segments_2: Segments | None = None) -> tuple[Tensor, Tensor]:
        """Context and pooled text; `layer` counts hidden states from the end."""
        texts = [segments, segments_2 or segments][-len(self.encoders) :]
        chunked = [chunks(tokenizer, own) for (_, tokenizer), own in zip(self.encoders, texts, strict=True)]
        count = max(map(len, chunked))
        states = []
        for (encoder, tokenizer), own in zip(self.encoders, chunked, strict=True):
            filled = [*own, *([([], [])] * (count - len(own)))]
            rows = [framed(tokenizer, ids, weights) for ids, weights in filled]
            hidden, pooled = self._states(encoder, [ids for ids, _ in rows], layer)
            empty, _ = self._states(encoder, [framed(tokenizer, [], [])[0]], layer)
            weights = torch.tensor([each for _, each in rows], dtype=torch.float64)[..., None]
            states.append((empty + (hidden - empty) * weights).flatten(0, 1))
        return torch.cat(states, dim=-1)[None], pooled[:1]

    def _states(self, encoder: Any, ids: list[list[int]], layer: int) -> tuple[Tensor, Tensor]:
        output = encoder(torch.tensor(ids), output_hidden_states=True)
        return output.hidden_states[layer], output[0]

    @torch.no_grad()
    def denoiser(
        self, cond: tuple[Tensor, Tensor], uncond: tuple[Tensor, Tensor], cfg: float, ids: Sequence[float], **more: Any
    ) -> Denoise:
        """CFG; `ids` are the numbers of the size conditioning, `channels` stand behind x, `rescale` is RescaleCFG's."""
        negative_ids, channels, rescale = more.get("negative_ids", ids), more.get("channels"), more.get("rescale", 0.0)

        def network(x: Tensor, sigma: float, text: tuple[Tensor, Tensor], numbers: Sequence[float]) -> Tensor:
            scaled = x / math.sqrt(sigma**2 + 1)
            if channels is not None:
                scaled = torch.cat([scaled, channels.expand(len(x), -1, -1, -1)], dim=1)
            rows = {"text_embeds": text[1].expand(len(x), -1)}
            rows["time_ids"] = torch.tensor([list(numbers)] * len(x), dtype=torch.float64)
            with torch.no_grad():
                out: Tensor = self.unet(
                    scaled, self.table.network_timestep(sigma), text[0].expand(len(x), -1, -1), added_cond_kwargs=rows
                ).sample
            if self.prediction == "epsilon":
                return x - sigma * out
            return x / (sigma**2 + 1) - out * sigma / math.sqrt(sigma**2 + 1)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            c = network(x, sigma, cond, ids)
            if math.isclose(cfg, 1):
                return c
            u = network(x, sigma, uncond, negative_ids)
            if not rescale:
                return u + cfg * (c - u)
            root = math.sqrt(sigma**2 + 1)
            base = x / (sigma**2 + 1)
            vc, vu = ((base - each) * root / sigma for each in (c, u))
            guided = vu + cfg * (vc - vu)
            restored = guided * (vc.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True))
            return base - (rescale * restored + (1 - rescale) * guided) * sigma / root

        return denoise

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """The mean latents of pixels (B, 3, H, W) in 0..1."""
        mean: Tensor = self.vae.encode(pixels.double() * 2 - 1).latent_dist.mean
        return mean * 0.13025

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(z / 0.13025).sample
        return (pixels / 2 + 0.5).clamp(0, 1)


def chunks(tokenizer: Any, segments: Segments) -> list[tuple[list[int], list[float]]]:
    """Chunks of 75 tokens: a segment of fewer than 8 moves whole to the next one, a longer one is cut."""
    found: list[tuple[list[int], list[float]]] = [([], [])]
    for text, weight in segments:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) < 8 and len(found[-1][0]) + len(ids) > 75:
            found.append(([], []))
        for number in ids:
            if len(found[-1][0]) == 75:
                found.append(([], []))
            found[-1][0].append(number)
            found[-1][1].append(weight)
    return found


def framed(tokenizer: Any, ids: list[int], weights: list[float]) -> tuple[list[int], list[float]]:
    left = 75 - len(ids)
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * left]
    return row, [1.0, *weights, *[1.0] * (left + 1)]


# ---- a KSampler


def start(table: Table, z: Tensor, noise: Tensor, sigma: float) -> Tensor:
    highest = sigma > table.high or math.isclose(sigma, table.high, rel_tol=1e-5)
    return z + noise * (math.sqrt(1 + sigma**2) if highest else sigma)


def masked(
    denoise: Denoise, z: Tensor, noise: Tensor, mask: Tensor, threshold: Callable[[float], float] | None = None
) -> Denoise:
    """A noise mask (B, 1, h, w) at the size of the latents."""

    def blended(x: Tensor, sigma: float) -> Tensor:
        m = mask if threshold is None else (mask >= threshold(sigma)).double()
        x = x * m + (z + noise * sigma) * (1 - m)
        return denoise(x, sigma) * m + z * (1 - m)

    return blended


def to_latents(mask: Tensor) -> Tensor:
    """A mask (H, W) in pixels at the size of the latents, (1, 1, h, w)."""
    height, width = mask.shape
    return F.interpolate(mask[None, None].double(), (height // 8, width // 8), mode="bilinear")


def sample(denoise: Denoise, sampler: str, sigmas: Sequence[float], x: Tensor, noise: NoiseSampler) -> Tensor:
    return SAMPLERS[sampler](denoise, x, sigmas, noise)


def pixels_of(image: Any) -> Tensor:
    """A PIL image as (1, 3, H, W), a mask as (H, W), in 0..1."""
    array = torch.from_numpy(np.array(image)).double() / 255
    return array if array.ndim == 2 else array.permute(2, 0, 1)[None]


def rows(texts: Iterable[str]) -> list[tuple[str, float]]:
    return [(text, 1.0) for text in texts]
