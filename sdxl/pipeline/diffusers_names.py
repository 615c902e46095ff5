"""The names that diffusers' SDXL pipelines have: of their arguments, methods and attributes, and what each is here.

`CALL` has the arguments of a call, `LOAD` those of `from_pretrained`, `MEMBERS` methods and attributes. A name that
means the same here is in none of them. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Foreign:
    """What an argument of diffusers is here: `ours` is our name of equal meaning, with our `values` where they have
    others. Without one, `sentence` says what helps. The `idle` values, compared by identity, change nothing here; with
    None nothing is asked for.
    """

    sentence: str = ""
    ours: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    idle: tuple[Any, ...] = ()


def _each(sentence: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, sentence)


_REFINER = "load the refiner with from_pretrained(..., refiner=...) and give refine_at, such as 0.8, for both at once"
_EMBEDS = (
    "give the texts: prompt_syntax='a1111' or 'comfyui' reads weights such as (word:1.3), and after "
    "pipe.prepare_for_many() every text is encoded once; docs/networks.md has a loop for what encode_prompt gives"
)
_REFERENCE = "give reference= to a call, with adapter, image and scale, as in sdxl.Reference (docs/control.md)"
_CONTROL = "give control= to a call, with net, image, scale, start and end, as in sdxl.Control (docs/control.md)"
_PAG = "give guider= to a call, such as sdxl.PAG(scale=3, layers=('mid',))"
_EDITING = "models that edit by an instruction (InstructPix2Pix), whose UNet has 8 channels, are not supported"
_CALLBACK = "give callback=, which gets each step (latents, denoised, preview()) and stops the call by returning True"

CALL: dict[str, Foreign] = {
    "num_inference_steps": Foreign(ours="steps"),
    "num_images_per_prompt": Foreign(ours="num_images"),
    "mask_image": Foreign(ours="mask"),
    "padding_mask_crop": Foreign(ours="mask_padding"),
    "crops_coords_top_left": Foreign(ours="crop_top_left"),
    "negative_crops_coords_top_left": Foreign(ours="negative_crop_top_left"),
    "output_type": Foreign(
        "expected pil, pt or latent; for numpy take output='tensor' and images.permute(0, 2, 3, 1).cpu().numpy()",
        ours="output",
        values={"pil": "pil", "pt": "tensor", "latent": "latent"},
    ),
    "return_dict": Foreign(
        "a call returns a Result; its images are result.images, the first is result[0]", idle=(True,)
    ),
    "denoising_end": Foreign(_REFINER),
    "denoising_start": Foreign(_REFINER),
    "prompt_embeds": Foreign(_EMBEDS),
    "negative_prompt_embeds": Foreign(_EMBEDS),
    "pooled_prompt_embeds": Foreign(_EMBEDS),
    "negative_pooled_prompt_embeds": Foreign(_EMBEDS),
    "ip_adapter_image": Foreign(_REFERENCE),
    "ip_adapter_image_embeds": Foreign(f"{_REFERENCE}; an image that comes again is not encoded again"),
    **dict.fromkeys(
        (
            *("control_image", "controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end"),
            *("adapter_conditioning_scale", "adapter_conditioning_factor"),
        ),
        Foreign(_CONTROL),
    ),
    "guess_mode": Foreign(f"{_CONTROL}; it is guess there", idle=(False,)),
    "control_mode": Foreign(f"{_CONTROL}; it is type there"),
    "pag_scale": Foreign(_PAG),
    "pag_adaptive_scale": Foreign(f"{_PAG}; its scale is the same in all steps"),
    "image_guidance_scale": Foreign(_EDITING),
    "masked_image_latents": Foreign("give image and mask; the masked image is made of them"),
    "cross_attention_kwargs": Foreign("the scale of a LoRA is its weight in loras= or pipe.set_loras"),
    "callback_on_step_end": Foreign(_CALLBACK),
    "callback_on_step_end_tensor_inputs": Foreign(_CALLBACK),
    "callback_steps": Foreign(_CALLBACK),
    "scheduler": Foreign("give sampler= and schedule=, such as sampler='dpmpp_2m' and schedule='karras'"),
    # of encode_prompt
    "device": Foreign("the device belongs to the pipeline; give it to from_pretrained, or move it with pipe.to"),
    "do_classifier_free_guidance": Foreign("encode_prompt always gives both the prompt and the negative prompt"),
    "lora_scale": Foreign("the scale of a LoRA is its weight in loras= or pipe.set_loras"),
}

_HUB = "the hub's own settings apply; set HF_HOME (its cache), HF_TOKEN, HF_HUB_OFFLINE=1 or HF_ENDPOINT"
_CUSTOM = "code that comes with a model is never run; change the networks or the steps as docs/networks.md shows"
_COMPONENT = (
    "it comes with the model; pipe.text has tokenizers and text encoders, which Pipeline.from_networks replaces"
)
_ONLY_SAFE = "only safetensors files are read; give a model that has them"
_PLACE = "give offload= (none, text, stage, block or auto) and, for auto, max_memory in bytes"
_NO_CHECKER = "there is no safety checker here; check the images where you show them"
_LOW = "weights are always read from the mapped file, layer by layer"

LOAD: dict[str, Foreign] = {
    "pretrained_model_name_or_path": Foreign(ours="model"),
    "torch_dtype": Foreign(ours="dtype"),
    "use_safetensors": Foreign(_ONLY_SAFE, idle=(True,)),
    "safety_checker": Foreign(_NO_CHECKER),
    "requires_safety_checker": Foreign(_NO_CHECKER, idle=(False,)),
    "add_watermarker": Foreign("no watermark is added; add one to the images yourself", idle=(False,)),
    "low_cpu_mem_usage": Foreign(_LOW, idle=(True, False)),
    "disable_mmap": Foreign(_LOW, idle=(False,)),
    "scheduler": Foreign("give sampler= and schedule= to a call; the model's own are their defaults"),
    **dict.fromkeys(("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"), Foreign(_COMPONENT)),
    **dict.fromkeys(("image_encoder", "feature_extractor"), Foreign(f"{_REFERENCE}; it finds its image encoder")),
    **dict.fromkeys(("controlnet", "adapter"), Foreign(f"{_CONTROL}; its network is loaded there")),
    "enable_pag": Foreign(_PAG, idle=(False,)),
    "pag_applied_layers": Foreign(_PAG),
    "is_cosxl_edit": Foreign(_EDITING, idle=(False,)),
    "subfolder": Foreign("give the folder of the model; unet= and vae= take that part of another one"),
    "force_zeros_for_empty_prompt": Foreign("leave negative_prompt out for zeros; negative_prompt='' is encoded"),
    "requires_aesthetics_score": Foreign("the model's files say whether it is a refiner"),
    **dict.fromkeys(("cache_dir", "token", "use_auth_token", "proxies", "mirror"), Foreign(_HUB)),
    **dict.fromkeys(("local_files_only", "force_download", "resume_download"), Foreign(_HUB, idle=(False,))),
    "device_map": Foreign("give device= and offload=, such as device='cuda' and offload='stage'"),
    **dict.fromkeys(("offload_folder", "offload_state_dict"), Foreign(_PLACE, idle=(False,))),
    **dict.fromkeys(("custom_pipeline", "custom_revision"), Foreign(_CUSTOM)),
    "trust_remote_code": Foreign(_CUSTOM, idle=(False,)),
    **dict.fromkeys(("use_onnx", "use_flashpack", "from_flax"), Foreign(_ONLY_SAFE, idle=(False,))),
    **dict.fromkeys(("provider", "sess_options", "provider_options"), Foreign("ONNX is not supported; leave it out")),
    "quantization_config": Foreign(
        "give int8=True for 8-bit transformer blocks on a CPU, or fp8=True to keep them in float8"
    ),
    "load_connected_pipeline": Foreign("give the refiner as refiner=", idle=(False,)),
    "output_loading_info": Foreign("sdxl.inspect(path) reports every key of the files", idle=(False,)),
}

_OFFLOAD = "load the model with from_pretrained(..., offload='stage'), or 'block' for the least memory"
_TILING = "the VAE works in strips by itself where memory is short, with the same result"
_ATTENTION = "attention is PyTorch's fused one already; from_pretrained(..., offload='auto') fits a model into memory"
_SET_LORAS = (
    "give loras= to a call or from_pretrained, or call pipe.set_loras; they are always fused (docs/adapters.md)"
)
_EMBEDDINGS = "give embeddings= to from_pretrained, or call pipe.set_embeddings"
_SAMPLER = "give sampler= and schedule= to a call, such as pipe(..., sampler='dpmpp_2m', schedule='karras')"
_PROGRESS = "give progress=False to a call for no bar"
_TEXT = "pipe.text is the list of text encoders, each with its tokenizer: pipe.text[0].encoder, pipe.text[0].tokenizer"
_ONE = "one Pipeline does every task: give image= for image to image, and mask= too for inpainting"
_OF_A_CALL = "it is an argument of a call, and result.parameters records it"
_CONFIG = "pipe.info has the configs, the noise schedule and the tokenizers"
_SAVE = "pipe.save(path) writes a folder, or a single file if path ends in .safetensors"
_STEPS = "pipe.steps(...) is the generator under a call, and callback= gets each of its steps"
_INSIDE = "a call does it; pipe.plan(request), pipe.encode and pipe.steps show its parts (docs/networks.md)"
_FREEU = "FreeU is not supported; pipe.change_weights and docs/networks.md change the networks"
_PIXELS = "sdxl.images has to_pil and to_tensor; pipe.encode and pipe.decode are the VAE"

MEMBERS: dict[str, str] = {
    **_each(
        _OFFLOAD,
        *("enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload", "hf_device_map"),
        *("reset_device_map", "remove_all_hooks", "maybe_free_model_hooks", "model_cpu_offload_seq"),
    ),
    **_each(_TILING, "enable_vae_tiling", "disable_vae_tiling", "enable_vae_slicing", "disable_vae_slicing"),
    **_each(
        _ATTENTION,
        *("enable_xformers_memory_efficient_attention", "disable_xformers_memory_efficient_attention"),
        *("enable_attention_slicing", "disable_attention_slicing", "set_attention_slice"),
        *("set_use_memory_efficient_attention_xformers", "fuse_qkv_projections", "unfuse_qkv_projections"),
    ),
    **_each(
        _SET_LORAS,
        *("load_lora_weights", "unload_lora_weights", "fuse_lora", "unfuse_lora", "set_adapters", "enable_lora"),
        *("disable_lora", "delete_adapters", "get_active_adapters", "get_list_adapters", "set_lora_device"),
        *("enable_lora_hotswap", "load_lora_into_unet", "load_lora_into_text_encoder", "lora_state_dict"),
        *("lora_scale", "fused_loras", "num_fused_loras", "save_lora_weights", "write_lora_layers", "pack_weights"),
        "cross_attention_kwargs",
    ),
    **_each(_EMBEDDINGS, "load_textual_inversion", "unload_textual_inversion", "maybe_convert_prompt"),
    **_each(
        _REFERENCE,
        *("load_ip_adapter", "unload_ip_adapter", "set_ip_adapter_scale", "prepare_ip_adapter_image_embeds"),
        *("encode_image", "image_encoder", "feature_extractor"),
    ),
    **_each(_CONTROL, "controlnet", "adapter", "control_image_processor", "prepare_control_image", "check_image"),
    **_each(
        _PAG,
        *("set_pag_applied_layers", "pag_applied_layers", "pag_scale", "pag_adaptive_scale", "pag_attn_processors"),
        *("do_perturbed_attention_guidance", "do_pag_adaptive_scaling"),
    ),
    **_each(_FREEU, "enable_freeu", "disable_freeu"),
    "from_single_file": "from_pretrained reads single files too: Pipeline.from_pretrained('model.safetensors')",
    "from_pipe": _ONE,
    "download": "from_pretrained downloads what is missing",
    **_each(_SAVE, "save_pretrained", "save_config"),
    "push_to_hub": f"{_SAVE}; upload it with huggingface_hub",
    **_each(_PROGRESS, "set_progress_bar_config", "progress_bar"),
    "scheduler": _SAMPLER,
    **_each(_TEXT, "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "text_encoder_name"),
    "components": "pipe.unet, pipe.vae and pipe.text are the networks; " + _ONE,
    "parameters": "pipe.unet.parameters() and pipe.vae.parameters() are the weights; load them with trainable=True",
    "unet_name": "pipe.unet is the UNet",
    **_each(
        _CONFIG,
        *("config", "config_name", "from_config", "load_config", "get_config_dict", "extract_init_dict"),
        *("register_to_config", "register_modules", "register_for_auto_class", "ignore_for_config", "has_compatibles"),
        *("to_json_file", "to_json_string", "name_or_path", "vae_scale_factor", "default_sample_size"),
    ),
    **_each(
        _OF_A_CALL,
        *("guidance_scale", "guidance_rescale", "clip_skip", "denoising_end", "denoising_start"),
        *("do_classifier_free_guidance", "requires_aesthetics_score", "force_zeros_for_empty_prompt"),
    ),
    **_each(_STEPS, "interrupt", "num_timesteps", "_num_timesteps"),
    "_interrupt": "give callback= to a call, which stops by returning True",  # what a callback or a thread sets
    "_guidance_scale": "give guidance_scale= a list, with one number for each step",
    "_execution_device": "pipe.device is where the model computes",
    **_each(
        _INSIDE,
        *("check_inputs", "prepare_latents", "prepare_mask_latents", "prepare_extra_step_kwargs", "get_timesteps"),
        *("get_guidance_scale_embedding", "upcast_vae", "prepare_image", "prepare_image_latents", "is_cosxl_edit"),
        *("_get_add_time_ids", "_encode_vae_image"),
    ),
    **_each(_PIXELS, "numpy_to_pil", "image_processor", "mask_processor"),
    "safety_checker": _NO_CHECKER,
    "watermark": "no watermark is added; add one to the images yourself",
}
