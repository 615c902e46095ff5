"""Make the fixtures of tests/reference: a tiny model, and what diffusers and transformers compute with it.

    python scripts/make_reference.py

The tests on fixtures run without those packages. Weights are random, rounded to float16 and stored so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

import tiny  # noqa: E402

FOLDER = TESTS / "reference"
PROMPT, NEGATIVE = "a mecha robot in the favela!", "dog"
STEPS, SEED, SIZE = 4, 5, (48, 64)
EULER = diffusers.EulerDiscreteScheduler
# name: (class, configuration over the published one, arguments of the call)
RUNS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "euler leading": (EULER, {}, {}),
    "euler trailing": (EULER, {"timestep_spacing": "trailing"}, {}),
    "euler_ancestral leading": (diffusers.EulerAncestralDiscreteScheduler, {}, {}),
    "heun linspace": (diffusers.HeunDiscreteScheduler, {"timestep_spacing": "linspace"}, {}),
    "ddim leading": (diffusers.DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}, {"eta": 1.0}),
    "dpmpp_2m karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, {}),
}


@torch.no_grad()
def stages(pipe: Any) -> dict[str, torch.Tensor]:
    """Inputs and outputs of every network."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    x, z, image = random(2, 4, 6, 8), random(1, 4, 6, 8), random(1, 3, 48, 64).clamp(-1, 1)
    context, pooled = random(2, 77, 48), random(2, 32)
    t, ids = torch.tensor([951.0, 12.0]), torch.tensor([[48.0, 64, 3, 5, 32, 24], [7.0, 9, 0, 0, 48, 64]])
    prompt, negative, prompt_pooled, _ = pipe.encode_prompt(PROMPT, negative_prompt=NEGATIVE)
    tokens = [
        each(PROMPT, padding="max_length", max_length=77).input_ids for each in (pipe.tokenizer, pipe.tokenizer_2)
    ]
    added = {"text_embeds": pooled, "time_ids": ids}
    return {
        "ids": torch.tensor(tokens[0])[None],
        "ids_2": torch.tensor(tokens[1])[None],
        "context": prompt,
        "negative_context": negative,
        "pooled": prompt_pooled,
        "unet.x": x,
        "unet.t": t,
        "unet.context": context,
        "unet.pooled": pooled,
        "unet.sizes": ids,
        "unet.output": pipe.unet(x, t, context, added_cond_kwargs=added).sample,
        "vae.z": z,
        "vae.decoded": pipe.vae.decode(z / 0.13025).sample,
        "vae.image": image,
        "vae.encoded": pipe.vae.encode(image).latent_dist.mode() * 0.13025,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # none but --help, which changes nothing
    shutil.rmtree(FOLDER, ignore_errors=True)
    pipe = tiny.pipeline(tiny.SMALL_UNET, tiny.SMALL_VAE)
    tensors = stages(pipe)
    for name, (kind, config, arguments) in RUNS.items():
        pipe.scheduler = kind(**(tiny.SCHEDULER | config))
        generator = torch.Generator().manual_seed(SEED)
        result = pipe(
            PROMPT,
            negative_prompt=NEGATIVE,
            num_inference_steps=STEPS,
            generator=generator,
            height=SIZE[0],
            width=SIZE[1],
            output_type="latent",
            **arguments,
        )
        tensors[f"latents {name}"] = result.images
    pipe.scheduler = EULER(**tiny.SCHEDULER)
    pipe.to(torch.float16).save_pretrained(FOLDER / "model")
    save_file({name: value.contiguous() for name, value in tensors.items()}, FOLDER / "expected.safetensors")
    provenance = {
        "made_by": "scripts/make_reference.py",
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "dtype": "float32 (weights rounded to float16)",
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "steps": STEPS,
        "seed": SEED,
        "size": SIZE,
    }
    (FOLDER / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


if __name__ == "__main__":
    main()
