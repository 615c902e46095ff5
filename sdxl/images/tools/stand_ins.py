"""ComfyUI's own nodes in the place of others that do the same: custom samplers, the loaders and samplers of packs, and
stacks of LoRAs.

A node that stands for several passes on what these give; their ids are its own with a name behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...errors import is_number
from .graph import REROUTE, Graph, Link, Node, literal, origin
from .stacks import Entry, stack_of
from .workflow import check_size

_SAMPLING = {"steps", "cfg", "sampler_name", "scheduler", "latent_image"}
_OWN = {"KSampler", "KSamplerAdvanced"}
_KNOWN = _SAMPLING | {
    *("seed", "noise_seed", "denoise", "model", "positive", "negative", "add_noise", "start_at_step", "end_at_step"),
    *("return_with_leftover_noise", "preview_method", "vae_decode", "optional_vae"),
}
REST = "other options"
"""The name of an input that a stand-in has where the node has more than it can say."""
_NO_FILE = ("None", "none", "Baked VAE", "Baked-VAE")
_DEVICE = {"dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "dpmpp_2m_sde_heun"}  # whose noise may come from the card


def plain(graph: Graph) -> Graph:
    """The graph with the stand-ins. Raises `ValueError` where they are too many."""
    found: Graph = {}
    for node in graph.values():
        for each in _stand_ins(graph, node):
            found[each.id] = each
        check_size(len(found))
    return found


def _stand_ins(graph: Graph, node: Node) -> Iterator[Node]:
    if node.kind in _BY_KIND:
        yield from _BY_KIND[node.kind](graph, node)
    elif "model" in node.inputs and (entries := stack_of(graph, node)) is not None:
        yield from _loras(node, entries, node.inputs.get("model"), node.inputs.get("clip"))
    elif node.kind not in _OWN and node.inputs.keys() >= _SAMPLING and node.inputs.keys() & {"seed", "noise_seed"}:
        yield from _sampler(node)
    else:
        yield node


def _link(node: Node, part: str, slot: int = 0) -> Link:
    return Link(f"{node.id}/{part}", slot)


def _part(node: Node, part: str, kind: str, **inputs: Any) -> Node:
    return Node(f"{node.id}/{part}", kind, {name: value for name, value in inputs.items() if value is not None})


def _passes(node: Node, *outputs: Any) -> Node:
    return Node(node.id, REROUTE, {f"slot {n}": value for n, value in enumerate(outputs) if value is not None})


def _loras(node: Node, entries: list[Entry], model: Any, clip: Any) -> Iterator[Node]:
    """A loader for each LoRA, the first one next to the model."""
    for n, each in enumerate(entries):
        kind = "LoraLoaderModelOnly" if clip is None else "LoraLoader"
        values = {"lora_name": each.name, "strength_model": each.weight, "strength_clip": each.text_weight}
        yield _part(node, f"lora {n + 1}", kind, model=model, clip=clip, **values)
        model, clip = _link(node, f"lora {n + 1}"), None if clip is None else _link(node, f"lora {n + 1}", 1)
    yield _passes(node, model, clip)


# ---- samplers


def _sampler(node: Node) -> Iterator[Node]:
    """A sampler of a pack with the inputs of ComfyUI's own, which may also give what it got, and an image."""
    kind = "KSamplerAdvanced" if "start_at_step" in node.inputs else "KSampler"
    rest = {name: value for name, value in node.inputs.items() if name not in _KNOWN}
    own = {name: value for name, value in node.inputs.items() if name in _KNOWN}
    seed = own.pop("seed", own.pop("noise_seed", None))
    own["noise_seed" if kind == "KSamplerAdvanced" else "seed"] = seed
    if "Efficient" not in node.kind:
        yield Node(node.id, kind, own | ({REST: f"{node.kind}: {', '.join(rest)}"} if rest else {}))
        return
    options = [name for name, value in rest.items() if isinstance(value, Link)]  # a script, such as of a second pass
    yield _part(node, "sampler", kind, **own, **({REST: f"{node.kind}: {', '.join(options)}"} if options else {}))
    yield _part(node, "decoder", "VAEDecode", samples=_link(node, "sampler"), vae=own.get("optional_vae"))
    same = (own.get(name) for name in ("model", "positive", "negative"))
    yield _passes(node, *same, _link(node, "sampler"), own.get("optional_vae"), _link(node, "decoder"))


