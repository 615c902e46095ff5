"""The names of the values that a workflow of ComfyUI lists without names, in their order."""

from __future__ import annotations

WIDGETS: dict[str, tuple[str, ...]] = {
    "AlignYourStepsScheduler": ("model_type", "steps", "denoise"),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "BetaSamplingScheduler": ("steps", "alpha", "beta"),
    "CFGGuider": ("cfg",),
    "CLIPLoader": ("clip_name", "type", "device"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": (
        *("width", "height", "crop_w", "crop_h", "target_width", "target_height"),
        *("text_g", "text_l"),
    ),
    "CLIPTextEncodeSDXLRefiner": ("ascore", "width", "height", "text"),
    "DualCLIPLoader": ("clip_name1", "clip_name2", "type", "device"),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "ControlNetApply": ("strength",),
    "ControlNetApplyAdvanced": ("strength", "start_percent", "end_percent"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "ExponentialScheduler": ("steps", "sigma_max", "sigma_min"),
    "ImageScale": ("upscale_method", "width", "height", "crop"),
    "ImageScaleBy": ("upscale_method", "scale_by"),
    "InpaintModelConditioning": ("noise_mask",),
    "KSampler": ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        *("add_noise", "noise_seed", "steps", "cfg", "sampler_name", "scheduler"),
        *("start_at_step", "end_at_step", "return_with_leftover_noise"),
    ),
    "KSamplerSelect": ("sampler_name",),
    "KarrasScheduler": ("steps", "sigma_max", "sigma_min", "rho"),
    "LatentFromBatch": ("batch_index", "length"),
    "LatentUpscale": ("upscale_method", "width", "height", "crop"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "LoadImage": ("image",),
    "LoadImageMask": ("image", "channel"),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "ModelSamplingDiscrete": ("sampling", "zsnr"),
    "PrimitiveNode": ("value",),
    "RandomNoise": ("noise_seed",),
    "RepeatLatentBatch": ("amount",),
    "RescaleCFG": ("multiplier",),
    "SDTurboScheduler": ("steps", "denoise"),
    "SamplerCustom": ("add_noise", "noise_seed", "cfg"),
    "SamplerDPMPP_2M_SDE": ("solver_type", "eta", "s_noise", "noise_device"),
    "SamplerDPMPP_2S_Ancestral": ("eta", "s_noise"),
    "SamplerDPMPP_3M_SDE": ("eta", "s_noise", "noise_device"),
    "SamplerDPMPP_SDE": ("eta", "s_noise", "r", "noise_device"),
    "SamplerEulerAncestral": ("eta", "s_noise"),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "VAEEncodeForInpaint": ("grow_mask_by",),
    "VAELoader": ("vae_name",),
}
"""Of ComfyUI's own nodes."""
PACKS: dict[str, tuple[str, ...]] = {
    "CR LoRA Stack": tuple(
        f"{name}_{n}" for n in (1, 2, 3) for name in ("switch", "lora_name", "model_weight", "clip_weight")
    ),
    "Efficient Loader": (
        *("ckpt_name", "vae_name", "clip_skip", "lora_name", "lora_model_strength", "lora_clip_strength"),
        *("positive", "negative", "token_normalization", "weight_interpretation"),
        *("empty_latent_width", "empty_latent_height", "batch_size"),
    ),
    "KSampler (Efficient)": (
        *("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
        *("preview_method", "vae_decode"),
    ),
    "LoRA Stacker": (
        *("input_mode", "lora_count"),
        *(f"{name}_{n}" for n in range(1, 51) for name in ("lora_name", "lora_wt", "model_str", "clip_str")),
    ),
    "Lora Loader Stack (rgthree)": tuple(f"{name}_{n:02}" for n in (1, 2, 3, 4) for name in ("lora", "strength")),
    "SDXLPromptStyler": ("text_positive", "text_negative", "style"),
    "StringConcatenate": ("string_a", "string_b", "delimiter"),
}
"""Of nodes that other packs have, and of those that join texts."""
