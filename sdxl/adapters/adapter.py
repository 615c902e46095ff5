"""An adapter file: its modules, what its keys mean, and what is left over."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, brief, is_number, naming
from ..weights.container import TensorFile
from ..weights.folder import parse_json, read_text
from ..weights.keymap import summarize
from ..weights.path import AnyPath
from .family import foreign, stated
from .formulas import BIASES, Formula, Parts, UnfitError, check_fit, find_formula, unit_change
from .keys import BUNDLED, split, unsupported

# of CLIP-L, which has a projection that SDXL does not use
_IGNORED = re.compile(r"(lora_te1_|text_encoder\.)text_projection\..*|lora_te_text_projection\..*")
_SIDECAR = "adapter_config.json"
_SCALARS = ("alpha", "scale")
_MATRIX = re.compile(r"up|down|mid|hada_\w+|lokr_w\d_[ab]|lokr_t2|[ab][12]")  # of the roles of factors
_MOST_WORDS = 10  # of those that a LoRA was trained with
_SIMPLE = re.compile(r"\^?(\w|-|\\\.|\.\*|\.|\\d\+)*\$?")


@dataclass(frozen=True)
class Module:
    """The tensors of a file that change one module of a model: `roles` are their keys. `alpha` is that of the file's
    header, where no key states it.
    """

    name: str
    roles: Mapping[str, str] = field(hash=False)
    alpha: float | None
    file: TensorFile = field(compare=False, repr=False)

    @property
    def formula(self) -> Formula | None:
        """The kind of the change of its weight; None if it changes the bias alone."""
        return find_formula(frozenset(self.roles) - {*BIASES})

    @property
    def rank(self) -> int | None:
        """The rank of a LoRA's, or a relative's, factors."""
        return None if self.formula is None else self.formula.rank(self._meta())

    def _parts(self) -> dict[str, Tensor]:
        parts = {role: self.file.read(key).float() for role, key in self.roles.items() if role not in BIASES}
        if self.alpha is not None and "alpha" not in parts:
            parts["alpha"] = torch.tensor(self.alpha, dtype=torch.float32)
        return parts

    @property
    def bias_shape(self) -> tuple[int, ...] | None:
        """The shape of its change of the bias; None if there is none."""
        key = self._bias_key
        return None if key is None else self.file.shapes[key]

    @property
    def _bias_key(self) -> str | None:
        return next((self.roles[role] for role in BIASES if role in self.roles), None)

    @property
    def stated_alpha(self) -> float | None:
        """The alpha that a key or the file's header states."""
        return float(self.file.read(self.roles["alpha"]).flatten()[0]) if "alpha" in self.roles else self.alpha

    def change(self, weight: Tensor) -> Tensor:
        """The change of a weight in float32, at strength 1."""
        assert self.formula is not None
        return unit_change(self.formula, weight, self._parts())

    def bias_change(self) -> Tensor:
        """The change of the bias in float32, at strength 1."""
        assert self._bias_key is not None
        return self.file.read(self._bias_key).float()

    def _meta(self) -> Parts:
        """Its tensors without their numbers, beside the scalars, which formulas ask."""
        return {
            role: self.file.read(key)
            if role == "on_input"
            else torch.empty(self.file.shapes[key], dtype=torch.float32, device="meta")
            for role, key in self.roles.items()
            if role not in (*_SCALARS, *BIASES)
        }

    def fits(self, shape: tuple[int, ...]) -> str | None:
        """None if it can change a weight of this shape, else the reason."""
        if self.formula is None:
            return None
        try:
            check_fit(self.formula, shape, self._meta())
        except UnfitError as error:
            shapes = ", ".join(f"{role} {list(self.file.shapes[key])}" for role, key in self.roles.items())
            return f"{shapes} for a weight of shape {list(shape)}: {error}"
        return None

    def check(self) -> None:
        """Raise `CheckpointError` for an incomplete module and for tensors that are no finite numbers."""
        if self.formula is None and not {*self.roles} <= {*BIASES}:
            raise CheckpointError(
                f"{self.file.path}: {self.name} has {', '.join(sorted(self.roles))} alone, which is no whole adapter; "
                "download the file again"
            )
        for role, key in self.roles.items():
            if role in _SCALARS and math.prod(self.file.shapes[key]) != 1:
                raise CheckpointError(
                    f"{self.file.path}: {key} has shape {list(self.file.shapes[key])}; expected one number, download "
                    "the file again"
                )
            tensor = self.file.read(key)
            if not tensor.numel():
                raise CheckpointError(f"{self.file.path}: {key} is empty; download the file again")
            if not bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all()):
                raise CheckpointError(f"{self.file.path}: {key} has NaN or infinite numbers; download the file again")


