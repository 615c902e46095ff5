"""Samplers in whole runs on a tiny model: options, noise, lists of one's own, the hand-off and the record."""

from __future__ import annotations

import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sdxl
from sdxl.cli.main import main
from sdxl.errors import ArgumentError, SDXLWarning
from sdxl.sampling.samplers import SAMPLERS

LATENT: dict[str, Any] = {"seed": 3, "steps": 4, "output": "latent", "progress": False}
TREE = [name for name, record in SAMPLERS.items() if "noise" in record.options]


def latents(pipe: sdxl.Pipeline, prompt: Any = "a cat", **arguments: Any) -> torch.Tensor:
    if SAMPLERS[arguments.get("sampler", "euler")].with_pair:
        arguments = {"guidance_scale": 1.5} | arguments
    images = pipe(prompt, **LATENT | arguments).images
    assert isinstance(images, torch.Tensor)
    return images


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_alone_and_in_a_batch_the_same(sampler: str, tiny_pipe: sdxl.Pipeline, error: Any) -> None:
    together = latents(tiny_pipe, ["a cat", "a dog"], sampler=sampler, seed=[3, 8])
    assert error(latents(tiny_pipe, "a dog", sampler=sampler, seed=8), together[1:]) < 1e-4
    assert error(together[:1], together[1:]) > 1e-2


@pytest.mark.filterwarnings("ignore:the (model|refiner) has no effect")  # of one step
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_task_with_every_sampler(sampler: str, tiny_folder: Path, refiner_folder: Path) -> None:
    """Image to image, a mask, a hand-off above sigma 0, one step."""
    pipe = _refined(tiny_folder, refiner_folder)
    image, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    for more in ({"image": image, "strength": 0.5}, {"image": image, "mask": mask}, {"refine_at": 0.5}, {"steps": 1}):
        assert latents(pipe, **{"sampler": sampler, "width": 64, "height": 64} | more).isfinite().all()


_PIPES: dict[Path, sdxl.Pipeline] = {}


def _refined(folder: Path, refiner: Path) -> sdxl.Pipeline:
    if folder not in _PIPES:
        _PIPES[folder] = sdxl.Pipeline.from_pretrained(folder, refiner=refiner, dtype="float32", device="cpu")
    return _PIPES[folder]


@pytest.fixture(scope="module")
def v_pipe(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> sdxl.Pipeline:
    """Of v-prediction and zero terminal SNR: its first sigma is 4096."""
    folder = tmp_path_factory.mktemp("v") / "model"
    shutil.copytree(tiny_folder, folder)
    config = folder / "scheduler/scheduler_config.json"
    change = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    return sdxl.Pipeline.from_pretrained(folder, dtype="float32", device="cpu")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_from_no_signal(sampler: str, v_pipe: sdxl.Pipeline) -> None:
    """Latents of ordinary size, from a sigma of 4096."""
    for schedule in ("trailing", "karras"):
        images = latents(v_pipe, sampler=sampler, schedule=schedule, steps=6)
        assert images.isfinite().all()
        assert images.abs().max() < 100


# ---- options


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("euler", {"s_churn": 2.0}),
        ("heun", {"s_churn": 2.0, "s_tmax": 10.0}),
        ("dpm_2", {"s_churn": 2.0, "s_noise": 1.01}),
        ("euler_ancestral", {"s_noise": 0.9}),
        ("dpmpp_sde", {"r": 0.3}),
        ("dpmpp_2m_sde", {"noise": "fresh"}),
        ("lms", {"order": 1}),
        ("uni_pc", {"order": 1}),
    ],
)
def test_options_act(sampler: str, options: dict[str, Any], tiny_pipe: sdxl.Pipeline) -> None:
    plain = latents(tiny_pipe, sampler=sampler)
    assert not torch.equal(plain, latents(tiny_pipe, sampler=sampler, sampler_options=options))
    defaults = {name: SAMPLERS[sampler].options[name] for name in options if name != "s_tmax"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SDXLWarning)
        assert torch.equal(plain, latents(tiny_pipe, sampler=sampler, sampler_options=defaults))


