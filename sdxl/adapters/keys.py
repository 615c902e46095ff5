"""The keys of adapter files: which end names which role of a tensor in its module. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import CheckpointError

_NAME = r"(?:\.[^.]+)?"  # of the adapter, in state dicts that were saved by hand
_ROLES = [
    (role, re.compile(rf"(.+?){pattern}"))
    for role, pattern in (
        ("up", rf"(?:[._]lora\.up|\.lora_up|\.lora_linear_layer\.up|\.lora_B(?:_\d+)?{_NAME})\.weight"),
        ("down", rf"(?:[._]lora\.down|\.lora_down|\.lora_linear_layer\.down|\.lora_A(?:_\d+)?{_NAME})\.weight"),
        ("mid", r"\.lora_mid\.weight"),
        ("magnitude", r"\.dora_scale"),
        ("output_magnitude", rf"\.lora_magnitude_vector{_NAME}"),
        ("on_input", r"\.on_input"),
        *((name, rf"\.{name}") for name in ("alpha", "scale", "diff", "diff_b", "w_norm", "b_norm")),
        *((name, rf"\.{name}") for name in ("oft_blocks", "oft_diag", "rescale")),
        *((f"hada_{name}", rf"\.hada_{name}") for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
        *((f"lokr_{name}", rf"\.lokr_{name}") for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
        *((name, rf"\.{name}\.weight") for name in ("a1", "a2", "b1", "b2")),
        ("weight", r"\.weight"),
    )
]
_UNSUPPORTED = re.compile(
    r"\.(oft_R\..*|vera_\w+|boft_\w+|bm\.weight|lora_embedding_[AB].*|lora_B.*\.bias|lora_up\.bias|set_weight|reshape_weight)$"
)
EMBEDDINGS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
"""The keys of textual inversions of SDXL: the vectors of the first text encoder, and of the second."""
BUNDLED = re.compile(r"bundle_emb\.(?P<word>.+?)\.(?P<key>(?:string_to_param\.)?[^.]+)")


def split(keys: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Modules, each a mapping from role to key, and the keys that belong to none.

    A `.weight` belongs to a module only beside an `on_input` (IA3): else it is a model's own. Raises `CheckpointError`
    for two tensors of one role.
    """
    modules: dict[str, dict[str, str]] = {}
    rest = []
    for key in sorted(keys):
        module, role = _role(key)
        if role is None:
            rest.append(key)
            continue
        roles = modules.setdefault(module, {})
        if role in roles:
            raise CheckpointError(f"{roles[role]} and {key} are of two adapters; save them in two files")
        roles[role] = key
    for module in [name for name, roles in modules.items() if "weight" in roles and "on_input" not in roles]:
        rest.append(modules[module].pop("weight"))
        if not modules[module]:
            del modules[module]
    return modules, rest


def _role(key: str) -> tuple[str, str | None]:
    for role, pattern in _ROLES:
        if match := pattern.fullmatch(key):
            return match[1], role
    return key, None


def unsupported(keys: Iterable[str]) -> list[str]:
    """Keys of kinds of adapters that are known, and not supported."""
    return [key for key in keys if _UNSUPPORTED.search(key)]