def _custom(graph: Graph, node: Node) -> Iterator[Node]:
    """`SamplerCustom`, whose sampler and sigmas are nodes."""
    values = {name: node.inputs.get(name) for name in ("cfg", "model", "positive", "negative", "latent_image")}
    seed = node.inputs.get("noise_seed")
    yield Node(node.id, "KSampler", _given(values | {"seed": seed} | _of_nodes(graph, node)))


def _custom_advanced(graph: Graph, node: Node) -> Iterator[Node]:
    """`SamplerCustomAdvanced`, whose noise and guidance are nodes too."""
    noise, guider = origin(graph, node.inputs.get("noise")), origin(graph, node.inputs.get("guider"))
    values: dict[str, Any] = {"latent_image": node.inputs.get("latent_image")}
    rest = []
    if noise is not None and noise[0].kind == "RandomNoise":
        values["seed"] = noise[0].inputs.get("noise_seed")
    elif noise is not None:
        rest.append(noise[0].kind)
    if guider is not None and guider[0].kind == "BasicGuider":
        values |= {"cfg": 1, "model": guider[0].inputs.get("model")}
        values |= {"positive": guider[0].inputs.get("conditioning"), "negative": _link(node, "none")}
        yield _part(node, "none", "ConditioningZeroOut")
    elif guider is not None:
        values |= {name: guider[0].inputs.get(name) for name in ("cfg", "model", "positive", "negative")}
        rest += [] if guider[0].kind == "CFGGuider" else [guider[0].kind]
    found = _of_nodes(graph, node)
    rest += [found[REST]] if REST in found else []
    yield Node(node.id, "KSampler", _given(values | found | ({REST: ", ".join(rest)} if rest else {})))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _of_nodes(graph: Graph, node: Node) -> dict[str, Any]:
    """What the nodes of a sampler and of its sigmas say."""
    found: dict[str, Any] = {}
    rest: list[str] = []
    sampler, sigmas = origin(graph, node.inputs.get("sampler")), origin(graph, node.inputs.get("sigmas"))
    if sampler is not None:
        found |= _sampler_of(graph, sampler[0], rest)
    if sigmas is not None:
        found |= _sigmas_of(graph, sigmas[0], rest)
    return found | ({REST: ", ".join(rest)} if rest else {})


_SAMPLERS = {
    "SamplerDPMPP_2M_SDE": "dpmpp_2m_sde",
    "SamplerDPMPP_2S_Ancestral": "dpmpp_2s_ancestral",
    "SamplerDPMPP_3M_SDE": "dpmpp_3m_sde",
    "SamplerDPMPP_SDE": "dpmpp_sde",
    "SamplerEulerAncestral": "euler_ancestral",
    "SamplerEulerAncestralCFGPP": "euler_ancestral_cfg_pp",
    "SamplerLMS": "lms",
}


def _sampler_of(graph: Graph, node: Node, rest: list[str]) -> dict[str, Any]:
    if node.kind == "KSamplerSelect":
        return {"sampler_name": node.inputs.get("sampler_name")}
    if node.kind not in _SAMPLERS:
        rest.append(node.kind)
        return {}
    name, values = _SAMPLERS[node.kind], {name: literal(graph, value) for name, value in node.inputs.items()}
    if values.pop("solver_type", "midpoint") == "heun":
        name += "_heun"
    if values.pop("noise_device", "cpu") == "gpu" and name in _DEVICE:
        name += "_gpu"
    known: dict[str, Any] = {key: values.pop(key) for key in ("eta", "s_noise") if key in values}
    if name.startswith("dpmpp_sde") and values.get("r") == 0.5:
        del values["r"]
    rest += [f"{node.kind} {key} {value}" for key, value in values.items()]
    return {"sampler_name": name, **known}


_RANGE = {"sigma_max": 14.614642, "sigma_min": 0.0291675, "rho": 7.0}  # that of SDXL, and ComfyUI's defaults


