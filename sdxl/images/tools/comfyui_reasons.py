"""Why nodes of ComfyUI's graph have no counterpart in a request."""

from __future__ import annotations

from .comfyui_families import family_of
from .graph import Node

_CONTROL = "a control image is in no file of parameters; give --control NET=IMAGE"
_REASONS = {
    **dict.fromkeys(("controlnet", "cnetstack", "controllllite", "t2iadapter"), _CONTROL),
    "ipadapter": "a reference image is in no file of parameters; give --reference ADAPTER=IMAGE",
    "perturbedattention": "guidance is not read; give --guider pag",
}


def reason_of(node: Node, what: str) -> str:
    """Why a node that does something with `what` is not read."""
    if family := family_of(node):
        return f"it is for {family}; only models of SDXL are read"
    own = "".join(filter(str.isalnum, node.kind.lower()))
    known = next((reason for name, reason in _REASONS.items() if name in own), None)
    return known or f"nothing here does that with {what}"
