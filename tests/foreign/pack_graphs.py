"""Graphs with nodes that stand for several of ComfyUI's own, in the shapes that workflows of the field have."""

from __future__ import annotations

from typing import Any

from graphs import Case, Nodes, graph, image_to_image, link, node, two_samplers

INK, SILK = "ink.safetensors", "silk.safetensors"


def custom(sigmas: dict[str, Any], sampler: dict[str, Any] | None = None, **more: Any) -> Nodes:
    """`SamplerCustom` with nodes for its sampler and its sigmas."""
    links = {"positive": link("6"), "negative": link("7"), "latent_image": link("5"), "model": link("4")}
    values = {"add_noise": True, "noise_seed": 42, "cfg": 7.5, "sampler": link("30"), "sigmas": link("31"), **links}
    own = sampler or node("KSamplerSelect", sampler_name="dpmpp_2m")
    return graph(n3=node("SamplerCustom", **values), n30=own, n31=sigmas, **more)


def guided(guider: dict[str, Any]) -> Nodes:
    """`SamplerCustomAdvanced`, whose noise and guidance are nodes too."""
    links = {"sampler": link("30"), "sigmas": link("31"), "latent_image": link("5")}
    return graph(
        n3=node("SamplerCustomAdvanced", noise=link("32"), guider=link("33"), **links),
        n30=node("KSamplerSelect", sampler_name="dpmpp_2m"),
        n31=node("BasicScheduler", scheduler="karras", steps=20, denoise=1, model=link("4")),
        n32=node("RandomNoise", noise_seed=42),
        n33=guider,
    )


def said(text: dict[str, Any], **more: Any) -> Nodes:
    """The prompt comes from another node."""
    return graph(n6=node("CLIPTextEncode", text=link("40"), clip=link("4", 1)), n40=text, **more)


def with_loras(loader: dict[str, Any], **more: Any) -> Nodes:
    encoders = {
        n: node("CLIPTextEncode", text=text, clip=link("10", 1)) for n, text in (("n6", "a lighthouse"), ("n7", ""))
    }
    return graph({"model": link("10")}, n10=loader, **encoders, **more)