def test_rho_belongs_to_the_schedule(tiny_pipe: sdxl.Pipeline) -> None:
    settings: dict[str, Any] = {"sampler": "dpmpp_2m", "schedule": "karras", "steps": 6}
    plain, low = (
        tiny_pipe.plan(sdxl.Request("a", **settings, **more)) for more in ({}, {"sampler_options": {"rho": 3}})
    )
    assert low.sigmas[0] == pytest.approx(plain.sigmas[0])
    assert low.sigmas[1] > plain.sigmas[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"sampler_options": {"s_chrun": 1}},
            "sampler_options has 's_chrun', and euler with leading has s_churn=0.0, ",
        ),
        ({"sampler": "ddim", "sampler_options": {"r": 1}}, "ddim with leading has no options; leave it out"),
        ({"sampler_options": {"s_churn": -1}}, "s_churn is -1 in sampler_options; expected a number, 0 to 1e+06"),
        ({"sampler_options": {"s_churn": True}}, "s_churn is True in sampler_options"),
        ({"sampler_options": {"s_churn": 10**400}}, "0000 in sampler_options; expected a number"),
        ({"sampler_options": {"s_tmax": float("inf")}}, "s_tmax is inf in sampler_options"),
        ({"sampler_options": {"s_churn": "much"}}, "s_churn is 'much' in sampler_options; expected a number"),
        ({"sampler_options": ["s_churn"]}, "sampler_options is ['s_churn']; expected names with numbers or words"),
        ({"sampler_options": {"eta": 0.5}}, "sampler_options has eta, which is an argument of its own. Try eta="),
        ({"sampler": "lms", "sampler_options": {"order": 2.5}}, "order is 2.5 in sampler_options; expected a whole"),
        ({"sampler": "dpmpp_sde", "sampler_options": {"noise": "x"}}, "noise is 'x' in sampler_options; expected tree"),
        ({"sampler": "dpmpp_sde", "eta": 2}, "eta is 2; it must be a number from 0 to 1"),
    ],
)
def test_wrong_options(arguments: dict[str, Any], sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(ArgumentError) as caught:
        tiny_pipe.plan(sdxl.Request("a cat", **arguments))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sampler_options": {"s_tmin": 1}}, "s_tmin in sampler_options has no effect: s_churn is 0"),
        ({"sampler": "dpmpp_sde", "eta": 0, "sampler_options": {"noise": "fresh"}}, "noise in sampler_options has no"),
        ({"sampler": "euler_cfg_pp"}, "guidance_scale is 5 and the sampler is euler_cfg_pp"),
    ],
)
def test_options_without_effect(arguments: dict[str, Any], sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.warns(SDXLWarning, match=sentence):
        tiny_pipe.plan(sdxl.Request("a cat", width=64, height=64, **arguments))


# ---- guidance of CFG++


def test_cfg_pp_takes_the_negative_prompt_at_every_scale(tiny_pipe: sdxl.Pipeline) -> None:
    """At a scale of 1 the guess is the prompt's, and the noise is still that of the negative prompt."""
    for scale in (0.0, 0.6, 1.0, 1.5):
        settings = {"sampler": "euler_cfg_pp", "guidance_scale": scale}
        plain = latents(tiny_pipe, **settings)
        assert not torch.equal(plain, latents(tiny_pipe, negative_prompt="a dog", **settings)), scale
    euler = latents(tiny_pipe, sampler="euler", guidance_scale=1.0)
    assert not torch.equal(euler, latents(tiny_pipe, sampler="euler_cfg_pp", guidance_scale=1.0))
    with pytest.warns(sdxl.SDXLWarning, match="no sigma of the steps lies in guidance_interval"):
        off = latents(tiny_pipe, sampler="euler_cfg_pp", guidance_scale=2.0, guidance_interval=(90, 100))
    assert torch.allclose(off, euler, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_cfg_pp_is_its_formula(prediction: str, error: Any) -> None:
    """x = D + t (x - U) / s with both guesses of one call."""
    from sdxl.models.schedule_config import ScheduleConfig
    from sdxl.sampling import Guidance, make_denoiser, make_schedule

    def networks(branches: tuple[str, ...], sigma: float) -> Any:
        def network(x: torch.Tensor, t: float) -> torch.Tensor:
            parts = x.chunk(len(branches))
            ways = {"negative": torch.sin, "positive": torch.cos}
            return torch.cat([ways[name](part + t / 500) for name, part in zip(branches, parts, strict=True)])

        return network

    schedule = make_schedule(ScheduleConfig(), "trailing", 5, "euler_cfg_pp")
    denoise = make_denoiser(networks, schedule, prediction, Guidance(1.4, always=True), torch.float64)

    def only(name: str, _: tuple[str, ...], sigma: float) -> Any:
        return networks((name,), sigma)

    alone = [
        make_denoiser(partial(only, name), schedule, prediction, Guidance(), torch.float64)
        for name in ("negative", "positive")
    ]
    start = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 14
    x = start
    for s, t in zip(schedule.sigmas, schedule.sigmas[1:], strict=False):
        u, c = (each(x, s) for each in alone)
        x = u + 1.4 * (c - u) + t * (x - u) / s
    ours = list(SAMPLERS["euler_cfg_pp"](denoise, start, schedule.sigmas, lambda *_: start))[-1].x
    assert error(ours, x) < 1e-12


# ---- noise


@pytest.mark.parametrize("sampler", TREE)
def test_noise_of_generators_is_that_of_their_seeds(sampler: str, tiny_pipe: sdxl.Pipeline) -> None:
    settings = {**LATENT, "sampler": sampler}
    del settings["seed"]
    given = tiny_pipe("a cat", generator=torch.Generator().manual_seed(3), **settings).images
    assert torch.equal(given, latents(tiny_pipe, sampler=sampler))
    used = torch.Generator().manual_seed(3)
    torch.randn(1, generator=used)
    one, two = (tiny_pipe("a cat", generator=_copy(used), **settings).images for _ in range(2))
    assert torch.equal(one, two), "a caller's generator gives the same image from the same state"
    shared = tiny_pipe(["a", "a"], generator=torch.Generator().manual_seed(3), **settings).images
    assert not torch.equal(shared[0], shared[1])


def _copy(generator: torch.Generator) -> torch.Generator:
    return torch.Generator().set_state(generator.get_state())


# ---- lists of one's own


def test_a_list_of_sigmas_is_the_schedule(tiny_pipe: sdxl.Pipeline) -> None:
    plan = tiny_pipe.plan(sdxl.Request("a", width=64, height=64, schedule="leading", steps=4))
    expected = latents(tiny_pipe, schedule="leading")
    for own in ({"sigmas": plan.sigmas}, {"timesteps": plan.schedule.timesteps}):
        result = tiny_pipe("a cat", **{**LATENT, **own})
        assert torch.allclose(result.images, expected, rtol=0, atol=1e-3)  # type: ignore[arg-type]
        recorded = result.parameters[0]["request"]
        assert (recorded["steps"], recorded["schedule"]) == (4, None)
        again = json.loads(json.dumps({name: recorded[name] for name in ("sigmas", "timesteps", "steps", "schedule")}))
        assert torch.equal(tiny_pipe("a cat", **{**LATENT, **again}).images, result.images)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_arrays_and_tensors_are_lists_of_numbers(kind: Any, tiny_pipe: sdxl.Pipeline) -> None:
    """Where a list of numbers is expected, and where one number is."""
    lists: dict[str, Any] = {
        "sigmas": [14.0, 5.0, 1.0, 0.0],
        "guidance_scale": [7.0, 3.0, 2.0],
        "seed": [3, 4],
        "guidance_interval": [0.5, 10.0],
        "original_size": [64, 32],
    }
    one: dict[str, Any] = {"timesteps": [999, 499, 9], "steps": 3, "seed": 3, "guidance_scale": 5.0, "width": 64}
    for arguments, count in ((lists, 2), (one, 1)):
        given = {name: kind(value) for name, value in arguments.items()}
        assert sdxl.Request(["a"] * count, **given) == sdxl.Request(["a"] * count, **arguments)
        json.dumps(tiny_pipe.plan(sdxl.Request(["a"] * count, **given)).request.guidance_scale)
    with pytest.raises(ArgumentError, match=r"sigmas is \[\[0\.0, 0\.0\]\]; expected at least 2 falling numbers"):
        sdxl.Request("a", sigmas=kind([[0.0, 0.0]]))


def test_a_list_is_cut_at_the_hand_off(tiny_folder: Path, refiner_folder: Path) -> None:
    pipe = _refined(tiny_folder, refiner_folder)
    plan = pipe.plan(sdxl.Request("a", timesteps=[999, 700, 400, 199, 50], refine_at=0.6, seed=1))
    assert plan.handoff == 3
    plan = pipe.plan(sdxl.Request("a", sigmas=[14.6, 5, 1, 0.1, 0], refine_at=0.6, seed=1))
    assert [len(sigmas) - 1 for _, sigmas in plan.expert_sigmas()] == [2, 2]


def test_a_list_that_ends_above_zero_leaves_noise(tiny_pipe: sdxl.Pipeline) -> None:
    for sampler in SAMPLERS:
        assert latents(tiny_pipe, sampler=sampler, sigmas=[14.6, 7, 3, 1.5], steps=3).isfinite().all(), sampler


def test_an_image_starts_at_the_first_of_the_list(tiny_pipe: sdxl.Pipeline) -> None:
    image = Image.new("RGB", (64, 64), "red")
    plan = tiny_pipe.plan(sdxl.Request("a", image=image, sigmas=[3, 1, 0]))
    assert (plan.sigmas, plan.steps, plan.first) == ((3, 1, 0), 2, 0)
    assert plan.request.strength is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sigmas": [1.0]}, "sigmas is [1.0]; expected at least 2 falling numbers of at least 0"),
        ({"sigmas": [1.0, 2.0]}, "sigmas is [1.0, 2.0]; expected at least 2 falling"),
        ({"sigmas": [1.0, float("nan")]}, "expected at least 2 falling"),
        ({"sigmas": "14,0"}, "sigmas is '14,0'"),
        ({"timesteps": []}, "timesteps is []; expected at least 1 falling numbers"),
        ({"timesteps": [1000]}, "timesteps begin at 1000; the model has 0 to 999. Try 999"),
        ({"sigmas": [3, 0], "timesteps": [1]}, "timesteps is given beside sigmas, which says where all steps lie"),
        ({"sigmas": [3, 0], "schedule": "karras"}, "schedule is given beside sigmas"),
        ({"sigmas": [3, 0], "sampler": "DPM++ 2M Karras"}, "schedule is given beside sigmas"),
        ({"sigmas": [3, 0], "steps": 7}, "steps is given beside sigmas"),
        ({"sigmas": [3, 0], "strength": 0.5, "image": Image.new("RGB", (8, 8))}, "strength is given beside sigmas"),
    ],
)
def test_wrong_lists(arguments: dict[str, Any], sentence: str, tiny_pipe: sdxl.Pipeline) -> None:
    with pytest.raises(ArgumentError) as caught:
        tiny_pipe.plan(sdxl.Request("a cat", **arguments))
    assert sentence in str(caught.value)


