"""The samplers against k-diffusion's, on fixed sigmas and draws; skipped where k-diffusion is not installed.

Its sampling.py and utils.py are loaded alone: its other 40 dependencies are not needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("torchsde")
_package = PathFinder.find_spec("k_diffusion")
if _package is None:
    pytest.skip("k-diffusion is not installed", allow_module_level=True)

from sdxl.models.schedule_config import ScheduleConfig
from sdxl.pipeline.noise import Noise, TorchSource
from sdxl.sampling.samplers import SAMPLERS
from sdxl.sampling.schedule import make_schedule, noise_table
from sdxl.sampling.schedule_formulas import a1111, of_float32_alphas
from sdxl.sampling.variants import VARIANTS

UNUSED = {"torchdiffeq": {"odeint": None}, "torchvision.transforms": {"functional": None}, "torchvision": {}}


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """k-diffusion's sampling.py, with empty modules in place of those that no sampler needs."""
    pytest.importorskip("scipy")
    pytest.importorskip("torchsde")
    folder = Path(next(iter(_package.submodule_search_locations)))
    with pytest.MonkeyPatch.context() as patch:
        for name, values in UNUSED.items():
            module = ModuleType(name)
            vars(module).update(values)
            patch.setitem(sys.modules, name, module)
        package = ModuleType("k_diffusion")
        package.__path__ = [str(folder)]
        patch.setitem(sys.modules, "k_diffusion", package)
        for name in ("utils", "sampling"):
            spec = spec_from_file_location(f"k_diffusion.{name}", folder / f"{name}.py")
            module = module_from_spec(spec)
            patch.setitem(sys.modules, f"k_diffusion.{name}", module)
            setattr(package, name, module)
            spec.loader.exec_module(module)
        yield package.sampling


def wavy(x: torch.Tensor, sigma: Any, **_: Any) -> torch.Tensor:
    """A made-up model, neither linear nor separable."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return torch.sin(x / (1 + sigma) + x.roll(1, -1) / 7) * 2 / (1 + sigma / 5)


def fresh(shape: torch.Size) -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return lambda *_: torch.randn(shape, generator=generator, dtype=torch.float64)


LISTS = {
    "karras": make_schedule(ScheduleConfig(), "karras", 8, "euler").sigmas,
    "leading": make_schedule(ScheduleConfig(), "leading", 12, "euler").sigmas,
    "short": (9.0, 1.0, 0.0),
    "above zero": (14.6, 9.0, 5.0, 2.5, 1.1),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("euler", {}),
    ("euler_ancestral", {}),
    ("euler_ancestral", {"eta": 0.5, "s_noise": 1.1}),
    ("heun", {}),
    ("dpm_2", {}),
    ("dpm_2_ancestral", {}),
    ("dpm_2_ancestral", {"eta": 0.3, "s_noise": 0.9}),
    ("dpmpp_2s_ancestral", {}),
    ("dpmpp_2s_ancestral", {"eta": 0.0}),
    ("dpmpp_2m", {}),
    ("dpmpp_sde", {}),
    ("dpmpp_sde", {"eta": 0.4, "r": 0.3, "s_noise": 1.05}),
    ("dpmpp_2m_sde", {}),
    ("dpmpp_2m_sde", {"eta": 0.5}),
    ("dpmpp_2m_sde_heun", {}),
    ("dpmpp_3m_sde", {}),
    ("dpmpp_3m_sde", {"eta": 0.6, "s_noise": 0.8}),
    ("lms", {}),
    ("lms", {"order": 2}),
]
CHURN = {"s_churn": 4.0, "s_noise": 1.003}


def both(reference: Any, name: str, sigmas: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sigmas[0]
    sampler = VARIANTS["diffusers"]["lms"] if name == "lms" else SAMPLERS[name]  # whose last step extrapolates
    ours = list(sampler(wavy, x, sigmas, fresh(x.shape), **options))[-1].x
    function = getattr(reference, f"sample_{name.removesuffix('_heun')}")
    more: dict[str, Any] = {"solver_type": "heun"} if name.endswith("_heun") else {}
    if "noise_sampler" in signature(function).parameters:
        more["noise_sampler"] = fresh(x.shape)
    expected = function(wavy, x, torch.tensor(sigmas, dtype=torch.float64), disable=True, **options, **more)
    return ours, expected


@pytest.mark.parametrize("sigmas", LISTS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_samplers_equal_k_diffusions(
    name: str, options: dict[str, Any], sigmas: str, reference: Any, error: Any
) -> None:
    ours, expected = both(reference, name, LISTS[sigmas], options)
    assert error(ours, expected) < 1e-6


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2"])
def test_churn_equals_k_diffusions(name: str, reference: Any, error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas = LISTS["karras"]
    draw = fresh(torch.Size((2, 4, 3, 3)))
    monkeypatch.setattr(reference, "torch", SimpleNamespace(**vars(torch) | {"randn_like": draw}))
    ours, expected = both(reference, name, sigmas, CHURN)
    assert error(ours, expected) < 1e-6
    plain, _ = both(reference, name, sigmas, {})
    assert error(ours, plain) > 1e-2


def test_sigmas_and_noise_of_automatic1111(reference: Any) -> None:
    """Its noise levels come from alphas in float32. A Brownian path shows their last bits."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0).float()
    table = ((1 - alphas) / alphas) ** 0.5
    levels = reference.get_sigmas_karras(8, float(table[0]), float(table[-1]))
    found = a1111(of_float32_alphas(noise_table(ScheduleConfig())), "karras", 8, "dpmpp_2m_sde", "leading", {})
    assert found is not None
    assert list(found[0]) == levels.tolist()
    tree = reference.BrownianTreeNoiseSampler(torch.zeros(1, 4, 8, 8), levels[-2], levels[0], seed=[5])
    source = TorchSource(torch.Generator())
    path = Noise([source], 1, (4, 8, 8), torch.device("cpu")).paths([5], found[0])
    for sigma, to in pairwise(levels[:-1]):
        assert (path(float(sigma), float(to)) - tree(sigma, to)).abs().max() < 1e-5
