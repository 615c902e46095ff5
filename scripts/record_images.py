"""Hashes of what many requests draw, for work that must not change a bit: `record_images.py FILE [--compare OTHER]`.

Record before a change and with `--compare` after it, on one machine and with one OMP_NUM_THREADS; where the machine has
other work too, OMP_WAIT_POLICY=PASSIVE saves half of the time. Only public names of the package are used, so that its
modules may move between the two.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sdxl

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
tiny: Any = import_module("tiny")  # random models, by way of diffusers

Arguments = dict[str, Any]
SAMPLERS: dict[str, Arguments] = {
    "ddim": {"sampler": "ddim"},
    "ddim 0.5": {"sampler": "ddim", "eta": 0.5},
    "ddim 1": {"sampler": "ddim", "eta": 1.0},
    **{name: {"sampler": name} for name in ("euler", "euler_ancestral", "heun", "dpmpp_2m")},
}
SCHEDULES = ("leading", "trailing", "sgm", "linspace", "karras", "exponential")
QUICK: Arguments = {"prompt": "a red cat in the favela", "seed": 1, "steps": 4}
PICTURE, MASK = tiny.picture(0), tiny.mask(0)
WIDE, WIDE_MASK = tiny.picture(1, 107, 90), tiny.mask(1, 107, 90)
LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
MASKED: Arguments = {"image": PICTURE, "mask": MASK}

TEXTS: dict[str, Arguments] = {
    "plain": {},
    "batch": {"prompt": ["a cat", "a dog !", ""], "num_images": 2},
    "seeds": {"prompt": ["a cat", "a dog"], "seed": [9, 3]},
    "negative empty": {"negative_prompt": ""},
    "negative": {"negative_prompt": "a dog"},
    "negatives": {"prompt": ["a cat", "a dog"], "negative_prompt": ["", "red"]},
    "prompt_2": {"prompt_2": "a mecha robot"},
    "negative_prompt_2": {"negative_prompt": "a dog", "negative_prompt_2": "expressionist style"},
    "both prompts": {"prompt_2": "a mecha robot", "negative_prompt": "a dog", "negative_prompt_2": "in the favela"},
    "long prompt": {"prompt": "a photo of the red cat ! " * 20},
    "clip_skip": {"clip_skip": 1},
    "no guidance": {"guidance_scale": 1},
    "guidance": {"guidance_scale": 12.5},
    "interval": {"guidance_interval": (0.5, 5.0)},
    "rescale": {"guidance_rescale": 0.7},
    "told sizes": {"original_size": (48, 96), "crop_top_left": (8, 16), "target_size": (128, 64)},
    "negative sizes": {
        "negative_original_size": (32, 32),
        "negative_crop_top_left": (4, 0),
        "negative_target_size": (72, 64),
    },
    "odd size": {"height": 72, "width": 104},
    "large": {"height": 200, "width": 136},
    "latents": {"latents": LATENTS[:1]},
    "two latents": {"latents": LATENTS, "num_images": 2, "sampler": "euler_ancestral"},
    "one step": {"steps": 1},
    "many steps": {"steps": 20},
}
SOURCES: dict[str, Arguments] = {
    "image": {"image": PICTURE},
    "strength 0": {"image": PICTURE, "strength": 0},
    "strength 0.6": {"image": PICTURE, "strength": 0.6},
    "strength 1": {"image": PICTURE, "strength": 1},
    "image resized": {"image": WIDE, "height": 72, "width": 88, "strength": 0.6},
    "images": {"image": [PICTURE, tiny.picture(2)], "prompt": ["a cat", "a dog"], "num_images": 2},
    "image latents": {"image": LATENTS[1:], "strength": 0.6},
    "masked latents": {"image": LATENTS[1:], "mask": MASK},
    "image tensor": {"image": torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64), "strength": 0.6},
}
MASKS: dict[str, Arguments] = {
    "mask": MASKED,
    "mask strength 0": MASKED | {"strength": 0},
    "mask strength 0.6": MASKED | {"strength": 0.6},
    "grey mask": MASKED | {"mask": MASK.point([v * 2 // 5 for v in range(256)])},
    "mask_padding": {"image": WIDE, "mask": WIDE_MASK, "mask_padding": 4},
    "mask_padding resized": {"image": WIDE, "mask": WIDE_MASK, "mask_padding": 9, "height": 80, "width": 72},
    "feather": {"image": WIDE, "mask": WIDE_MASK, "feather": 3},
    "feather and padding": {"image": WIDE, "mask": WIDE_MASK, "feather": 3, "mask_padding": 4, "strength": 0.8},
    "outpaint": {"image": PICTURE, "outpaint": (16, 0, 5, 24)},
    "outpaint with mask": MASKED | {"outpaint": (8, 8, 8, 8)},
    "masks": {"image": PICTURE, "mask": [MASK, tiny.mask(2)], "prompt": ["a cat", "a dog"], "num_images": 2},
}
SAMPLED = {name: each | {"schedule": "trailing"} for name, each in SAMPLERS.items()}
FEW = {name: (TEXTS | SOURCES | MASKS)[name] for name in ("batch", "negative", "strength 0.6", "mask", "feather")}
ENSEMBLE: dict[str, Arguments] = {
    "plain": {"refine_at": None},
    "early": {"refine_at": 0.2},
    "scores": {"aesthetic_score": 3.0, "negative_aesthetic_score": 4.0},
    "image": {"image": PICTURE, "strength": 0.8},
    "negative": {"negative_prompt": "a dog"},
}
REFINED = {name: {"steps": 5, "refine_at": 0.6} | each for name, each in (ENSEMBLE | SAMPLED | FEW).items()}
SCENE: Arguments = {"prompt": "a red circle on a blue background", "steps": 6}
SCENES: dict[str, Arguments] = {
    "plain": SCENE,
    "batch": SCENE | {"prompt": ["a green star", "a white ring"], "negative_prompt": "red", "height": 96, "width": 160},
    "image": SCENE | {"image": WIDE, "strength": 0.6},
    "mask": SCENE | {"image": WIDE, "mask": WIDE_MASK, "sampler": "dpmpp_2m", "schedule": "karras"},
}
CASES: dict[str, dict[str, Arguments]] = {  # what is drawn with which model of `models`
    "miniature": SCENES,
    "miniature, refiner": SCENES,
    **{
        f"miniature, {name}": {"batch": SCENES["batch"], "mask": SCENES["mask"]}
        for name in ("bfloat16", "float16", "stage", "block", "text", "int8")
    },
    "tiny": {
        **TEXTS,
        **SOURCES,
        **MASKS,
        **{f"{s}, {t}": each | {"schedule": t, "steps": 3} for s, each in SAMPLERS.items() for t in SCHEDULES},
        **{f"{s}, image": each | {"image": PICTURE, "strength": 0.6} for s, each in SAMPLERS.items()},
        **{f"{s}, mask": each | MASKED for s, each in SAMPLERS.items()},
    },
    **{f"tiny, {name}": FEW for name in ("single", "again", "other parts", "bfloat16", "float16", "block", "auto")},
    "v": SAMPLED | FEW,
    "v, single": {"mask": MASKED},
    "v, zero SNR": SAMPLED | FEW | {"rescale": {"guidance_rescale": 0.7}},
    **{f"of {name}": {"plain": {}} for name in ("ddim", "heun", "euler_ancestral", "dpmpp_2m", "karras")},
    "refiner": {name: each for name, each in (SOURCES | MASKS).items() if "strength" not in name or "0.6" in name},
    "tiny, refiner": REFINED,
    "tiny, refiner, stage": {name: REFINED[name] for name in ("plain", "mask")},
    "inpainting": MASKS,
    "inpainting, refiner": {name: MASKED | {"refine_at": 0.6} | each for name, each in SAMPLED.items()},
}


def models(folder: Path) -> dict[str, Arguments]:
    """The arguments of `from_pretrained` for each model, after saving the tiny ones into a folder."""
    base = tiny.pipeline()
    base.save_pretrained(folder / "base")
    tiny.save_refiner(folder / "refiner")
    tiny.inpainting(9).save_pretrained(folder / "inpainting")
    tiny.unet(seed=11).save_pretrained(folder / "unet")
    tiny.vae(seed=12).save_pretrained(folder / "vae")
    sdxl.convert(folder / "base", folder / "base.safetensors")
    sdxl.convert(folder / "base.safetensors", folder / "again")
    sdxl.convert(folder / "inpainting", folder / "inpainting.safetensors")
    v = {"prediction_type": "v_prediction"}
    schedulers: dict[str, tuple[str, str, Arguments]] = {
        "v": ("euler", "leading", v),
        "v, zero SNR": ("euler", "trailing", v | {"rescale_betas_zero_snr": True}),
        **{f"of {name}": (name, "linspace", {}) for name in ("ddim", "heun", "euler_ancestral", "dpmpp_2m")},
        "of karras": ("euler", "karras", {}),
    }
    for name, (sampler, schedule, more) in schedulers.items():
        base.scheduler = tiny.scheduler(sampler, schedule, **more)
        base.save_pretrained(folder / name)
    sdxl.convert(folder / "v", folder / "v.safetensors")
    nine, refiner = folder / "inpainting.safetensors", folder / "refiner"
    made: dict[str, Arguments] = {name: {"model": folder / name} for name in schedulers}
    for name, model, other in (("miniature", "miniature", "miniature-refiner"), ("tiny", folder / "base", refiner)):
        made[name] = {"model": model}
        made[f"{name}, refiner"] = {"model": model, "refiner": other}
        made |= {f"{name}, {kind}": {"model": model, "dtype": kind} for kind in ("bfloat16", "float16")}
        made |= {f"{name}, {kind}": {"model": model, "offload": kind} for kind in ("auto", "stage", "block", "text")}
    return made | {
        "miniature, int8": {"model": "miniature", "int8": True},
        "tiny, single": {"model": folder / "base.safetensors"},
        "tiny, again": {"model": folder / "again"},
        "tiny, other parts": {"model": folder / "base", "unet": folder / "unet", "vae": folder / "vae"},
        "tiny, refiner, stage": {"model": folder / "base", "refiner": refiner, "offload": "stage"},
        "v, single": {"model": folder / "v.safetensors"},
        "refiner": {"model": refiner},
        "inpainting": {"model": nine},
        "inpainting, refiner": {"model": nine, "refiner": refiner},
    }


def digest(*tensors: Tensor) -> str:
    """The hash of all bits of some float32 tensors, and of their shapes."""
    total = hashlib.sha256()
    for each in tensors:
        assert each.dtype is torch.float32, each.dtype
        total.update(f"{list(each.shape)}".encode() + each.contiguous().numpy().tobytes())
    return total.hexdigest()


def draw(pipe: sdxl.Pipeline, arguments: Arguments) -> dict[str, str]:
    """The hashes of the steps, of the latents that they end with, and of the picture; and what was computed in."""
    steps, last = hashlib.sha256(), torch.empty(0)
    for step in pipe.steps(**arguments):
        last = step.latents
        steps.update(f"{step.index} {step.total} {step.sigma!r} {digest(last, step.denoised)}".encode())
    result = pipe(**arguments, output="tensor", progress=False)
    assert isinstance(result.images, Tensor)
    arithmetic = result.parameters[0]["model"]["arithmetic"]
    pixels = digest(result.images)
    return {"steps": steps.hexdigest(), "latents": digest(last), "images": pixels, "arithmetic": arithmetic}


def outputs(pipe: sdxl.Pipeline, arguments: Arguments) -> dict[str, str]:
    """The hashes of the other outputs, of the arguments that a PNG records, and of what the VAE alone makes."""
    latents, pictures = (pipe(**arguments, output=kind, progress=False) for kind in ("latent", "pil"))
    assert isinstance(latents.images, Tensor)
    recorded = json.dumps([each["request"] for each in pictures.parameters], sort_keys=True).encode()
    pixels = torch.rand(2, 3, 72, 144, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(2, 4, 9, 18, generator=torch.Generator().manual_seed(4))
    return {
        "latent": digest(latents.images),
        "pil": hashlib.sha256(b"".join(each.tobytes() for each in pictures.images)).hexdigest(),
        "recorded arguments": hashlib.sha256(recorded).hexdigest(),
        "encode": digest(pipe.encode(pixels)),
        "encode with noise": digest(pipe.encode(pixels, noise)),
        "decode": digest(pipe.decode(noise)),
    }


def record(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every case, with what came of it."""
    made = models(folder)
    for name, cases in CASES.items():
        asked: Arguments = {"dtype": "float32", "device": "cpu", **made[name]}
        try:
            pipe = sdxl.Pipeline.from_pretrained(**asked)
        except sdxl.ArgumentError:
            if "int8" not in name:
                raise
            yield name, {"left out": "this processor or torch has no int8"}
            continue
        for case, arguments in cases.items():
            yield f"{name}: {case}", draw(pipe, QUICK | arguments)
        yield f"{name}: outputs", outputs(pipe, QUICK | next(iter(cases.values())))
    for path in ("base", "base.safetensors", "inpainting", "refiner", "v", "v.safetensors"):
        report = {key: value for key, value in asdict(sdxl.inspect(folder / path)).items() if key != "path"}
        yield f"inspect {path}", {"report": hashlib.sha256(json.dumps(report).encode()).hexdigest()}
    for path in ("base.safetensors", "inpainting.safetensors", "v.safetensors"):
        data = (folder / path).read_bytes()
        head, rest = json.loads(data[8 : (end := 8 + int.from_bytes(data[:8], "little"))]), data[end:]
        head = json.dumps(head, sort_keys=True).encode()  # safetensors writes the metadata in an order by lot
        yield f"convert {path}", {"file": hashlib.sha256(head + rest).hexdigest()}


