"""Proof, at full size in float32: the base UNet (one forward at 256 px, batch 2), as it is and with the layers that a
CPU gets, and bigG against diffusers and transformers. Both models hold the same tensors, since two copies of the UNet
do not fit into 24 GB.

    make proof-parity
"""

from __future__ import annotations

import time
from typing import Any

import diffusers
import torch
import transformers
from common import banner, claim, error, finish
from make_checkpoint import random_weight

from sdxl.models.clip import TextEncoder
from sdxl.models.layers import sinusoidal
from sdxl.models.published import BASE
from sdxl.models.unet import UNet
from sdxl.runtime.onednn import packed
from sdxl.runtime.rewrite import rewrite
from sdxl.weights import diffusers_config as folder
from sdxl.weights.keymap import Row, text_rows, unet_rows

TOLERANCE = 1e-5


def fill(model: torch.nn.Module, reference: torch.nn.Module, rows: list[Row], prefix: str = "") -> None:
    """Give two models on the meta device the same random tensors, each under its own names."""
    generator = torch.Generator().manual_seed(0)
    state = {
        name: random_weight(name, value.shape, torch.float32, generator) for name, value in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    reference.load_state_dict({prefix + row.folder: state[row.ours] for row in rows}, assign=True)
    model.eval().requires_grad_(False)
    reference.eval().requires_grad_(False)


@torch.no_grad()
def unet() -> tuple[float, float]:
    """The base UNet, plain and packed."""
    config = folder.write_unet(BASE.unet)
    with torch.device("meta"):
        ours = UNet(BASE.unet)
        reference: Any = diffusers.UNet2DConditionModel.from_config(config)
    fill(ours, reference, list(unet_rows(BASE.unet)))
    x, context, pooled = torch.randn(2, 4, 32, 32), torch.randn(2, 77, 2048), torch.randn(2, 1280)
    ids, t = torch.tensor([[1024.0, 768, 16, 32, 512, 640]] * 2), torch.tensor([951.0, 401.0])
    vector = torch.cat([pooled, sinusoidal(ids.flatten(), 256).reshape(2, -1)], dim=1)
    start = time.perf_counter()
    actual = ours(x, t, context, vector)
    middle = time.perf_counter()
    expected = reference(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}).sample
    print(f"seconds: ours {middle - start:.2f}, diffusers {time.perf_counter() - middle:.2f} (one run each, cold)")
    del reference
    rewrite(ours, lambda name, layer: packed(layer, torch.float32))
    return error(actual, expected), error(ours(x, t, context, vector), expected)


@torch.no_grad()
def big_g() -> tuple[float, float]:
    """bigG: penultimate hidden state and pooled embedding."""
    config = transformers.CLIPTextConfig(**folder.write_text(BASE.text_encoder_2))
    with torch.device("meta"):
        ours = TextEncoder(BASE.text_encoder_2)
    reference: Any = transformers.CLIPTextModelWithProjection(config)
    fill(ours, reference, list(text_rows(BASE.text_encoder_2)))
    ids = torch.randint(1, 49406, (2, 77))
    ids[:, 0], ids[0, 9:], ids[1, 60:] = 49406, 0, 0
    ids[0, 9] = ids[1, 60] = 49407
    context, pooled = ours(ids)
    expected = reference(ids, output_hidden_states=True)
    return error(context, expected.hidden_states[-2]), error(pooled, expected.text_embeds)


def main() -> None:
    torch.manual_seed(0)
    banner("networks of full size", packages=("diffusers", "transformers"))
    context, pooled = big_g()
    claim("bigG, 77 tokens, batch 2: context", context, most=TOLERANCE)
    claim("bigG, 77 tokens, batch 2: pooled", pooled, most=TOLERANCE)
    plain, quick = unet()
    claim("base UNet, 256 px (32 x 32 latents), batch 2", plain, most=TOLERANCE)
    claim("base UNet, packed", quick, most=TOLERANCE)
    finish()


if __name__ == "__main__":
    main()