@dataclass(frozen=True)
class Adapter:
    """A file of changes of weights. `unknown` keys mean nothing here, `ignored` ones are known to be harmless,
    `bundled` ones are embeddings (textual inversion) that came with it.
    """

    path: Path
    modules: tuple[Module, ...]
    unknown: tuple[str, ...]
    ignored: tuple[str, ...]
    bundled: tuple[str, ...]
    file: TensorFile = field(compare=False, repr=False)

    @property
    def kinds(self) -> Counter[str]:
        """How many modules are of each kind."""
        kinds: Counter[str] = Counter()
        for module in self.modules:
            name = "bias difference" if module.formula is None else module.formula.name
            kinds["DoRA of " * any("magnitude" in role for role in module.roles) + name] += 1
        return kinds

    @property
    def bytes(self) -> int:
        """The memory of its tensors, which stay in the file until they are used."""
        return sum(self.file.bytes(key) for module in self.modules for key in module.roles.values())

    def check(self) -> None:
        """Raise `CheckpointError` for damaged or unsupported tensors."""
        if others := unsupported(self.unknown):
            raise CheckpointError(
                f"{self.path} has {len(others)} tensors of an adapter that is not supported: {summarize(others)}; "
                "convert it to a LoRA with the tool that made it"
            )
        if not self.modules:
            name, evidence = (
                foreign(self.file.shapes) or stated(self.file.metadata) or ("no adapter of SDXL", "no key is known")
            )
            raise CheckpointError(f"{self.path} is {name} ({evidence}); give a LoRA of SDXL")
        for module in self.modules:
            module.check()
        self.file.forget()


def read_adapter(path: AnyPath) -> Adapter:
    """Open an adapter file in any of the known layouts. Raises `CheckpointError`."""
    return adapter_of_file(TensorFile(path))


def adapter_of_file(file: TensorFile) -> Adapter:
    """As `read_adapter`, of an opened file."""
    bundled = {key for key in file.shapes if BUNDLED.fullmatch(key)}
    with naming(file.path):
        found, rest = split(file.shapes.keys() - bundled)
    ignored = {key for key in rest if _IGNORED.fullmatch(key)}
    configs = dict(_configs(file))
    modules = []
    for name, roles in found.items():
        if any(_IGNORED.fullmatch(key) for key in roles.values()):
            ignored |= {*roles.values()}
        else:
            _check_matrices(file, roles)
            modules.append(Module(name, roles, _alpha_beside(configs, file, name, roles), file))
    unknown = [key for key in rest if key not in ignored]
    adapter = Adapter(file.path, tuple(modules), tuple(unknown), tuple(sorted(ignored)), tuple(sorted(bundled)), file)
    adapter.check()
    return adapter


def _alpha_beside(
    configs: Mapping[str, Mapping[str, Any]], file: TensorFile, module: str, roles: Mapping[str, str]
) -> float | None:
    """A module's alpha where no key states it, made so that alpha / rank is its factor: that of the header that
    diffusers writes, or of PEFT's adapter_config.json beside the file.
    """
    prefix = next((each for each in configs if module.startswith(each)), None)
    if prefix is None or "down" not in roles or "alpha" in roles:
        return None
    own = module.removeprefix(prefix).removeprefix("base_model.model.")
    return _alpha(configs[prefix], own, file.shapes[roles["down"]][0], str(file.path))


def _check_matrices(file: TensorFile, roles: Mapping[str, str]) -> None:
    """Raise `CheckpointError` for a factor that is no matrix."""
    for role, key in roles.items():
        if _MATRIX.fullmatch(role) and len(file.shapes[key]) < 2:
            raise CheckpointError(
                f"{file.path}: {key} has shape {list(file.shapes[key])}; expected a matrix, download the file again"
            )


def sidecar(path: Path) -> str:
    """The text of PEFT's adapter_config.json beside an adapter file; empty if there is none."""
    beside = path.with_name(_SIDECAR)
    return read_text(beside) if path.stem == "adapter_model" and beside.is_file() else ""


def _configs(file: TensorFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """The options of PEFT for the modules whose names begin with a prefix; the longest prefix first."""
    if text := file.metadata.get("lora_adapter_metadata"):
        table = parse_json(text, f"{file.path}: lora_adapter_metadata")
        for component in ("text_encoder_2", "text_encoder", "unet"):
            prefix = f"{component}."
            if own := {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}:
                yield prefix, own
    if text := sidecar(file.path):
        yield "", parse_json(text, file.path.with_name(_SIDECAR))


def _alpha(config: Mapping[str, Any], module: str, rank: int, where: str) -> float | None:
    patterns = config.get("alpha_pattern") or {}
    alpha = config.get("lora_alpha")
    if isinstance(patterns, dict):
        # as PEFT finds them: the end of the module's name, after a dot
        matching = (value for key, value in patterns.items() if _ends_with(module, key))
        alpha = next(matching, alpha)
    if alpha is None:
        return None
    if not is_number(alpha):
        raise CheckpointError(
            f"{where}: lora_alpha of {module} is {brief(alpha)}; expected a number, download it again"
        )
    return alpha * math.sqrt(rank) if config.get("use_rslora") else float(alpha)


def _ends_with(module: str, pattern: str) -> bool:
    """Whether PEFT applies a pattern to a module: a name, or a regular expression of simple signs, of its end."""
    if module == pattern or module.endswith(f".{pattern}"):
        return True
    is_simple = _SIMPLE.fullmatch(pattern) is not None and pattern.count("*") <= 2  # of others the time has no bound
    return is_simple and re.fullmatch(rf"(.*\.)?({pattern})", module) is not None


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """The words that a LoRA was trained with, the most frequent first, from the header that kohya's scripts write."""
    if phrase := metadata.get("modelspec.trigger_phrase"):
        return [phrase[:200]]
    try:
        table = json.loads(metadata.get("ss_tag_frequency", "{}"))
    except (ValueError, RecursionError):
        return []
    counts: Counter[str] = Counter()
    for tags in table.values() if isinstance(table, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            counts[tag.strip()] += count if isinstance(count, int) else 1
    return [tag[:100] for tag, _ in counts.most_common(_MOST_WORDS)]