def header() -> dict[str, Any]:
    """What the hashes depend on beside the code."""
    return {
        "sdxl": sdxl.__version__,
        "from": str(Path(str(sdxl.__file__)).parent),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """A line for each case that is not the same, or that only one of them has."""
    return [
        f"{name}: " + ", ".join(key for key in sorted({*a, *b}) if a.get(key) != b.get(key))
        for name in dict.fromkeys([*theirs, *ours])
        if (a := ours.get(name, {})) != (b := theirs.get(name, {}))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="the JSON file to write")
    parser.add_argument("--compare", type=Path, metavar="OTHER", help="one that was written before")
    options = parser.parse_args()
    other = json.loads(options.compare.read_text(encoding="utf-8")) if options.compare else None
    warnings.simplefilter("ignore", sdxl.SDXLWarning)  # masks that repaint nothing, prompts that are cut
    began, about = time.perf_counter(), header()
    with tempfile.TemporaryDirectory() as folder:
        cases = dict(record(Path(folder)))
    options.file.write_text(json.dumps({"header": about, "cases": cases}, indent=1) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases in {time.perf_counter() - began:.0f} s: {options.file}")
    print("".join(f"left out: {name}\n" for name, each in cases.items() if "left out" in each), end="")
    if other is not None:
        for key in ("torch", "machine", "processor", "threads"):
            if about[key] != other["header"][key]:
                print(f"note: {key} is {about[key]} here and {other['header'][key]} there")
        found = differing(cases, other["cases"])
        print("\n".join(found) or "all are the same")
        sys.exit(bool(found))


if __name__ == "__main__":
    main()
