"""Fields of AUTOMATIC1111's text that have no counterpart here, and why."""

from __future__ import annotations

NO_EFFECT = (
    *("User", "Created Date", "Civitai metadata", "Batch size", "Batch pos", "Lora hashes hash", "Time taken"),
    *("Cache FP16 weight for LoRA", "Hires Module 1", "Conditional mask weight"),
    *("Operations", "Pipeline", "Raw prompt", "Raw negative prompt"),
    *("Template", "Negative Template", "Wildcard prompt", "Wildcard negative prompt", "File includes"),
)
"""Fields that do not change an image. The last ones are what wildcards stood in; the prompt has what came of them."""

DEFAULT_REASON = "it is an option of an extension, or of another version, that is not known here"
REASONS = {
    "ADM Guidance": "both sides have the sizes of the request, in all steps",
    "ADetailer": "an extension repainted parts of the image",
    "Beta schedule": "it belongs to another schedule",
    "Civitai resources": "it is not a list of objects",
    "ControlNet": "it is an extension's; give --control where there is one",
    "Denoising strength": "it belongs to a second pass that is not stated",
    "Distilled CFG": "it belongs to models that take guidance as an input",
    "Downcast alphas_cumprod": "the noise schedule is computed in full precision",
    "Eta": "the sampler has no such option",
    "FP8 weight": "its layers in 8 bits are others, without scales; --fp8 keeps transformer blocks in float8",
    "Face restoration": "another network changed the image",
    "Hires": "a second pass has no such option",
    "Hypernet": "hypernetworks are not read",
    "Image CFG scale": "it belongs to models that edit by instruction",
    "Init image hash": "the file it belongs to is not stated",
    "Mask blur": "the mask is taken as it is; give one that is blurred by so many pixels",
    "Mask mode": "white is repainted; give the mask inverted",
    "Masked content": "the masked part starts from the image; give an image that is filled there",
    "NGMS": "the negative prompt acts in all steps; guidance_interval can leave some out",
    "Noise Schedule": "the noise schedule is the model's",
    "Noise multiplier": "the noise is not scaled",
    "Pad conds": "prompts of unequal length are not padded",
    "Performance": "its steps are stated; a LoRA of few steps may belong to it",
    "RNG": "the noise is drawn on the CPU, or as on an NVIDIA card",
    "Refiner switch": "there is no refiner",
    "Schedule max sigma": "the schedule covers the model's own range",
    "Schedule min sigma": "the schedule covers the model's own range",
    "Schedule rho": "it belongs to another schedule",
    "Seed resize from": "noise is drawn in the size of the image",
    "Sharpness": "nothing here filters the noise between steps",
    "Sigma": "it belongs to another sampler",
    "Skip Early CFG": "the negative prompt acts in all steps; guidance_interval can leave some out",
    "Tiling": "edges are not joined",
    "Style": "its words are in the prompt, or in no file",
    "TE": "the text encoders are the model's",
    "Token merging ratio": "tokens are not merged, which changes an image a little",
    "UniPC": "it belongs to another sampler, or is no option here",
    "VAE Decoder": "the whole VAE decodes the image",
    "VAE Encoder": "the whole VAE encodes the image",
}
"""Why, by the beginnings of their names."""
