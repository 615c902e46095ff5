"""The check that no network has produced NaN or infinity, which would become a black image."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..runtime.placement import Placement


def check_finite(x: Tensor, network: str, placement: Placement) -> None:
    """Raise `NonFiniteError` with the name of the network that x came from."""
    if bool(x.isfinite().all()):
        return
    exact = placement.dtype == placement.arithmetic == torch.float32
    advice = "its weights are damaged, download the model again" if exact else "use dtype float32"
    weights, arithmetic = (str(each).removeprefix("torch.") for each in (placement.dtype, placement.arithmetic))
    raise NonFiniteError(
        f"{network} gave NaN or infinity with weights in {weights} and arithmetic in {arithmetic}; {advice}"
    )
