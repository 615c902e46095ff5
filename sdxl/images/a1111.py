"""AUTOMATIC1111's parameter text, for the tools that read it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from .a1111_hires import first_size, hires_facts, variation_facts

# AUTOMATIC1111 quotes what holds a comma, a colon or a line break. Its reader would also take quotes at both ends, and
# spaces at the start, for its own, and other readers take more characters for the end of a line.
_QUOTED = re.compile(r'[,:\x00-\x1f\x7f-\x9f\u2028\u2029]|^["\s]|\s$')


def parameters_text(parameters: Mapping[str, Any], size: tuple[int, int]) -> str:
    """AUTOMATIC1111's text for an image of (width, height), from an entry of `Result.parameters`."""
    request = parameters["request"]
    loras, embeddings = request.get("loras") or [], parameters["model"].get("embeddings") or []
    tags = [_lora_tag(lora) for lora in loras if not _is_tagged(lora, request)]
    lines = [" ".join([request["prompt"], *tags])]
    if request.get("negative_prompt"):
        lines.append(f"Negative prompt: {request['negative_prompt']}")
    facts = {
        "Steps": request["steps"],
        "Sampler": _a1111_name(SAMPLERS, request["sampler"]),
        "Schedule type": _a1111_name(SCHEDULES, request["schedule"]),
        "CFG scale": _first(request["guidance_scale"]),
        "Seed": request["seed"],
        "Size": first_size(request) or f"{size[0]}x{size[1]}",
        **_model_hash(parameters["model"].get("sha256")),
        "Model": Path(parameters["model"].get("model", "unknown")).name.removesuffix(".safetensors"),
        "RNG": _noise_source(request.get("compat")),
    }
    if request.get("strength") is not None:
        facts["Denoising strength"] = request["strength"]
    facts |= hires_facts(request) | variation_facts(request)
    if request.get("refine_at") is not None:
        facts["Refiner switch at"] = request["refine_at"]
    if request.get("clip_skip"):
        facts["Clip skip"] = request["clip_skip"] + 2  # AUTOMATIC1111's 2 is SDXL's default, the last layer but one
    facts |= _sampler_facts(request)
    if request.get("guidance_rescale"):
        facts["CFG Rescale phi"] = request["guidance_rescale"]
    if emphasis := _emphasis(request):
        facts["Emphasis"] = emphasis
    if hashes := parameters.get("lora_hashes"):
        facts["Lora hashes"] = ", ".join(f"{name}: {hash}" for name, hash in hashes.items())
    if embeddings:
        facts["TI hashes"] = ", ".join(f"{each['word']}: {each['hash'][:12]}" for each in embeddings)
    facts["Version"] = parameters["version"]
    lines.append(", ".join(f"{name}: {_quote(str(value))}" for name, value in facts.items() if value is not None))
    return "\n".join(lines)


def _noise_source(compat: Any) -> str:
    """Where the first noise came from: torch's generator on the CPU, or Philox (NV), as conventions say it."""
    profile = compat.get("profile") if isinstance(compat, Mapping) else compat
    noise = compat.get("noise") if isinstance(compat, Mapping) else None
    return "NV" if (noise or ("philox" if profile == "a1111" else "cpu")) == "philox" else "CPU"


def _first(scale: Any) -> Any:
    """The guidance scale; of one for each step the first."""
    return scale[0] if isinstance(scale, (list, tuple)) else scale


def _emphasis(request: Mapping[str, Any]) -> str | None:
    """AUTOMATIC1111's option for brackets as they were read here; None where that is its own way, or it has none."""
    if not re.search(r"[(\[]", request["prompt"] + (request.get("negative_prompt") or "")):
        return None
    if request.get("prompt_syntax", "plain") == "plain":
        return "None"
    return {"no_norm": "No norm", "none": "Ignore"}.get(request.get("emphasis") or "")


def _is_tagged(lora: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    """Whether the prompt itself asks for a LoRA."""
    asked = re.findall(r"<(?:lora|lyco):\s*([^<>:]*?)\s*[:>]", request["prompt"])
    return request.get("prompt_syntax") == "a1111" and str(lora["file"]) in asked


OPTIONS = {
    "s_churn": "Sigma churn",
    "s_tmin": "Sigma tmin",
    "s_tmax": "Sigma tmax",
    "s_noise": "Sigma noise",
    "rho": "Schedule rho",
    "alpha": "Beta schedule alpha",
    "beta": "Beta schedule beta",
    "order": "UniPC order",
}
"""AUTOMATIC1111's names for options of samplers and schedules."""


def _sampler_facts(request: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's options where they are not its defaults, under AUTOMATIC1111's names."""
    record, eta = SAMPLERS.get(request["sampler"]), request.get("eta")
    default = record.options.get("eta", 0.0) if record else 0.0
    name = "Eta DDIM" if request["sampler"] == "ddim" else "Eta"
    facts = {name: eta} if eta not in (None, default) else {}
    given = request.get("sampler_options") or {}
    return facts | {OPTIONS[each]: value for each, value in given.items() if each in OPTIONS}


def _lora_tag(lora: Mapping[str, Any]) -> str:
    """A LoRA as AUTOMATIC1111 has it in prompts: the text encoders' weight stands first, and alone for both."""
    weight, text_weight = lora["weight"], lora.get("text_weight")
    weights = f"{weight:g}" if text_weight in (None, weight) else f"{text_weight:g}:{weight:g}"
    return f"<lora:{Path(lora['file']).name.removesuffix('.safetensors')}:{weights}>"


def _model_hash(hashes: Any) -> dict[str, str]:
    """AUTOMATIC1111's hash of a model: the first digits of the SHA-256."""
    sha256 = hashes.get("model") if isinstance(hashes, Mapping) else None
    return {"Model hash": sha256[:10]} if isinstance(sha256, str) else {}


def _a1111_name(table: Mapping[str, Any], name: str | None) -> str | None:
    """AUTOMATIC1111's name for a sampler or schedule; ours where it has none, None for noise levels of one's own."""
    return (table[name].a1111 or name) if name is not None and name in table else name


def _quote(value: str) -> str:
    """A value as AUTOMATIC1111 quotes it: as JSON where its surroundings could be taken for it."""
    return json.dumps(value, ensure_ascii=False) if _QUOTED.search(value) else value
