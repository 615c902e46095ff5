"""Write docs/parity.md: the measured error against each reference, stage by stage and configuration by configuration.

    python scripts/parity_report.py

Errors are max|ours - reference| / max|reference| in float32 on a CPU, tiny models with random weights.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/models")]

import test_models  # noqa: E402
import test_parity  # noqa: E402
import test_parity_tasks as tasks  # noqa: E402
import tiny  # noqa: E402
from conftest import error  # noqa: E402

import sdxl  # noqa: E402
from sdxl.text.encode import embed_sizes  # noqa: E402

Rows = list[tuple[str, str, float]]


@torch.no_grad()
def unets(folder: Path) -> Rows:
    """One forward of every UNet configuration, 7 x 10 latents, batch 2."""
    rows = []
    for name, config in test_models.UNETS.items():
        reference = tiny.unet(config)
        ours = test_models.load(folder / name.replace(" ", "_"), reference, "unet")
        x, t = torch.randn(2, reference.config.in_channels, 7, 10), torch.tensor([999.0, 3.5])
        context, pooled = torch.randn(2, 77, reference.config.cross_attention_dim), torch.randn(2, 32)
        count = (reference.config.projection_class_embeddings_input_dim - 32) // 8
        ids = torch.randint(0, 1024, (2, count)).float()
        vector = torch.cat([pooled, torch.cat([embed_sizes(row, 8) for row in ids.tolist()])], dim=1)
        expected = reference(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}).sample
        rows.append(("UNet", name, error(ours(x, t, context, vector), expected)))
    return rows


@torch.no_grad()
def text_and_vae(folder: Path) -> Rows:
    """Both text encoders at every clip_skip, and both directions of the VAE."""
    rows = []
    ids = torch.tensor([[555, *range(300, 360), 556, *[0] * 15], [555, 556, *[556] * 75]])
    for name, reference in (("text_encoder", tiny.clip_l()), ("text_encoder_2", tiny.clip_g())):
        ours = test_models.load(folder / name, reference, name)
        expected = reference(ids, output_hidden_states=True)
        for skip in range(3):
            context, pooled = ours(ids, skip)
            rows.append(("text", f"{name}, clip_skip {skip}", error(context, expected.hidden_states[-(skip + 2)])))
        if pooled is not None:
            rows.append(("text", f"{name}, pooled", error(pooled, expected.text_embeds)))
    reference_vae = tiny.vae()
    vae = test_models.load(folder / "vae", reference_vae, "vae")
    z, x = torch.randn(2, 4, 6, 10), torch.rand(2, 3, 48, 80) * 2 - 1
    rows.append(("VAE", "decode", error(vae.decode(z), reference_vae.decode(z / 0.13025).sample)))
    rows.append(("VAE", "encode", error(vae.encode(x), reference_vae.encode(x).latent_dist.mode() * 0.13025)))
    return rows


def pictures(folder: Path) -> Rows:
    """Final latents of whole pictures, by sampler, schedule and number of steps."""
    reference = tiny.pipeline()
    reference.save_pretrained(folder / "base")
    ours = sdxl.Pipeline.from_pretrained(folder / "base", dtype="float32", device="cpu")
    cases: list[tuple[str, str, float]] = [(*pair, 0.0) for pair in test_parity.SPACED]
    cases += [("ddim", "leading", 0.0), ("ddim", "leading", 1.0), ("ddim", "trailing", 0.0), ("ddim", "trailing", 1.0)]
    cases += [("dpmpp_2m", "karras", 0.0), ("dpmpp_2m", "trailing", 0.0)]
    rows = []
    for sampler, schedule, eta in cases:
        more: dict[str, Any] = {"eta": eta} if sampler == "ddim" else {}
        for steps in (8, 20):
            which = tiny.scheduler(sampler, schedule)
            shared: dict[str, Any] = {"prompt": test_parity.PROMPT, "height": 64, "width": 48, **more}
            expected = test_parity.reference(reference, which, [5], num_inference_steps=steps, **shared)
            arguments = {"sampler": sampler, "schedule": schedule, "steps": steps, "seed": 5, **shared}
            result = ours(output="latent", progress=False, **arguments)
            label = f"{sampler}, {schedule}" + (f", eta {eta:g}" if more else "") + f", {steps} steps"
            rows.append(("picture", label, error(result.images, expected)))
    return rows


def from_pictures(folder: Path) -> Rows:
    """The same of image to image, inpainting and the refiner: the tests of these, with their errors noted down."""
    names = ("tasks/base", "tasks/inpainting", "tasks/refiner")
    base, nine, refiner = (folder / name for name in names)
    reference, inpaint, inpaint_9 = tiny.pipeline(), tiny.inpainting(), tiny.inpainting(9)
    reference.save_pretrained(base)
    inpaint_9.save_pretrained(nine)
    tiny.save_refiner(refiner)
    image = diffusers.StableDiffusionXLImg2ImgPipeline(**reference.components, add_watermarker=False)
    ours, ours_9 = (sdxl.Pipeline.from_pretrained(path, dtype="float32", device="cpu") for path in (base, nine))
    rows: Rows = []

    def note(stage: str, label: str) -> Callable[[torch.Tensor, torch.Tensor], float]:
        def noted(a: torch.Tensor, b: torch.Tensor) -> float:
            rows.append((stage, label, error(a, b)))
            return rows[-1][2]

        return noted

    for sampler in tasks.SAMPLERS:
        label = ", ".join(sampler[:2]) + (f", eta {sampler[2]:g}" if sampler[0] == "ddim" else "")
        for strength in (0.3, 0.6, 1.0):
            record = note("image to image", f"{label}, strength {strength}")
            tasks.test_image_to_image(sampler, strength, image, ours, record)
        for strength in (0.6, 1.0):
            record = note("inpainting, 4 channels", f"{label}, strength {strength}")
            tasks.check_inpainting(inpaint, ours, sampler, strength, 5.0, record)
            record = note("inpainting, 9 channels", f"{label}, strength {strength}")
            tasks.check_inpainting(inpaint_9, ours_9, sampler, strength, 5.0, record)
        tasks.test_refiner_alone(sampler, tiny.refiner(), refiner, note("refiner alone", label))
        record = note("base and refiner", label)
        tasks.test_base_and_refiner(sampler, "none", reference, tiny.refiner(), base, refiner, record)
    return sorted(rows, key=lambda row: row[0])


def main() -> None:
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = unets(folder) + text_and_vae(folder) + pictures(folder) + from_pictures(folder)
    lines = [
        "# Parity",
        "",
        "Written by `python scripts/parity_report.py`: max|ours - reference| / max|reference|, float32, CPU, tiny",
        "models with random weights. The tests ask for 1e-5 of every stage and 1e-4 of a picture's final latents.",
        "The full-size base UNet and bigG: [proofs/parity.log](proofs/parity.log).",
        "",
        f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, "
        f"{platform.machine()}, {time.strftime('%Y-%m-%d')}",
        "",
        "| stage | configuration | error |",
        "|---|---|---|",
        *(f"| {stage} | {label} | {value:.1e} |" for stage, label, value in rows),
        "",
    ]
    (ROOT / "docs/parity.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
