"""Parameter texts in the forms that AUTOMATIC1111 1.6 to 1.10, Forge and Civitai write, made by hand from their rules,
and the requests that they mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BASE = {"prompt_syntax": "a1111", "compat": "a1111", "preset": "none"}
COMFYUI = {"prompt_syntax": "comfyui", "compat": "comfyui", "preset": "none"}
FORGE = {"profile": "a1111", "timesteps": "nearest", "alphas": "exact", "known": "always"}
HASH = "0123456789"


@dataclass(frozen=True)
class Case:
    """A text, the arguments of the request that it means (beside `BASE`), and the rest of what is read."""

    name: str
    text: str
    request: dict[str, Any]
    model: tuple[str | None, str | None] = ("base_v1", HASH)
    tool: str = "AUTOMATIC1111"
    loras: list[dict[str, Any]] = field(default_factory=list)
    unmapped: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    files: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=lambda: dict(BASE))


END = f"Model hash: {HASH}, Model: base_v1"
START = {"steps": 20, "guidance_scale": 7, "seed": 12, "width": 1024, "height": 1024}


def text(sampler: str, *fields: str, prompt: str = "a lighthouse", negative: str = "", version: str = "v1.10.1") -> str:
    """A text with the usual fields, in AUTOMATIC1111's order."""
    lines = [prompt, f"Negative prompt: {negative}"] if negative else [prompt]
    parts = ["Steps: 20", sampler, "CFG scale: 7", "Seed: 12", "Size: 1024x1024", END, *fields]
    return "\n".join([*lines, ", ".join([*parts, *([f"Version: {version}"] if version else [])])])


def of(sampler: str, schedule: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "a lighthouse", **START, "sampler": sampler, "schedule": schedule, **more}