def _sigmas_of(graph: Graph, node: Node, rest: list[str]) -> dict[str, Any]:
    values = {name: literal(graph, value) for name, value in node.inputs.items() if name != "model"}
    found: dict[str, Any] = {name: node.inputs[name] for name in ("steps", "denoise") if name in node.inputs}
    if node.kind == "BasicScheduler":
        return found | {"scheduler": node.inputs.get("scheduler")}
    if node.kind == "SDTurboScheduler":  # the first of ten timesteps
        steps, denoise = values.get("steps"), values.get("denoise", 1)
        if isinstance(steps, int) and 1 <= steps <= 10 and denoise == 1:
            return {"timesteps": [999 - 100 * n for n in range(steps)]}
    if node.kind == "AlignYourStepsScheduler" and values.get("model_type", "SDXL") == "SDXL":
        return found | {"scheduler": "align_your_steps"}
    if node.kind in ("KarrasScheduler", "ExponentialScheduler"):
        other = [name for name, usual in _RANGE.items() if _differs(values.get(name, usual), usual)]
        rest += [f"{node.kind} {name} {values[name]}" for name in other]
        return found | {"scheduler": node.kind.removesuffix("Scheduler").lower()}
    if node.kind == "BetaSamplingScheduler":
        other = [name for name in ("alpha", "beta") if _differs(values.get(name, 0.6), 0.6)]
        rest += [f"{node.kind} {name} {values[name]}" for name in other]
        return found | {"scheduler": "beta"}
    rest.append(node.kind)
    return found


def _differs(value: Any, usual: float) -> bool:
    return not is_number(value) or abs(value - usual) > 1e-3


# ---- loaders of packs


def _efficient(graph: Graph, node: Node) -> Iterator[Node]:
    """A loader with LoRAs, prompts and latents: model, both prompts, latents, VAE, text encoders."""
    values = node.inputs
    yield _part(node, "model", "CheckpointLoaderSimple", ckpt_name=values.get("ckpt_name"))
    vae: Any = _link(node, "model", 2)
    if literal(graph, values.get("vae_name")) not in (None, *_NO_FILE):
        yield _part(node, "vae", "VAELoader", vae_name=values.get("vae_name"))
        vae = _link(node, "vae")
    own = (values.get(name) for name in ("lora_name", "lora_model_strength", "lora_clip_strength"))
    entries = [] if literal(graph, values.get("lora_name")) in (None, *_NO_FILE) else [Entry(*own)]
    stack = origin(graph, values.get("lora_stack"))
    listed = None if stack is None else stack_of(graph, stack[0])
    entries += listed or []
    loras = Node(f"{node.id}/loras", "")
    yield from _loras(loras, entries, _link(node, "model"), _link(node, "model", 1))
    clip = Link(loras.id, 1)
    if stack is not None and listed is None:
        yield _part(node, "lora_stack", stack[0].kind, clip=clip)
        clip = _link(node, "lora_stack")
    for name, usual in (("token_normalization", "none"), ("weight_interpretation", "comfy"), ("cnet_stack", None)):
        if values.get(name, usual) != usual:
            yield _part(node, name, f"{name} {literal(graph, values[name]) or ''}".strip(), clip=clip)
            clip = _link(node, name)
    yield _part(node, "layer", "CLIPSetLastLayer", stop_at_clip_layer=values.get("clip_skip", -2), clip=clip)
    for side in ("positive", "negative"):
        yield _part(node, side, "CLIPTextEncode", text=values.get(side), clip=_link(node, "layer"))
    sizes = {name: values.get(f"empty_latent_{name}") for name in ("width", "height")}
    yield _part(node, "latents", "EmptyLatentImage", **sizes, batch_size=values.get("batch_size"))
    parts = (_link(node, part) for part in ("positive", "negative", "latents"))
    yield _passes(node, Link(loras.id, 0), *parts, vae, _link(node, "layer"))


_BY_KIND: dict[str, Callable[[Graph, Node], Iterator[Node]]] = {
    "Efficient Loader": _efficient,
    "SamplerCustom": _custom,
    "SamplerCustomAdvanced": _custom_advanced,
}