# ---- the record and the command line


def test_the_command_line_takes_and_replays_it_all(tiny_folder: Path, tmp_path: Path) -> None:
    common = ["generate", "--model", str(tiny_folder), "--device", "cpu", "--dtype", "float32", "--quiet"]
    image = ["--prompt", "a cat", "--seed", "3", "--width", "64", "--height", "64"]
    own = ["--sampler", "Euler", "--sampler-option", "s_churn=1", "--sampler-option", "s_tmax=9"]
    first, again = tmp_path / "1.png", tmp_path / "2.png"
    assert main([*common, *image, *own, "--sigmas", "14.6,5,1,0", "--output", str(first)]) == 0
    recorded = sdxl.read_parameters(first)["request"]
    assert (recorded["sampler"], recorded["sigmas"]) == ("euler", [14.6, 5, 1, 0])
    assert recorded["sampler_options"] == {"s_churn": 1, "s_tmax": 9}
    with Image.open(first) as opened:
        text = opened.info["parameters"]
    assert "Steps: 3, Sampler: Euler, CFG scale" in text
    assert "Sigma churn: 1, Sigma tmax: 9" in text
    assert main([*common, "--from", str(first), "--output", str(again)]) == 0
    with Image.open(first) as one, Image.open(again) as two:
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("flags", [["--sampler-option", "s_churn"], ["--sigmas", "a,b"]])
def test_wrong_flags(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--prompt", "a", *flags])
    assert "such as" in capsys.readouterr().err


def test_an_image_of_an_earlier_version_keeps_its_eta(tiny_pipe: sdxl.Pipeline, tmp_path: Path) -> None:
    """0.1.0 recorded eta 0 for samplers that had none, and drew all noise again for euler_ancestral."""
    result = tiny_pipe("a cat", seed=3, steps=3, sampler="euler_ancestral", progress=False)
    parameters = result.parameters[0]
    assert parameters["request"]["eta"] == 1
    old = {k: v for k, v in parameters["request"].items() if k not in ("sampler_options", "sigmas", "timesteps")}
    sdxl.save_png(result[0], tmp_path / "old.png", parameters | {"request": old | {"eta": 0.0}})
    request = sdxl.read_parameters(tmp_path / "old.png")["request"]
    assert torch.equal(
        latents(tiny_pipe, sampler="euler_ancestral"), latents(tiny_pipe, sampler="euler_ancestral", eta=1)
    )
    assert tiny_pipe(**request, progress=False)[0].tobytes() == result[0].tobytes()
    assert tiny_pipe(**request | {"eta": 0.0}, progress=False)[0].tobytes() != result[0].tobytes()