EULER = "Sampler: Euler, Schedule type: Uniform"
HIRES = "Denoising strength: 0.4, Hires upscale: 1.5, Hires steps: 10, Hires upscaler: Latent (nearest-exact)"
CASES = [
    # ---- names of samplers and schedules
    Case("1.6 joined", text("Sampler: DPM++ 2M Karras", version="v1.6.0"), of("dpmpp_2m", "karras")),
    Case("1.6 alone is uniform", text("Sampler: DPM++ 2M", version="v1.6.1"), of("dpmpp_2m", "linspace")),
    Case("1.7 SDE", text("Sampler: DPM++ 2M SDE Karras", version="v1.7.0"), of("dpmpp_2m_sde", "karras")),
    Case(
        "1.8 exponential",
        text("Sampler: DPM++ 2M SDE Exponential", version="v1.8.0"),
        of("dpmpp_2m_sde", "exponential"),
    ),
    Case(
        "1.6 schedule as an option",
        text("Sampler: DPM++ 2M", "Schedule type: exponential", version="v1.6.0"),
        of("dpmpp_2m", "exponential"),
    ),
    Case("1.9 apart", text("Sampler: DPM++ 3M SDE, Schedule type: Karras"), of("dpmpp_3m_sde", "karras")),
    Case("1.9 automatic", text("Sampler: DPM++ SDE, Schedule type: Automatic"), of("dpmpp_sde", "karras")),
    Case("1.10 automatic euler", text("Sampler: Euler a, Schedule type: Automatic"), of("euler_ancestral", "linspace")),
    Case("1.10 absent", text("Sampler: DPM++ 2M"), of("dpmpp_2m", "karras")),
    Case("no version", text("Sampler: DPM++ 2S a", version=""), of("dpmpp_2s_ancestral", "karras")),
    Case("SGM Uniform", text("Sampler: Euler, Schedule type: SGM Uniform"), of("euler", "sgm_uniform")),
    Case(
        "Align Your Steps",
        text("Sampler: DPM++ 2M, Schedule type: Align Your Steps"),
        of("dpmpp_2m", "align_your_steps"),
    ),
    Case(
        "beta",
        text("Sampler: Heun, Schedule type: Beta, Beta schedule alpha: 0.5, Beta schedule beta: 0.7"),
        of("heun", "beta", sampler_options={"alpha": 0.5, "beta": 0.7}),
    ),
    Case(
        "DDIM has its own timesteps",
        text("Sampler: DDIM, Schedule type: Karras, Eta DDIM: 0.5"),
        of("ddim", "leading", eta=0.5),
    ),
    Case(
        "UniPC",
        text("Sampler: UniPC, Schedule type: Automatic, UniPC order: 2"),
        of("uni_pc", "linspace", sampler_options={"order": 2}),
    ),
    Case("LCM", text("Sampler: LCM, Schedule type: SGM Uniform"), of("lcm", "sgm_uniform")),
    Case(
        "a sampler that is missing",
        text("Sampler: Restart, Schedule type: Karras"),
        {k: v for k, v in of("", "karras").items() if k != "sampler"},
        unmapped={"Sampler"},
    ),
    Case(
        "Karras' rho, and churn",
        text(
            "Sampler: Euler, Schedule type: Karras, Schedule rho: 5, Sigma churn: 4, Sigma tmin: 0.1, Sigma noise: 1.01"
        ),
        of("euler", "karras", sampler_options={"rho": 5, "s_churn": 4, "s_tmin": 0.1, "s_noise": 1.01}),
    ),
    Case(
        "eta",
        text("Sampler: Euler a, Schedule type: Automatic, Eta: 0.67"),
        of("euler_ancestral", "linspace", eta=0.67),
    ),
    # ---- prompts
    Case(
        "several lines and quotes",
        text(EULER, prompt='a "lighthouse",\n(storm:1.2)\nBREAK waves', negative="blur, [fog]\nlow: quality"),
        of(
            "euler",
            "linspace",
            prompt='a "lighthouse",\n(storm:1.2)\nBREAK waves',
            negative_prompt="blur, [fog]\nlow: quality",
        ),
    ),
    Case(
        "emphasis",
        text(EULER, "Emphasis: No norm", prompt="a (lighthouse:1.3)"),
        of("euler", "linspace", prompt="a (lighthouse:1.3)", emphasis="no_norm"),
    ),
    Case(
        "emphasis none",
        text(EULER, "Emphasis: None", prompt="a (lighthouse:1.3)"),
        of("euler", "linspace", prompt="a (lighthouse:1.3)"),
        base={"compat": "a1111", "preset": "none"},
    ),
    Case(
        "LoRAs",
        text(
            EULER,
            'Lora hashes: "ink: aabbccddeeff, add detail: 001122334455"',
            prompt="a cat <lora:ink:0.8> <lora:add detail:0.5:1>",
        ),
        of(
            "euler",
            "linspace",
            prompt="a cat",
            loras=[{"file": "ink", "weight": 0.8}, {"file": "add detail", "weight": 1.0, "text_weight": 0.5}],
        ),
        loras=[
            {"file": "ink", "weight": 0.8, "hash": "aabbccddeeff"},
            {"file": "add detail", "weight": 1.0, "text_weight": 0.5, "hash": "001122334455"},
        ],
    ),
    Case(
        "a hypernetwork, and a weight that is no number",
        text(EULER, prompt="<hypernet:old:0.5> a cat <lora:ink:much>"),
        of("euler", "linspace", prompt="a cat"),
        unmapped={"<hypernet:old>", "<lora:ink>"},
    ),
    Case(
        "embeddings",
        text(EULER, 'TI hashes: "negativeXL_D: fff5d51ab655, mine: 0102030405"', negative="negativeXL_D, mine"),
        of("euler", "linspace", negative_prompt="negativeXL_D, mine"),
        files={
            "embeddings": [
                {"file": "negativeXL_D", "word": "negativeXL_D", "hash": "fff5d51ab655"},
                {"file": "mine", "word": "mine", "hash": "0102030405"},
            ]
        },
    ),
    # ---- images as input, passes
    Case(
        "image to image",
        text(EULER, "Denoising strength: 0.55, Init image hash: 99aa"),
        of("euler", "linspace", strength=0.55),
        sources={"image"},
    ),
    Case(
        "inpainting",
        text(EULER, "Denoising strength: 0.75, Mask blur: 4, Inpaint area: Only masked, Masked area padding: 48"),
        of("euler", "linspace", strength=0.75, mask_padding=48),
        unmapped={"Mask blur"},
        sources={"image", "mask"},
    ),
    Case(
        "inpainting with the usual padding",
        text(EULER, "Denoising strength: 0.75, Inpaint area: Only masked"),
        of("euler", "linspace", strength=0.75, mask_padding=32),
        sources={"image", "mask"},
    ),
    Case(
        "inpainting of the whole, inverted, filled",
        text(
            EULER,
            "Denoising strength: 1, Mask mode: Inpaint not masked, Masked content: latent noise, Conditional mask weight: 1.0",
        ),
        of("euler", "linspace", strength=1),
        unmapped={"Mask mode", "Masked content"},
        sources={"image", "mask"},
    ),
    Case(
        "hires",
        text("Sampler: DPM++ 2M, Schedule type: Karras", HIRES),
        of(
            "dpmpp_2m", "karras", hires={"scale": 1.5, "steps": 10, "upscaler": "latent_nearest_exact", "strength": 0.4}
        ),
    ),
    Case(
        "hires with all that it can have",
        text(
            EULER,
            'Denoising strength: 0.3, Hires prompt: "a tower, tall", Hires negative prompt: fog, Hires sampler: DPM++ 2M, '
            "Hires schedule type: Karras, Hires resize: 1536x0, Hires upscaler: R-ESRGAN 4x+, Hires CFG Scale: 5, "
            "Hires checkpoint: other [aabbccddee]",
        ),
        of(
            "euler",
            "linspace",
            hires={
                "size": [1536, 1536],
                "strength": 0.3,
                "upscaler": "RealESRGAN_x4plus",
                "prompt": "a tower, tall",
                "negative_prompt": "fog",
                "sampler": "dpmpp_2m",
                "schedule": "karras",
            },
        ),
        unmapped={"Hires CFG Scale", "Hires checkpoint"},
    ),
    Case(
        "hires with a network of the user's",
        text(EULER, "Denoising strength: 0.4, Hires upscale: 1.5, Hires upscaler: 4x-UltraSharp"),
        of("euler", "linspace", hires={"scale": 1.5, "strength": 0.4, "upscaler": "4x-UltraSharp"}),
    ),
    Case(
        "hires with an upscaler without a name",
        text(EULER, 'Denoising strength: 0.4, Hires upscale: 1.5, Hires upscaler: "  "'),
        of("euler", "linspace", hires={"scale": 1.5, "strength": 0.4}),
    ),
    Case(
        "hires with a network of another architecture",
        text(EULER, "Denoising strength: 0.4, Hires upscale: 1.5, Hires upscaler: SwinIR 4x"),
        of("euler", "linspace", hires={"scale": 1.5, "strength": 0.4, "upscaler": "lanczos"}),
        unmapped={"Hires upscaler"},
    ),
    Case(
        "the refiner",
        text(EULER, "Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.8"),
        of("euler", "linspace", refine_at=0.8),
        files={"refiner": "sd_xl_refiner_1.0", "hash of refiner": "7440042bbd"},
    ),
    Case(
        "the refiner of 1.7 counts steps",
        text(EULER, "Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.7", version="v1.7.0"),
        of("euler", "linspace", refine_at=0.7),
        files={"refiner": "sd_xl_refiner_1.0", "hash of refiner": "7440042bbd"},
        base=BASE | {"compat": {"profile": "a1111", "hand_off": "steps"}},
    ),
    # ---- the rest
    Case(
        "variation, VAE, noise",
        text(
            EULER,
            "VAE hash: 235745af8d, VAE: sdxl_vae.safetensors, Variation seed: 77, Variation seed strength: 0.25, RNG: CPU",
        ),
        of("euler", "linspace", variation_seed=77, variation_strength=0.25),
        files={"vae": "sdxl_vae.safetensors", "hash of vae": "235745af8d"},
        base=BASE | {"compat": {"profile": "a1111", "noise": "cpu", "tree_noise": "cpu"}},
    ),
    Case(
        "clip skip is ignored for SDXL",
        text(EULER, "Clip skip: 3, ENSD: 31337, Token merging ratio: 0.5, Tiling: True"),
        of("euler", "linspace"),
        unmapped={"Clip skip", "Token merging ratio", "Tiling"},
        base=BASE | {"compat": {"profile": "a1111", "ensd": 31337}},
    ),
    Case("clip skip 2", text(EULER, "Clip skip: 2, User: me"), of("euler", "linspace")),
    Case(
        "options that have no counterpart",
        text(
            EULER,
            'Discard penultimate sigma: True, SGM noise multiplier: True, Pad conds: True, NGMS: 1.5, ControlNet 0: "Module: canny, Model: x, Weight: 1", Schedule max sigma: 10',
        ),
        of("euler", "linspace"),
        unmapped={"Pad conds", "NGMS", "ControlNet 0", "Schedule max sigma"},
        base=BASE
        | {
            "compat": {
                "profile": "a1111",
                "start_scale": "root",
                "discard_penultimate": ["dpm_2", "dpm_2_ancestral", "dpmpp_3m_sde", "euler"],
            }
        },
    ),
    Case(
        "an extension's template behind it",
        text(EULER) + "\nTemplate: a __house__",
        of("euler", "linspace"),
        unmapped={"text behind the parameters"},
    ),
    # ---- Forge
    Case(
        "Forge",
        text(
            "Sampler: DPM++ 2M SDE, Schedule type: Karras",
            "Clip skip: 3",
            version="f2.0.1v1.10.1-previous-664-gd557aef9",
        ),
        of("dpmpp_2m_sde", "karras", clip_skip=1),
        tool="Forge",
        base=BASE | {"compat": FORGE | {"clip_skip": "both"}},
    ),
    Case(
        "Forge of 1.8",
        text("Sampler: DPM++ 2M", version="f0.0.17v1.8.0rc-latest-276-g29be1da7"),
        of("dpmpp_2m", "linspace"),
        tool="Forge",
        base=BASE | {"compat": FORGE},
    ),
    Case(
        "Forge's refiner, by steps",
        text(
            "Sampler: Euler, Schedule type: Karras",
            "Refiner: fine [0123456789]",
            "Refiner switch at: 0.8",
            version="f2.0.1v1.10.1",
        ),
        of("euler", "karras", refine_at=0.8),
        tool="Forge",
        files={"refiner": "fine", "hash of refiner": HASH},
        base=BASE | {"compat": FORGE | {"hand_off": "steps"}},
    ),
    Case(
        "Forge's schedules and modules",
        text(
            "Sampler: Euler a, Schedule type: Turbo",
            "Module 1: sdxl_vae, Module 2: clip_l, Distilled CFG Scale: 3.5",
            version="f2.0.1v1.10.1",
        ),
        of("euler_ancestral", "trailing"),
        tool="Forge",
        base=BASE | {"compat": FORGE},
        files={"vae": "sdxl_vae"},
        unmapped={"Module 2", "Distilled CFG Scale"},
    ),
    # ---- Civitai
    Case(
        "Civitai's generator",
        "a fox\nNegative prompt: blur\nSteps: 25, Sampler: DPM++ 2M Karras, CFG scale: 3.5, Seed: 1234567890, Size: 832x1216, "
        "Clip skip: 2, Created Date: 2024-09-23T06:17:42.9952795Z, Civitai resources: "
        '[{"type":"checkpoint","modelVersionId":128078,"modelName":"Some Model, XL","modelVersionName":"v1.0"},'
        '{"type":"lora","weight":0.85,"modelVersionId":21,"modelName":"Ink: [drawn]","modelVersionName":"v2"},'
        '{"type":"embed","modelVersionId":134583,"modelName":"negativeXL","modelVersionName":"D"}], '
        'Civitai metadata: {"remixOfId":1}',
        {
            "prompt": "a fox",
            "negative_prompt": "blur",
            "steps": 25,
            "guidance_scale": 3.5,
            "seed": 1234567890,
            "width": 832,
            "height": 1216,
            "sampler": "dpmpp_2m",
            "schedule": "karras",
            "loras": [{"file": "Ink: [drawn] v2", "weight": 0.85}],
        },
        tool="Civitai",
        model=("Some Model, XL v1.0", None),
        loras=[{"file": "Ink: [drawn] v2", "weight": 0.85}],
        unmapped={"Civitai resources: negativeXL D"},
    ),
    Case(
        "Civitai without a negative prompt",
        "a fox\nNegative prompt: Steps: 25, Sampler: DPM++ 2M, CFG scale: 4, Seed: 5, Size: 1024x1024, Clip skip: 4, "
        'Civitai resources: [{"type":"checkpoint","modelVersionId":9}], Civitai metadata: {}',
        {
            "prompt": "a fox",
            "steps": 25,
            "guidance_scale": 4,
            "seed": 5,
            "width": 1024,
            "height": 1024,
            "sampler": "dpmpp_2m",
            "schedule": "linspace",
            "clip_skip": 2,
        },
        tool="Civitai",
        model=("civitai 9", None),
        base=BASE | {"compat": {"profile": "a1111", "clip_skip": "both"}},
    ),
    Case(
        "AUTOMATIC1111 with Civitai's hashes",
        text(
            EULER,
            'Hashes: {"model": "0123456789", "LORA:ink": "aabbccddee", "vae": "235745af8d", "embed:bad": "1122334455"}',
            prompt="a cat <lora:ink:1>",
            negative="bad",
        ),
        of("euler", "linspace", prompt="a cat", negative_prompt="bad", loras=[{"file": "ink", "weight": 1.0}]),
        loras=[{"file": "ink", "weight": 1.0, "hash": "aabbccddee"}],
        files={"embeddings": [{"file": "bad", "word": "bad", "hash": "1122334455"}]},
    ),
    Case(
        "a LoRA of which only the hash is known",
        text(EULER, 'Lora hashes: "ink: aabbccddeeff"'),
        of("euler", "linspace"),
        unmapped={"LoRA ink"},
    ),
    # ---- other writers
    Case(
        "another program",
        text(EULER, "App: SD.Next, Parser: Full parser", version="a1b2c3d"),
        of("euler", "linspace"),
        tool="SD.Next",
        unmapped={"Parser"},
    ),
    Case(
        "Windows' line ends",
        text(EULER, negative="fog").replace("\n", "\r\n"),
        of("euler", "linspace", negative_prompt="fog"),
    ),
    Case("no prompt", text(EULER, prompt=""), of("euler", "linspace", prompt="")),
    # ---- texts that were copied by hand
    Case(
        "all in one line",
        f"a lighthouse, Negative prompt: fog, rain Steps: 20, {EULER}, CFG scale: 7, Seed: 12, Size: 1024x1024, {END}",
        of("euler", "linspace", prompt="a lighthouse,", negative_prompt="fog, rain"),
    ),
    Case(
        "in one line, with no negative prompt in it",
        f"a lighthouse Negative prompt: Steps: 20, {EULER}, CFG scale: 7, Seed: 12, Size: 1024x1024, {END}",
        of("euler", "linspace"),
    ),
    Case(
        "in one line without a negative prompt",
        f"a lighthouse Steps: 20, {EULER}, CFG scale: 7, Seed: 12, Size: 1024x1024, {END}",
        of("euler", "linspace"),
    ),
    Case(
        "steps that are not the first field",
        f"a lighthouse\n{EULER}, Steps: 20, CFG scale: 7, Seed: 12, Size: 1024x1024, {END}",
        of("euler", "linspace"),
    ),
    Case(
        "fields in several lines",
        f"a lighthouse\nSteps: 20, {EULER}, CFG scale: 7,\nSeed: 12, Size: 1024x1024, \n{END}\nTemplate: a",
        of("euler", "linspace"),
        unmapped={"text behind the parameters"},
    ),
    Case("the name of the PNG's text", f"parameters: {text(EULER)}", of("euler", "linspace")),
    Case("strength 0 is text to image", text(EULER, "Denoising strength: 0"), of("euler", "linspace")),
    Case(
        "Civitai's identifiers",
        text(
            EULER,
            'Civitai resources: [{"modelName": "Ink", "versionName": "v2", "weight": 0.8, '
            '"air": "urn:air:sdxl:lora:civitai:1@2"}, '
            '{"modelName": "Bad", "versionName": "v1", "air": "urn:air:sdxl:embedding:civitai:3@4"}]',
            version="ComfyUI",
        ),
        of("euler", "linspace", loras=[{"file": "Ink v2", "weight": 0.8}]),
        tool="ComfyUI",
        base=COMFYUI,
        loras=[{"file": "Ink v2", "weight": 0.8}],
        unmapped={"Civitai resources: Bad v1"},
    ),
    # ---- other tools, and nodes of ComfyUI, that write this text
    Case(
        "nodes of ComfyUI that save it",
        text("Sampler: DPM++ 2M", "Clip skip: 3", version="ComfyUI"),
        of("dpmpp_2m", "linspace", clip_skip=1),
        tool="ComfyUI",
        base=COMFYUI,
    ),
    Case(
        "a name of ComfyUI with its schedule",
        text("Sampler: dpmpp_2m_sde_gpu_karras", version="ComfyUI"),
        of("dpmpp_2m_sde", "karras"),
        tool="ComfyUI",
        base=COMFYUI,
    ),
    Case("the schedule's other name", text("Sampler: DPM++ 2M, Scheduler: Karras"), of("dpmpp_2m", "karras")),
    Case(
        "a model by its title",
        text(EULER).replace(f"Model hash: {HASH}, Model: base_v1", f"Model: SDXL\\base_v1 [{HASH}]"),
        of("euler", "linspace"),
    ),
    Case(
        "Fooocus",
        text(
            "Sampler: DPM++ 2M SDE Karras, Scheduler: karras, VAE: Default (model), Sharpness: 2",
            'ADM Guidance: "(1.5, 0.8, 0.3)", Lora hashes: "ink: 4852686128", Lora weights: "ink: 0.1"',
            version="Fooocus v2.5.5",
        ),
        of("dpmpp_2m_sde", "karras", loras=[{"file": "ink", "weight": 0.1}]),
        tool="Fooocus",
        loras=[{"file": "ink", "weight": 0.1, "hash": "4852686128"}],
        unmapped={"ADM Guidance", "Sharpness"},
    ),
    Case(
        "SD.Next's rescale",
        text(f"{EULER}, CFG rescale: 0.7, App: SD.Next, Pipeline: StableDiffusionXLPipeline", version="8b73cb6"),
        of("euler", "linspace", guidance_rescale=0.7),
        tool="SD.Next",
    ),
    Case(
        "stable-diffusion.cpp",
        text("Eta: 0.000000, RNG: cuda, Sampler: euler_a karras", version="stable-diffusion.cpp"),
        of("euler_ancestral", "karras"),
        tool="stable-diffusion.cpp",
    ),
    Case(
        "stable-diffusion.cpp's name of the uniform schedule",
        text("RNG: cuda, Sampler: dpm++2m discrete", version="stable-diffusion.cpp"),
        of("dpmpp_2m", "linspace"),
        tool="stable-diffusion.cpp",
    ),
    Case(
        "fields in two lines without a comma",
        f"a lighthouse\nSteps: 20, Sampler: Euler\nSchedule type: Uniform, CFG scale: 7, Seed: 12, Size: 1024x1024, {END}",
        of("euler", "linspace"),
    ),
    Case(
        "a comma before the second line",
        f"a lighthouse\nSteps: 20, {EULER}, CFG scale: 7, Seed: 12, Size: 1024x1024\n, {END}",
        of("euler", "linspace"),
    ),
    Case(
        "line breaks as exiftool prints them",
        f"Parameters                      : a lighthouse.Negative prompt: fog.Steps: 20, {EULER}, CFG scale: 7, Seed: 12,"
        f" Size: 1024x1024, {END}",
        of("euler", "linspace", prompt="a lighthouse.", negative_prompt="fog"),
    ),
]
