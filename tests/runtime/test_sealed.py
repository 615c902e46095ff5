"""Networks whose layers were rewritten: none of their weights can be read or changed any more."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

import sdxl
from sdxl.errors import ArgumentError


def test_a_rewritten_network_is_not_read_in_part(tiny_folder: Path) -> None:
    unet = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu").unet
    plain = sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu", offload="block").unet
    state = plain.state_dict()
    for use in (unet.state_dict, unet.half, lambda: unet.load_state_dict(state, strict=False), lambda: deepcopy(unet)):
        with pytest.raises(ArgumentError, match="cannot be read, changed, copied or moved"):
            use()
    assert all(torch.equal(tensor, state[name]) for name, tensor in deepcopy(plain).state_dict().items())
