"""Proof: damage valid IP-Adapters and image encoders in thousands of ways, and use each: it loads, or raises
`SDXLError`, within 2 s.

    make proof-fuzz      # with the other fuzzers
    python scripts/proofs/fuzz_reference.py --seed 1 --only 471   # one file again, with its traceback
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fuzz_adapter import run
from torch import Tensor

import sdxl
from sdxl.adapters.image_encoder import open_image_encoder
from sdxl.adapters.ip_adapter import open_ip_adapter
from sdxl.models.ip_adapter import IPAdapter
from sdxl.models.vision import VisionEncoder
from sdxl.models.vision_config import IPAdapterConfig, VisionConfig
from sdxl.pipeline.network_loading import load
from sdxl.runtime.placement import Placement
from sdxl.weights.keymap import Row
from sdxl.weights.ops import to_stored
from sdxl.weights.reference_rows import ip_adapter_rows, vision_rows

CPU = Placement(torch.device("cpu"), torch.float32, torch.float32)
ENCODER = VisionConfig(dim=32, ff_dim=48, layers=2, heads=16, patch=2, image_size=4, projection_dim=12)
ADAPTERS = {
    "plain": IPAdapterConfig(12, 8, (16, 32), tokens=2),
    "plus": IPAdapterConfig(32, 8, (16, 32), tokens=3, depth=2, inner_dim=16, heads_dim=64, ff_dim=24),
}


def files(_: Path) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
    """Files of every kind: tensors and header."""
    torch.manual_seed(0)
    encoder = VisionEncoder(ENCODER).state_dict()
    rows = list(vision_rows(ENCODER))
    found = {"encoder": {row.folder: encoder[row.ours] for row in rows}, "visual": stored(rows, encoder)}
    for kind, config in ADAPTERS.items():
        state = IPAdapter(config).state_dict()
        found[kind] = {row.folder: state[row.ours] for row in ip_adapter_rows(config)}
    return {kind: ({key: each.clone() for key, each in own.items()}, {"x": "y"}) for kind, own in found.items()}


def stored(rows: list[Row], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a single file."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.single, []).append(row)
    return {key: to_stored([state[row.ours] for row in own], own[0].op) for key, own in parts.items()}


@torch.no_grad()
def use(kind: str, path: Path, _: Path) -> None:
    """All that is done with a file: the report, and what its network gives."""
    try:
        sdxl.inspect(path)
    finally:
        network: Any = load((open_ip_adapter if kind in ADAPTERS else open_image_encoder)(path), CPU)
        config = network.config
        if kind in ADAPTERS:
            shape = (1, 5, config.image_dim) if config.is_plus else (1, config.image_dim)
            network([torch.randn(shape)])
        else:
            network(torch.randn(1, 3, config.image_size, config.image_size))


if __name__ == "__main__":
    run(__doc__, "IP-Adapters and image encoders", files, use)