EFFICIENT = {
    "1": node(
        "Efficient Loader",
        **{"ckpt_name": "SDXL\\base_v1.safetensors", "vae_name": "Baked VAE", "clip_skip": -2, "lora_name": INK},
        **{"lora_model_strength": 0.8, "lora_clip_strength": 0.5, "positive": "a lighthouse", "negative": ""},
        **{"token_normalization": "none", "weight_interpretation": "A1111", "empty_latent_width": 832},
        **{"empty_latent_height": 1216, "batch_size": 1, "lora_stack": link("20")},
    ),
    "20": node(
        "LoRA Stacker",
        **{"input_mode": "simple", "lora_count": 1, "lora_name_1": SILK, "lora_wt_1": 0.3, "model_str_1": 1},
        **{"clip_str_1": 1, "lora_name_2": "old.safetensors", "lora_wt_2": 1, "model_str_2": 1, "clip_str_2": 1},
    ),
    "3": node(
        "KSampler (Efficient)",
        **{"seed": 42, "steps": 20, "cfg": 7.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1},
        **{"preview_method": "auto", "vae_decode": "true", "model": link("1"), "positive": link("1", 1)},
        **{"negative": link("1", 2), "latent_image": link("1", 3), "optional_vae": link("1", 4)},
    ),
    "9": node("SaveImage", images=link("3", 5)),
}
LORAS = [{"file": INK, "weight": 0.8, "text_weight": 0.5}, {"file": SILK, "weight": 0.3}]
CARD = {"profile": "comfyui", "tree_noise": "philox"}
CASES = [
    Case(
        "the first timestep of a distilled model",
        custom(node("SDTurboScheduler", steps=1, denoise=1), node("KSamplerSelect", sampler_name="euler_ancestral")),
        {"sampler": "euler_ancestral", "schedule": None, "steps": None, "timesteps": [999]},
    ),
    Case("sigmas of a schedule", custom(node("BasicScheduler", scheduler="karras", steps=20, denoise=1))),
    Case(
        "sigmas of a schedule's own node",
        custom(node("KarrasScheduler", steps=20, sigma_max=14.614642, sigma_min=0.0291675, rho=7)),
    ),
    Case(
        "sigmas in another range",
        custom(node("KarrasScheduler", steps=20, sigma_max=10, sigma_min=0.0291675, rho=7)),
        {},
        {"KSampler 3: other options"},
    ),
    Case(
        "sigmas that were found",
        custom(node("AlignYourStepsScheduler", model_type="SDXL", steps=20, denoise=1)),
        {"schedule": "align_your_steps"},
    ),
    Case(
        "sigmas of no node that is known",
        custom(node("GITSScheduler", steps=20)),
        {"schedule": None},
        {"KSampler 3: other options"},
    ),
    Case(
        "a sampler with options",
        custom(
            node("BasicScheduler", scheduler="karras", steps=20, denoise=1),
            node("SamplerDPMPP_2M_SDE", solver_type="heun", eta=0.5, s_noise=1.02, noise_device="gpu"),
        ),
        {"sampler": "dpmpp_2m_sde_heun", "eta": 0.5, "sampler_options": {"s_noise": 1.02}, "compat": CARD},
    ),
    Case(
        "guidance in a node",
        guided(node("CFGGuider", cfg=7.5, model=link("4"), positive=link("6"), negative=link("7"))),
    ),
    Case(
        "no guidance",
        guided(node("BasicGuider", model=link("4"), conditioning=link("6"))),
        {"guidance_scale": 1, "negative_prompt": None},
    ),
    Case(
        "other guidance",
        guided(node("PerpNegGuider", cfg=7.5, model=link("4"), positive=link("6"), negative=link("7"))),
        {},
        {"KSampler 3: other options"},
    ),
    Case(
        "a pack's loader and sampler",
        EFFICIENT,
        {"loras": LORAS},
        {"weight_interpretation A1111 1/weight_interpretation"},
    ),
    Case(
        "a pack's sampler with more options",
        graph(
            n3={
                **graph()["3"],
                "class_type": "KSampler //Inspire",
                "inputs": {**graph()["3"]["inputs"], "noise_mode": "CPU"},
            }
        ),
        {},
        {"KSampler 3: other options"},
    ),
    Case(
        "LoRAs as objects",
        with_loras(
            node(
                "Power Lora Loader (rgthree)",
                **{"PowerLoraLoaderHeaderWidget": {"type": "x"}, "model": link("4"), "clip": link("4", 1)},
                lora_1={"on": True, "lora": INK, "strength": 0.8, "strengthTwo": 0.5},
                lora_2={"on": False, "lora": "old.safetensors", "strength": 1},
                lora_3={"on": True, "lora": SILK, "strength": 0.3},
            )
        ),
        {"loras": LORAS},
    ),
    Case(
        "a loader of no LoRA",
        with_loras(node("Power Lora Loader (rgthree)", model=link("4"), clip=link("4", 1), header={"type": "x"})),
    ),
    Case(
        "LoRAs of a stack in a stack",
        with_loras(
            node("CR Apply LoRA Stack", model=link("4"), clip=link("4", 1), lora_stack=link("20")),
            n20=node(
                "CR LoRA Stack",
                **{"switch_1": "On", "lora_name_1": SILK, "model_weight_1": 0.3, "clip_weight_1": 0.3},
                **{"switch_2": "Off", "lora_name_2": "old.safetensors", "model_weight_2": 1, "clip_weight_2": 1},
                lora_stack=link("21"),
            ),
            n21=node(
                "LoRA Stacker",
                **{"input_mode": "advanced", "lora_count": 1, "lora_name_1": INK, "lora_wt_1": 1, "model_str_1": 0.8},
                clip_str_1=0.5,
            ),
        ),
        {"loras": LORAS},
    ),
    Case(
        "LoRAs in numbered names",
        with_loras(
            node(
                "Lora Loader Stack (rgthree)",
                **{"lora_01": INK, "strength_01": 0.8, "lora_02": "None", "strength_02": 1},
                **{"model": link("4"), "clip": link("4", 1)},
            )
        ),
        {"loras": [{"file": INK, "weight": 0.8}]},
    ),
    Case(
        "LoRAs of a manager",
        with_loras(
            node(
                "Lora Loader (LoraManager)",
                **{"text": "<lora:ink:0.8:0.5>", "model": link("4"), "clip": link("4", 1)},
                loras={
                    "__value__": [
                        {"name": "ink.safetensors", "strength": "0.80", "clipStrength": "0.50", "active": True},
                        {"name": "old", "strength": 1, "active": False},
                        {"name": "silk.safetensors", "strength": 0.3, "active": True},
                    ]
                },
            )
        ),
        {"loras": LORAS},
    ),
    Case(
        "LoRAs of a list that is not known",
        with_loras(
            node("CR Apply LoRA Stack", model=link("4"), clip=link("4", 1), lora_stack=link("20")),
            n20=node("SomeLoraStack", number=3),
        ),
        {},
        {"CR Apply LoRA Stack 10"},
    ),
    Case(
        "a pack's text encoder",
        graph(n6=node("smZ CLIPTextEncode", text="a lighthouse", parser="A1111", text_g="", clip=link("4", 1))),
        {},
        {"smZ CLIPTextEncode 6: text"},
    ),
    Case(
        "a joined text",
        said(
            node("StringConcatenate", string_a="a", string_b=link("41"), delimiter=" "),
            n41=node("Text", text="lighthouse"),
        ),
    ),
    Case(
        "a text that was shown",
        said(node("ShowText|pysssss", text=link("41"), text_0="a lighthouse"), n41=node("Tagger")),
    ),
    Case(
        "a text that a pattern became",
        said(node("ImpactWildcardProcessor", wildcard_text="{a|b}", populated_text="a lighthouse", seed=1)),
    ),
    Case(
        "a text of chance",
        said(node("DPRandomGenerator", text="a {cat|dog}", seed=1, autorefresh="No")),
        {"prompt": ""},
        {"CLIPTextEncode 6: text"},
    ),
    Case(
        "texts in a style",
        said(
            node("SDXLPromptStyler", text_positive="a lighthouse", text_negative="blur", style="anime"),
            n7=node("CLIPTextEncode", text=link("40", 1), clip=link("4", 1)),
        ),
        {"negative_prompt": "blur"},
        {"CLIPTextEncode 6: text", "CLIPTextEncode 7: text"},
    ),
    Case(
        "texts in no style",
        said(node("SDXLPromptStyler", text_positive="a lighthouse", text_negative="", style="base")),
    ),
    Case(
        "a number that another node makes",
        graph({"cfg": link("40")}, n40=node("SimpleMath", a=3, b=link("5"))),
        {"guidance_scale": None},
        {"KSampler 3: cfg"},
    ),
    Case(
        "a size in words",
        graph(n5=node("SDXLEmptyLatentSizePicker+", resolution="832x1216 (0.68)", batch_size=2, width_override=0)),
        {"num_images": 2},
        {"SDXLEmptyLatentSizePicker+ 5"},
    ),
    Case(
        "empty latents of another node",
        graph(n5=node("EmptySD3LatentImage", width=832, height=1216, batch_size=1)),
        {},
        {"EmptySD3LatentImage 5"},
    ),
    Case(
        "an image of a pack's loader",
        image_to_image(n10=node("LoadImageBase64", image="iVBORw0KGgo=")),
        {"strength": 0.6, "width": None, "height": None},
        set(),
        {"image": None},
    ),
    Case(
        "a sampler of the second pass that is missing",
        two_samplers(
            node("LatentUpscaleBy", samples=link("3"), upscale_method="bilinear", scale_by=1.5), sampler_name="seeds_2"
        ),
        {"hires": {"scale": 1.5, "steps": 10, "strength": 0.5, "upscaler": "latent"}},
        {"KSampler 12: sampler_name"},
    ),
    Case(
        "control and a reference",
        graph(
            {"positive": link("20"), "negative": link("20", 1), "model": link("23")},
            n20=node("ControlNetApplyAdvanced", strength=0.8, positive=link("6"), negative=link("7")),
            n23=node("IPAdapterAdvanced", weight=0.6, model=link("4")),
        ),
        {},
        {"ControlNetApplyAdvanced 20", "IPAdapterAdvanced 23"},
    ),
    Case("a pack's node that saves", graph(n9=node("Image Saver", images=link("8"), modelname="x"))),
]
