"""UniPC (Zhao et al. 2023, arXiv 2302.04867): a multistep predictor, and a corrector that costs no call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from ..sampler import Denoiser, Noise, Sampler, Scheduler, Step

if TYPE_CHECKING:
    from torch import Tensor


def _weights(ratios: Sequence[float], hh: float, scale: float) -> list[float]:
    """The weights of the differences at `ratios` of the step: R rho = b of the paper's equation 4."""
    import numpy as np

    if len(ratios) == 1:
        return [0.5]
    phi, b = math.expm1(hh) / hh - 1, []
    for k in range(1, len(ratios) + 1):
        b.append(phi * math.factorial(k) / scale)
        phi = phi / hh - 1 / math.factorial(k + 1)
    rows = [[ratio**k for ratio in ratios] for k in range(len(ratios))]
    return [float(weight) for weight in np.linalg.solve(np.array(rows), np.array(b))]


def _step(
    x: Tensor, guesses: Sequence[tuple[Tensor, float]], to: float, bh2: bool, final: Tensor | None = None
) -> Tensor:
    """From the newest guess's level to `to`: the prediction, or with the guess made there (`final`) the correction.

    `guesses` are guesses and their sigmas, newest first.
    """
    (newest, sigma), *older = guesses
    hh = math.log(to / sigma)  # the paper's h, with its sign for data prediction
    scale = math.expm1(hh) if bh2 else hh
    ratios = [math.log(each / sigma) / hh for _, each in older]
    differences = [(guess - newest) / ratio for (guess, _), ratio in zip(older, ratios, strict=True)]
    if final is not None:
        ratios, differences = [*ratios, 1.0], [*differences, final - newest]
    x = x * (to / sigma) - newest * math.expm1(hh)
    for weight, difference in zip(_weights(ratios, hh, scale) if ratios else (), differences, strict=True):
        x = x - difference * (scale * weight)
    return x


def _uni_pc(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    order: int = 2,
    bh2: bool = False,
    end: float = 0.0,
) -> Iterator[Step]:
    """Of an `order` of 1 to 4, deterministic, lower in the first steps and in the last ones before sigma 0. x is
    corrected when the guess at its level is made, so the last one is the prediction. With an `end` above 0, that is the
    last sigma in place of 0, and the order is lower in the last steps of every list. `bh2` takes the paper's second
    choice of B(h).
    """
    lowers = end > 0 or sigmas[-1] == 0
    sigmas = [*sigmas[:-1], sigmas[-1] or end]
    guesses: list[tuple[Tensor, float]] = []  # newest first
    before, used = x, 0  # where the last step began, and its order
    for i, (sigma, to) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        if guesses:
            x = _step(before, guesses[:used], sigma, bh2, final=denoised)
        guesses = [(denoised, sigma), *guesses[: order - 1]]
        used = min(i + 1, order, len(sigmas) - 1 - i if lowers else order)
        before, x = x, denoised if to == 0 else _step(x, guesses[:used], to, bh2)
        yield Step(x, denoised, to)


_FIXED = {
    "disable_corrector": [],
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "predict_x0": True,
    "solver_order": 2,
    "solver_p": None,
    "thresholding": False,
}
_DEFAULTS = {
    "disable_corrector": [],
    "lower_order_final": True,
    "predict_x0": True,
    "solver_order": 2,
    "solver_type": "bh2",
}

uni_pc_bh2 = Sampler(
    partial(_uni_pc, bh2=True),
    diffusers=Scheduler("UniPCMultistepScheduler", {**_FIXED, "solver_type": "bh2"}, _DEFAULTS),
    options={"order": 2},
)
uni_pc = Sampler(
    _uni_pc,
    a1111="UniPC",
    diffusers=Scheduler("UniPCMultistepScheduler", {**_FIXED, "solver_type": "bh1"}, _DEFAULTS),
    options={"order": 2},
)
