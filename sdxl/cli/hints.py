"""Flags of other programs, and what does the same here: for hints in error messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..pipeline.aliases import guess

_HERE = {
    # stable-diffusion.cpp
    "-M": "--image and --mask, which make it image to image and inpainting",
    "-b": "--num-images",
    "-H": "--height",
    "-W": "--width",
    "-i": "--image",
    "-m": "--model",
    "-n": "--negative-prompt",
    "-o": "--output",
    "-p": "--prompt",
    "-s": "--seed",
    "-t": "OMP_NUM_THREADS=N in the environment",
    "--batch-count": "--num-images",
    "--control-image": "--control NET=IMAGE",
    "--control-net": "--control NET=IMAGE",
    "--diffusion-fa": "the default",
    "--diffusion-model": "--unet",
    "--init-img": "--image",
    "--lora-model-dir": "--lora-dir",
    "--mode": "--image and --mask, which make it image to image and inpainting",
    "--rng": "always the CPU's: an image does not depend on the device",
    "--sampling-method": "--sampler",
    "--scheduler": "--schedule for the noise levels and --sampler for the solver",
    "--threads": "OMP_NUM_THREADS=N in the environment",
    "--type": "--dtype",
    "--upscale-model": "",
    "--vae-on-cpu": "--offload stage",
    "--vae-tiling": "automatic: the VAE is tiled where memory is short",
    # AUTOMATIC1111
    "--api": "the command sdxl serve",
    "--batch-num": "--num-images",
    "--ckpt": "--model",
    "--ckpt-dir": "SDXL_MODELS_DIR in the environment",
    "--enable-hr": "--hires scale=2",
    "--hires-fix": "--hires scale=2",
    "--listen": "sdxl serve --host 0.0.0.0",
    "--lowvram": "--offload block",
    "--medvram": "--offload stage",
    "--medvram-sdxl": "--offload stage",
    "--n-iter": "--num-images",
    "--no-half": "--dtype float32",
    "--no-half-vae": "always so: the VAE does not compute in float16",
    "--opt-sdp-attention": "the default",
    "--precision": "--dtype",
    "--upcast-sampling": "the default",
    "--xformers": "the default: torch's own attention",
    **dict.fromkeys(("--restore-faces", "--tiling"), ""),
    # ComfyUI
    "--cpu": "--device cpu",
    "--force-fp16": "--dtype float16",
    **dict.fromkeys(("--fp8-e4m3fn-text-enc", "--fp8-e4m3fn-unet"), "--fp8"),
    "--force-fp32": "--dtype float32",
    "--highvram": "--offload none",
    "--normalvram": "--offload text",
    "--output-directory": "--output-dir",
    "--use-pytorch-cross-attention": "the default",
    # programs that download from the hub
    **dict.fromkeys(("--hf-token", "--token"), "HF_TOKEN in the environment"),
    **dict.fromkeys(("--local-files-only", "--offline"), "HF_HUB_OFFLINE=1 in the environment"),
    "--cache-dir": "HF_HOME in the environment",
    # scripts of CompVis, Stability and diffusers
    "--H": "--height",
    "--W": "--width",
    "--ddim-eta": "--eta",
    "--ddim-steps": "--steps",
    "--enable-model-cpu-offload": "--offload stage",
    "--enable-sequential-cpu-offload": "--offload block",
    "--enable-xformers-memory-efficient-attention": "the default: torch's own attention",
    "--fp16": "--dtype float16",
    "--from-file": "--batch",
    "--half": "--dtype float16",
    "--n-samples": "--num-images",
    "--outdir": "--output, or --output-dir with --batch,",
    "--plms": "--sampler euler",
    "--pretrained-model-name-or-path": "--model",
    "--scale": "--guidance-scale",
}

# commands of other programs, and what else people would call ours
_COMMANDS = {
    "batch": "generate --batch FILE --output-dir DIR",
    "download": "generate --model OWNER/NAME, which downloads a model once",
    "grid": "generate --grid",
    "hires": "generate --hires scale=2",
    "img2img": "generate --image FILE",
    "inpaint": "generate --image FILE --mask FILE",
    "replay": "generate --from IMAGE",
    "txt2img": "generate",
    "upscale": "generate --hires scale=2",
    "verify": "generate --from IMAGE --verify",
    **dict.fromkeys(("gui", "ui", "web", "webui"), "serve, which has a page for the browser"),
    "xy": "generate --x NAME=VALUES --y NAME=VALUES",
}


def unknown_command(name: str) -> str | None:
    """What does here what another program's command of this name does; None for other names."""
    return f"here it is sdxl {_COMMANDS[name]}" if name in _COMMANDS else None


def unknown_flags(extras: Sequence[str], known: Iterable[str]) -> str:
    """What to say of arguments that no flag and no prompt takes."""
    known = list(known)
    flags = [text.split("=")[0] for text in extras if text.startswith("-")]
    return ", ".join(dict.fromkeys(_unknown(flag, known) for flag in flags)) or f"{extras[0]!r} is not expected"


def _unknown(flag: str, known: Sequence[str]) -> str:
    spelled = flag if len(flag) <= 3 else flag.replace("_", "-")
    if spelled in _HERE:
        here = _HERE[spelled]
        return f"{flag} is {here} here" if here else f"{flag} does not exist here"
    name = spelled.lstrip("-").replace("-", "_")
    ours = guess(name, known) if len(spelled) > 2 else None
    if ours is None and (starting := [each for each in known if len(name) > 2 and each.startswith(name)]):
        ours = starting[0]
    return f"{flag} is no flag here" + (f", perhaps --{ours.replace('_', '-')} is meant" if ours else "")
