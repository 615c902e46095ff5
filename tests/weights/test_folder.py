"""The JSON of a diffusers folder: the published files, ignored fields, and refused fields."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from sdxl.errors import ConfigError
from sdxl.models.published import BASE, CLIP_G, CLIP_L, INPAINTING, REFINER
from sdxl.models.schedule_config import ScheduleConfig
from sdxl.weights import diffusers_config as folder

# unet/config.json of stable-diffusion-xl-base-1.0
BASE_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.19.0.dev0",
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
REFINER_UNET = BASE_UNET | {
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "projection_class_embeddings_input_dim": 2560,
    "transformer_layers_per_block": 4,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
EMA: dict[str, Any] = {
    "decay": 0.9999,
    "inv_gamma": 1.0,
    "min_decay": 0.0,
    "optimization_step": 37000,
    "use_ema_warmup": False,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def test_published_configs() -> None:
    assert folder.read_unet(BASE_UNET) == BASE.unet
    assert folder.read_unet(REFINER_UNET) == REFINER.unet
    assert folder.read_unet(BASE_UNET | EMA | {"in_channels": 9}) == INPAINTING.unet
    assert folder.read_scheduler(SCHEDULER) == ScheduleConfig()


def test_written_configs_are_read_back() -> None:
    for config in (BASE, REFINER, INPAINTING):
        assert folder.read_unet(folder.write_unet(config.unet)) == config.unet
        assert folder.read_vae(folder.write_vae(config.vae)) == config.vae
    for text in (CLIP_L, CLIP_G):
        assert folder.read_text(folder.write_text(text), text.projection_dim is not None) == text
    for sampler in ("euler", "euler_ancestral", "heun", "ddim", "dpmpp_2m"):
        for spacing in ("leading", "trailing", "linspace", "karras", "exponential"):
            schedule = ScheduleConfig(sampler=sampler, schedule=spacing, zero_terminal_snr=True)
            assert folder.read_scheduler(folder.write_scheduler(schedule)) == schedule


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time_cond_proj_dim", "256"),
        ("class_embed_type", "timestep"),
        ("resnet_time_scale_shift", "scale_shift"),
        ("addition_embed_type", "text"),
        ("use_linear_projection", False),
        ("only_cross_attention", True),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("act_fn", "gelu"),
        ("down_block_types", ["DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D"]),
        ("block_out_channels", [320, 640]),
        ("attention_head_dim", [5, 10, 7]),
        ("cross_attention_dim", [2048, 2048, 1024]),
        ("in_channels", "4"),
    ],
)
def test_unet_fields_that_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError):
        folder.read_unet(BASE_UNET | {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latents_mean", [0.1, 0.2, 0.3]),
        ("latents_std", [0.1, 0.2, 0.3, 0]),
        ("latents_std", 0.5),
        ("shift_factor", 0.1),
        ("use_quant_conv", False),
        ("mid_block_add_attention", False),
        ("act_fn", "relu"),
    ],
)
def test_vae_fields_that_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        folder.read_vae(folder.write_vae(BASE.vae) | {field: value})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule"),
        ({"prediction_type": "edm"}, "prediction_type"),
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 90}, "sigma_min"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": "x"}, "sigma_data"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler belongs to a model"),
        ({"timestep_type": "continuous"}, "timestep_type"),
        ({"_class_name": "LCMScheduler", "timestep_type": "continuous"}, "timestep_type"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"prediction_type": "flow_prediction"}, "prediction_type"),
        ({"_class_name": "CosineDPMSolverMultistepScheduler"}, "CosineDPMSolverMultistepScheduler belongs to a model"),
    ],
)
def test_scheduler_fields_of_other_noise_are_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        folder.read_scheduler(SCHEDULER | change)


DPM = {"_class_name": "DPMSolverMultistepScheduler"}


SDE = {"algorithm_type": "sde-dpmsolver++"}
UNIPC = {"_class_name": "UniPCMultistepScheduler"}


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "PNDM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"])
def test_a_spacing_that_is_left_out_is_that_of_the_class(name: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    default = inspect.signature(getattr(diffusers, f"{name}Scheduler")).parameters["timestep_spacing"].default
    data = {key: value for key, value in SCHEDULER.items() if key != "timestep_spacing"}
    assert folder.read_scheduler(data | {"_class_name": f"{name}Scheduler"}, "s").schedule == default


@pytest.mark.parametrize(
    ("change", "sampler"),
    [
        (DPM, "dpmpp_2m"),
        (DPM | {"solver_type": "heun"}, "res_multistep"),
        (DPM | SDE, "dpmpp_2m_sde"),
        (DPM | SDE | {"solver_type": "heun"}, "dpmpp_2m_sde_heun"),
        (UNIPC, "uni_pc_bh2"),
        (UNIPC | {"solver_type": "bh1"}, "uni_pc"),
        ({"_class_name": "KDPM2DiscreteScheduler"}, "dpm_2"),
        ({"_class_name": "KDPM2AncestralDiscreteScheduler"}, "dpm_2_ancestral"),
        ({"_class_name": "LMSDiscreteScheduler"}, "lms"),
        ({"_class_name": "DPMSolverSDEScheduler"}, "dpmpp_sde"),
        ({"_class_name": "DDPMScheduler"}, "euler_ancestral"),
    ],
)
def test_a_solver_is_recognised_and_written_again(change: dict[str, Any], sampler: str) -> None:
    schedule = folder.read_scheduler(SCHEDULER | change, "s")
    assert (schedule.sampler, schedule.notes) == (sampler, ())
    assert folder.read_scheduler(folder.write_scheduler(schedule)) == schedule


@pytest.mark.parametrize(("name", "sampler"), [("LCMScheduler", "lcm"), ("TCDScheduler", "tcd")])
def test_the_schedulers_of_consistency_models_have_their_own_timesteps(name: str, sampler: str) -> None:
    change = {"_class_name": name, "clip_sample": False, "original_inference_steps": 50}
    schedule = folder.read_scheduler(SCHEDULER | change, "s")
    assert (schedule.sampler, schedule.schedule, schedule.notes) == (sampler, "lcm", ())
    assert folder.read_scheduler(folder.write_scheduler(schedule)) == schedule


@pytest.mark.parametrize(
    ("change", "note", "sampler"),
    [
        (DPM | {"algorithm_type": "dpmsolver"}, "s: algorithm_type 'dpmsolver' is not", "dpmpp_2m"),
        (DPM | {"solver_order": 3, "solver_type": "heun"}, "s: solver_order 3 is not", "res_multistep"),
        ({"_class_name": "UniPCMultistepScheduler", "predict_x0": False}, "s: predict_x0 False is not", "uni_pc_bh2"),
        (DPM | {"thresholding": True}, "s: thresholding True is not", "dpmpp_2m"),
        (DPM | {"variance_type": "learned"}, "s: variance_type 'learned' is not", "dpmpp_2m"),
        ({"_class_name": "DDIMScheduler", "clip_sample": True}, "s: clip_sample True is not", "ddim"),
        ({"_class_name": "HeunDiscreteScheduler", "clip_sample": True}, "s: clip_sample True is not", "heun"),
        ({"_class_name": "PNDMScheduler"}, "s: the scheduler 'PNDMScheduler' is unknown", "euler"),
    ],
)
def test_another_solver_is_a_note(change: dict[str, Any], note: str, sampler: str) -> None:
    """A folder is not refused for a sampler that it recommends."""
    schedule = folder.read_scheduler(SCHEDULER | change, "s")
    assert schedule.sampler_note.startswith(note)
    assert schedule.sampler_note.endswith(f"; the default sampler is {sampler}, choose another with sampler=")
    assert (schedule.sampler, schedule.schedule, schedule.schedule_note) == (sampler, "leading", "")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"use_beta_sigmas": True}, "use_beta_sigmas True is not"),
        (DPM | {"use_lu_lambdas": True}, "use_lu_lambdas True is not"),
        ({"interpolation_type": "log_linear"}, "interpolation_type 'log_linear' is not"),
        ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type 'sigma_min' is not"),
        ({"sigma_min": 0.1, "sigma_max": 20.0}, "sigma_max 20.0 and sigma_min 0.1 are not"),
        (DPM | {"lambda_min_clipped": -5.1}, "lambda_min_clipped -5.1 is not"),
        ({"timestep_spacing": "beta"}, "timestep_spacing 'beta' is not"),
        ({"timestep_spacing": ["leading"]}, r"timestep_spacing ['leading'] is not"),
    ],
)
def test_another_schedule_is_a_note(change: dict[str, Any], note: str) -> None:
    schedule = folder.read_scheduler(SCHEDULER | change, "s")
    wanted = f"s: {note} supported; the default schedule is leading, choose another with schedule="
    assert (schedule.schedule, schedule.schedule_note, schedule.sampler_note) == ("leading", wanted, "")


def test_what_is_supported_is_no_note() -> None:
    for change in ({}, DPM | {"lambda_min_clipped": "-inf", "use_lu_lambdas": None}, {"use_karras_sigmas": True}):
        assert folder.read_scheduler(SCHEDULER | change).notes == ()


def test_missing_fields_take_the_class_defaults() -> None:
    schedule = folder.read_scheduler({"_class_name": "DDIMScheduler", "clip_sample": False})
    assert (schedule.beta_schedule, schedule.beta_end, schedule.steps_offset) == ("linear", 0.02, 0)
    assert (schedule.schedule, schedule.final_alpha_one) == ("leading", True)
    assert folder.read_scheduler({"_class_name": "HeunDiscreteScheduler"}).schedule == "linspace"
    assert folder.read_text({}, True).dim == 512


def test_published_eos() -> None:
    """The published configs have 2, which stands for the argmax of the ids."""
    assert folder.read_text(folder.write_text(CLIP_G) | {"eos_token_id": 2}, True).eos_id is None
    assert folder.read_text(folder.write_text(CLIP_G) | {"eos_token_id": 49407}, True).eos_id == 49407
