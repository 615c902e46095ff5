"""Samplers and schedules by their names in other tools."""

from __future__ import annotations

from pathlib import Path

import pytest

import sdxl
from sdxl.errors import ArgumentError
from sdxl.sampling.names import MISSING, MISSING_SCHEDULES, read_sampler, read_schedule
from sdxl.sampling.samplers import SAMPLERS
from sdxl.sampling.schedules import SCHEDULES

NAMES = {
    # AUTOMATIC1111
    "Euler": ("euler", None),
    "Euler a": ("euler_ancestral", None),
    "LMS": ("lms", None),
    "Heun": ("heun", None),
    "DPM2": ("dpm_2", None),
    "DPM2 a": ("dpm_2_ancestral", None),
    "DPM++ 2S a": ("dpmpp_2s_ancestral", None),
    "DPM++ 2M": ("dpmpp_2m", None),
    "DPM++ SDE": ("dpmpp_sde", None),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", None),
    "DPM++ 2M SDE Heun": ("dpmpp_2m_sde_heun", None),
    "DPM++ 3M SDE": ("dpmpp_3m_sde", None),
    "DDIM": ("ddim", None),
    "UniPC": ("uni_pc", None),
    "LCM": ("lcm", None),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ SDE Karras": ("dpmpp_sde", "karras"),
    "DPM++ 2M SDE Karras": ("dpmpp_2m_sde", "karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 2M SDE Heun Exponential": ("dpmpp_2m_sde_heun", "exponential"),
    "DPM++ 2M SDE SGMUniform": ("dpmpp_2m_sde", "sgm_uniform"),
    "DPM2 a Karras": ("dpm_2_ancestral", "karras"),
    "LMS Karras": ("lms", "karras"),
    "dpm++ 2m karras": ("dpmpp_2m", "karras"),
    "k_euler_a": ("euler_ancestral", None),
    "k_dpmpp_2m_ka": ("dpmpp_2m", "karras"),
    # ComfyUI
    "dpmpp_2m_sde_gpu": ("dpmpp_2m_sde", None),
    "dpmpp_sde_gpu": ("dpmpp_sde", None),
    "dpmpp_3m_sde_gpu": ("dpmpp_3m_sde", None),
    "dpmpp_2s_ancestral": ("dpmpp_2s_ancestral", None),
    "euler_ancestral_cfg_pp": ("euler_ancestral_cfg_pp", None),
    "res_multistep_ancestral": ("res_multistep_ancestral", None),
    "uni_pc_bh2": ("uni_pc_bh2", None),
    "ddpm": ("euler_ancestral", None),
    # diffusers
    "EulerDiscreteScheduler": ("euler", None),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", None),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", None),
    "DPMSolverSDEScheduler": ("dpmpp_sde", None),
    "KDPM2AncestralDiscreteScheduler": ("dpm_2_ancestral", None),
    "UniPCMultistepScheduler": ("uni_pc_bh2", None),
    "LMSDiscreteScheduler": ("lms", None),
    "TCDScheduler": ("tcd", None),
    "LCMScheduler": ("lcm", None),
    "DDIMScheduler": ("ddim", None),
    "HeunDiscreteScheduler": ("heun", None),
    "DDPMScheduler": ("euler_ancestral", None),
}
SCHEDULE_NAMES = {
    "Uniform": "linspace",
    "Normal": "linspace",
    "normal": "linspace",
    "Karras": "karras",
    "Exponential": "exponential",
    "Polyexponential": "exponential",
    "SGM Uniform": "sgm_uniform",
    "SGMUniform": "sgm_uniform",
    "KL Optimal": "kl_optimal",
    "Align Your Steps": "align_your_steps",
    "Simple": "simple",
    "simple": "simple",
    "DDIM": "leading",
    "ddim_uniform": "leading",
    "Beta": "beta",
    "Turbo": "trailing",
}


@pytest.mark.parametrize("name", NAMES)
def test_samplers_of_other_tools(name: str) -> None:
    assert read_sampler(name) == NAMES[name]
    request = sdxl.Request("a cat", sampler=name)
    assert (request.sampler, request.schedule) == NAMES[name]


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
def test_schedules_of_other_tools(name: str) -> None:
    assert sdxl.Request("a cat", schedule=name).schedule == SCHEDULE_NAMES[name]


def test_our_own_names_and_those_of_the_records_are_themselves() -> None:
    assert [read_sampler(name) for name in SAMPLERS] == [(name, None) for name in SAMPLERS]
    assert [read_schedule(name, None) for name in SCHEDULES] == list(SCHEDULES)
    for name, record in SAMPLERS.items():
        if record.a1111 is not None:
            assert read_sampler(record.a1111) == (name, None)


def test_automatic_is_the_samplers_schedule_in_automatic1111() -> None:
    assert sdxl.Request("a", sampler="DPM++ 2M", schedule="Automatic").schedule == "karras"
    assert sdxl.Request("a", sampler="DPM++ 3M SDE", schedule="Automatic").schedule == "exponential"
    assert sdxl.Request("a", sampler="Euler a", schedule="Automatic").schedule == "linspace"


@pytest.mark.parametrize("name", [*MISSING, "PLMS", "DPM fast", "DPM adaptive", "k_dpm_ad", "Restart", "DEIS"])
def test_what_is_left_out_on_purpose_names_the_nearest(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"left out on purpose\. Try ") as caught:
        sdxl.Request("a cat", sampler=name)
    assert str(caught.value).split("Try ")[1].split(",")[0] in SAMPLERS


def test_a_schedule_that_is_left_out_names_the_nearest() -> None:
    for name, nearest in MISSING_SCHEDULES.items():
        with pytest.raises(ArgumentError, match=f"left out on purpose. Try {nearest}, the nearest one"):
            sdxl.Request("a cat", schedule=name)


def test_other_names_give_the_list() -> None:
    with pytest.raises(ArgumentError, match=r"sampler is 'qqq'; it must be one of ddim, dpm_2, .*uni_pc_bh2"):
        sdxl.Request("a cat", sampler="qqq")
    with pytest.raises(ArgumentError, match=r"schedule is 'qqq'; it must be one of leading, .*lcm"):
        sdxl.Request("a cat", schedule="qqq")
    with pytest.raises(ArgumentError, match="sampler is 'DPM adaptive Karras', which is left out on purpose"):
        sdxl.Request("a cat", sampler="DPM adaptive Karras")


def test_two_schedules_are_an_error() -> None:
    assert sdxl.Request("a", sampler="DPM++ 2M Karras", schedule="Karras").schedule == "karras"
    with pytest.raises(ArgumentError, match="sampler is 'DPM\\+\\+ 2M Karras' and schedule is 'beta'"):
        sdxl.Request("a", sampler="DPM++ 2M Karras", schedule="beta")


def test_the_page_of_samplers_has_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs/samplers.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `") and row.count("|") >= 6}
    assert {*SAMPLERS} <= {*rows}
    for name, record in SAMPLERS.items():
        row = next(
            row for row in page.splitlines() if row.startswith(f"| `{name}` |") and ("| n |" in row or "2n" in row)
        )
        calls = "n" if record.calls == 1 else "2n - 1"
        assert row.startswith(f"| `{name}` | {record.a1111 or ''} | "), row
        assert f" | {calls} | " in row, row
        assert [option for option in record.options if option != "eta"] == row.split("`")[3::2], row
    for name in SCHEDULES:
        assert f"| `{name}` |" in page
