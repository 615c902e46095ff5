"""ComfyUI's graphs, made by hand from its nodes, and the requests that they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BASE = {"prompt_syntax": "comfyui", "compat": "comfyui", "preset": "none"}
Nodes = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def link(name: str, slot: int = 0) -> list[Any]:
    return [name, slot]


def graph(sampler: dict[str, Any] | None = None, **nodes: dict[str, Any]) -> Nodes:
    """Text to image with one sampler, some of whose nodes or values are replaced."""
    values = {
        **{"seed": 42, "steps": 20, "cfg": 7.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0},
        **{"model": link("4"), "positive": link("6"), "negative": link("7"), "latent_image": link("5")},
        **(sampler or {}),
    }
    whole = {
        "3": node("KSampler", **values),
        "4": node("CheckpointLoaderSimple", ckpt_name="SDXL\\base_v1.safetensors"),
        "5": node("EmptyLatentImage", width=832, height=1216, batch_size=1),
        "6": node("CLIPTextEncode", text="a lighthouse", clip=link("4", 1)),
        "7": node("CLIPTextEncode", text="", clip=link("4", 1)),
        "8": node("VAEDecode", samples=link("3"), vae=link("4", 2)),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=link("8")),
    }
    return {name.removeprefix("n"): each for name, each in {**whole, **nodes}.items()}


REQUEST = {
    **{"prompt": "a lighthouse", "negative_prompt": "", "steps": 20, "guidance_scale": 7.5, "seed": 42},
    **{"sampler": "dpmpp_2m", "schedule": "karras", "width": 832, "height": 1216},
}
SIZED = {"width": None, "height": None}
SDXL_TEXT = node(
    "CLIPTextEncodeSDXL",
    **{"width": 2048, "height": 1536, "crop_w": 8, "crop_h": 16, "target_width": 1024, "target_height": 768},
    **{"text_g": "a storm", "text_l": "a lighthouse", "clip": link("4", 1)},
)


@dataclass(frozen=True)
class Case:
    """A graph, the arguments of the request that it means (beside `BASE`; None for one that is absent)."""

    name: str
    nodes: Nodes
    request: dict[str, Any] = field(default_factory=dict)
    unmapped: set[str] = field(default_factory=set)
    sources: dict[str, str | None] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)

    @property
    def expected(self) -> dict[str, Any]:
        return {name: value for name, value in (REQUEST | self.request).items() if value is not None}


def image_to_image(**more: dict[str, Any]) -> Nodes:
    latents = {"n5": node("VAEEncode", pixels=link("10"), vae=link("4", 2)), "n10": node("LoadImage", image="cat.png")}
    return graph({"denoise": 0.6}, **{**latents, **more})


def two_samplers(between: dict[str, Any], **second: Any) -> Nodes:
    """A second pass behind the first one, whose result went through the node `between`."""
    values = {
        **{"seed": 42, "steps": 10, "cfg": 7.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 0.5},
        **{"model": link("4"), "positive": link("6"), "negative": link("7"), "latent_image": link("11")},
        **second,
    }
    own = {"n11": between, "n12": node("KSampler", **values)}
    return graph(**own, n8=node("VAEDecode", samples=link("12"), vae=link("4", 2)))


def advanced(**values: Any) -> dict[str, Any]:
    usual = {
        **{"add_noise": "enable", "noise_seed": 42, "steps": 25, "cfg": 7.5, "sampler_name": "euler"},
        **{"scheduler": "normal", "start_at_step": 0, "end_at_step": 20, "return_with_leftover_noise": "enable"},
        **{"model": link("4"), "positive": link("6"), "negative": link("7"), "latent_image": link("5")},
    }
    return node("KSamplerAdvanced", **{**usual, **values})


REFINER = graph(
    n3=advanced(),
    n20=node("CheckpointLoaderSimple", ckpt_name="refiner.safetensors"),
    n21=node("CLIPTextEncodeSDXLRefiner", ascore=6.5, width=832, height=1216, text="a lighthouse", clip=link("20", 1)),
    n22=node("CLIPTextEncodeSDXLRefiner", ascore=2, width=832, height=1216, text="", clip=link("20", 1)),
    n23=advanced(
        **{"add_noise": "disable", "start_at_step": 20, "end_at_step": 10000, "return_with_leftover_noise": "disable"},
        **{"model": link("20"), "positive": link("21"), "negative": link("22"), "latent_image": link("3")},
    ),
    n8=node("VAEDecode", samples=link("23"), vae=link("4", 2)),
)
CASES = [
    Case("text to image", graph()),
    Case("a batch", graph(n5=node("EmptyLatentImage", width=832, height=1216, batch_size=4)), {"num_images": 4}),
    Case(
        "the third image of a batch",
        graph(
            {"latent_image": link("10")},
            n5=node("EmptyLatentImage", width=832, height=1216, batch_size=4),
            n10=node("LatentFromBatch", batch_index=2, length=1, samples=link("5")),
        ),
        {"compat": {"profile": "comfyui", "batch": [2, 4, 1]}},
    ),
    Case(
        "an image that the batch does not have",
        graph({"latent_image": link("10")}, n10=node("LatentFromBatch", batch_index=1, length=1, samples=link("5"))),
        {},
        {"LatentFromBatch 10: batch_index"},
    ),
    Case(
        "latents that are flipped",
        graph({"latent_image": link("10")}, n10=node("LatentFlip", flip_method="x-axis", samples=link("5"))),
        {},
        {"LatentFlip 10"},
    ),
    Case(
        "zeros for the negative prompt",
        graph({"negative": link("10")}, n10=node("ConditioningZeroOut", conditioning=link("6"))),
        {"negative_prompt": None},
    ),
    Case("simple", graph({"scheduler": "simple", "sampler_name": "euler"}), {"schedule": "simple", "sampler": "euler"}),
    Case(
        "ddim_uniform",
        graph({"scheduler": "ddim_uniform", "sampler_name": "ddim"}),
        {"schedule": "leading", "sampler": "ddim"},
    ),
    Case(
        "on the card",
        graph({"sampler_name": "dpmpp_2m_sde_gpu"}),
        {"sampler": "dpmpp_2m_sde", "compat": {"profile": "comfyui", "tree_noise": "philox"}},
    ),
    Case(
        "a sampler that is missing", graph({"sampler_name": "seeds_2"}), {"sampler": None}, {"KSampler 3: sampler_name"}
    ),
    Case(
        "LoRAs, in their order",
        graph(
            {"model": link("11")},
            n10=node(
                "LoraLoader",
                lora_name="style/ink.safetensors",
                strength_model=0.8,
                strength_clip=0.5,
                model=link("4"),
                clip=link("4", 1),
            ),
            n11=node("LoraLoaderModelOnly", lora_name="detail.safetensors", strength_model=1.2, model=link("10")),
            n6=node("CLIPTextEncode", text="a lighthouse", clip=link("10", 1)),
            n7=node("CLIPTextEncode", text="", clip=link("10", 1)),
        ),
        {
            "loras": [
                {"file": "ink.safetensors", "weight": 0.8, "text_weight": 0.5},
                {"file": "detail.safetensors", "weight": 1.2, "text_weight": 0},
            ]
        },
    ),
    Case(
        "clip skip",
        graph(
            n10=node("CLIPSetLastLayer", stop_at_clip_layer=-3, clip=link("4", 1)),
            n6=node("CLIPTextEncode", text="a lighthouse", clip=link("10")),
            n7=node("CLIPTextEncode", text="", clip=link("10")),
        ),
        {"clip_skip": 1},
    ),
    Case(
        "the last layer, for one prompt",
        graph(
            n10=node("CLIPSetLastLayer", stop_at_clip_layer=-1, clip=link("4", 1)),
            n6=node("CLIPTextEncode", text="a lighthouse", clip=link("10")),
        ),
        {},
        {"stop_at_clip_layer", "clip of the negative prompt"},
    ),
    Case(
        "sizes and two prompts",
        graph(n6=SDXL_TEXT),
        {
            "prompt_2": "a storm",
            "original_size": [1536, 2048],
            "crop_top_left": [16, 8],
            "target_size": [768, 1024],
            "negative_original_size": [1216, 832],
            "negative_crop_top_left": [0, 0],
            "negative_target_size": [1216, 832],
        },
    ),
    Case(
        "another VAE",
        graph(
            n10=node("VAELoader", vae_name="sdxl_vae.safetensors"),
            n8=node("VAEDecode", samples=link("3"), vae=link("10")),
        ),
        files={"vae": "sdxl_vae.safetensors"},
    ),
    Case(
        "an embedding",
        graph(n6=node("CLIPTextEncode", text="a embedding:mine, cat", clip=link("4", 1))),
        {"prompt": "a embedding:mine, cat"},
        files={"embeddings": [{"file": "mine", "word": "mine"}]},
    ),
    Case(
        "rescaled guidance",
        graph({"model": link("10")}, n10=node("RescaleCFG", multiplier=0.7, model=link("4"))),
        {"guidance_rescale": 0.7},
    ),
    Case(
        "FreeU",
        graph({"model": link("10")}, n10=node("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2, model=link("4"))),
        {},
        {"FreeU_V2 10"},
    ),
    Case("image to image", image_to_image(), {**SIZED, "strength": 0.6}, sources={"image": "cat.png"}),
    Case(
        "image to image, scaled, repeated",
        image_to_image(
            n11=node("ImageScale", upscale_method="lanczos", width=512, height=768, crop="disabled", image=link("10")),
            n5=node("VAEEncode", pixels=link("11"), vae=link("4", 2)),
            n12=node("RepeatLatentBatch", amount=3, samples=link("5")),
            n3=node("KSampler", **{**graph({"denoise": 0.6})["3"]["inputs"], "latent_image": link("12")}),
        ),
        {"width": 512, "height": 768, "strength": 0.6, "num_images": 3},
        sources={"image": "cat.png"},
    ),
    Case(
        "a mask in latents",
        graph(
            {"latent_image": link("12")},
            n10=node("LoadImage", image="cat.png"),
            n11=node("VAEEncode", pixels=link("10"), vae=link("4", 2)),
            n12=node("SetLatentNoiseMask", samples=link("11"), mask=link("13")),
            n13=node("LoadImageMask", image="hole.png", channel="red"),
        ),
        {**SIZED, "strength": 1},
        sources={"image": "cat.png", "mask": "hole.png"},
    ),
    Case(
        "VAEEncodeForInpaint",
        image_to_image(
            n5=node("VAEEncodeForInpaint", grow_mask_by=6, pixels=link("10"), vae=link("4", 2), mask=link("10", 1))
        ),
        {**SIZED, "strength": 0.6, "compat": {"profile": "comfyui", "hole": "grey", "grow_mask": 6}},
        {"LoadImage 10: image"},
        {"image": "cat.png", "mask": "cat.png"},
    ),
    Case(
        "an inpainting model",
        graph(
            {"positive": link("12", 0), "negative": link("12", 1), "latent_image": link("12", 2)},
            n10=node("LoadImage", image="cat.png"),
            n11=node("LoadImageMask", image="hole.png", channel="red"),
            n12=node(
                "InpaintModelConditioning",
                noise_mask=True,
                positive=link("6"),
                negative=link("7"),
                vae=link("4", 2),
                pixels=link("10"),
                mask=link("11"),
            ),
        ),
        {**SIZED, "strength": 1},
        sources={"image": "cat.png", "mask": "hole.png"},
    ),
    Case(
        "a second pass of latents",
        two_samplers(node("LatentUpscaleBy", upscale_method="bicubic", scale_by=1.5, samples=link("3"))),
        {"hires": {"scale": 1.5, "upscaler": "latent_bicubic", "steps": 10, "strength": 0.5}},
    ),
    Case(
        "a second pass with a sampler of its own",
        two_samplers(
            node(
                "LatentUpscale",
                upscale_method="nearest-exact",
                width=1248,
                height=1824,
                crop="disabled",
                samples=link("3"),
            ),
            **{"sampler_name": "euler", "scheduler": "normal", "seed": 43},
        ),
        {
            "hires": {
                "size": [1824, 1248],
                "upscaler": "latent_nearest_exact",
                "steps": 10,
                "strength": 0.5,
                "sampler": "euler",
                "schedule": "linspace",
            }
        },
        {"KSampler 12: seed"},
    ),
    Case(
        "a second pass of pixels",
        {
            **two_samplers(node("VAEEncode", pixels=link("13"), vae=link("4", 2))),
            "13": node("ImageScaleBy", upscale_method="lanczos", scale_by=2.0, image=link("14")),
            "14": node("VAEDecode", samples=link("3"), vae=link("4", 2)),
        },
        {"hires": {"scale": 2, "upscaler": "lanczos", "steps": 10, "strength": 0.5}},
    ),
    Case(
        "a second pass of pixels that a network enlarges",
        {
            **two_samplers(node("VAEEncode", pixels=link("13"), vae=link("4", 2))),
            "13": node("ImageScaleBy", upscale_method="lanczos", scale_by=0.375, image=link("15")),
            "14": node("VAEDecode", samples=link("3"), vae=link("4", 2)),
            "15": node("ImageUpscaleWithModel", upscale_model=link("16"), image=link("14")),
            "16": node("UpscaleModelLoader", model_name="ESRGAN/4x-UltraSharp.pth"),
        },
        {"hires": {"scale": 1.5, "upscaler": "4x-UltraSharp", "steps": 10, "strength": 0.5}},
    ),
    Case(
        "a second pass of what a network makes",
        {
            **two_samplers(node("VAEEncode", pixels=link("15"), vae=link("4", 2))),
            "14": node("VAEDecode", samples=link("3"), vae=link("4", 2)),
            "15": node("ImageUpscaleWithModel", upscale_model=link("16"), image=link("14")),
            "16": node("UpscaleModelLoader", model_name="RealESRGAN_x2plus.pth"),
        },
        {"hires": {"scale": 2, "upscaler": "RealESRGAN_x2plus", "steps": 10, "strength": 0.5}},
    ),
    Case(
        "a second pass at a given size of what a network without a known scale makes",
        {
            **two_samplers(node("VAEEncode", pixels=link("13"), vae=link("4", 2))),
            "13": node("ImageScale", upscale_method="area", width=1248, height=1824, crop="disabled", image=link("15")),
            "14": node("VAEDecode", samples=link("3"), vae=link("4", 2)),
            "15": node("ImageUpscaleWithModel", upscale_model=link("16"), image=link("14")),
            "16": node("UpscaleModelLoader", model_name="sharp.safetensors"),
        },
        {"hires": {"size": [1824, 1248], "upscaler": "sharp", "steps": 10, "strength": 0.5}},
        {"ImageScale 13"},
    ),
    Case(
        "the refiner",
        REFINER,
        {
            "steps": 25,
            "sampler": "euler",
            "schedule": "linspace",
            "refine_at": 0.8,
            "aesthetic_score": 6.5,
            "negative_aesthetic_score": 2,
        },
        files={"refiner": "refiner.safetensors"},
    ),
    Case(
        "values from other nodes",
        graph(
            {"seed": link("20"), "steps": link("21")},
            n20=node("PrimitiveInt", value=99),
            n21=node("Reroute", any=link("22")),
            n22=node("PrimitiveInt", value=30),
            n6=node("CLIPTextEncode", text=link("23"), clip=link("4", 1)),
            n23=node("PrimitiveStringMultiline", value="a boat"),
        ),
        {"seed": 99, "steps": 30, "prompt": "a boat"},
    ),
    Case(
        "two images, of which the later one is read",
        {
            **two_samplers(node("LatentUpscaleBy", upscale_method="bilinear", scale_by=2, samples=link("3"))),
            "30": node("VAEDecode", samples=link("3"), vae=link("4", 2)),
            "31": node("PreviewImage", images=link("30")),
        },
        {"hires": {"scale": 2, "upscaler": "latent", "steps": 10, "strength": 0.5}},
        {"other samplers"},
    ),
    Case(
        "a network that enlarges the result",
        graph(
            n10=node("ImageUpscaleWithModel", upscale_model=link("11"), image=link("8")),
            n11=node("UpscaleModelLoader", model_name="x4.pth"),
            n9=node("SaveImage", images=link("10")),
        ),
        {},
        {"ImageUpscaleWithModel 10"},
    ),
]
