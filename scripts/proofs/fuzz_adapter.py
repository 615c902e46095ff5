"""Proof: damage valid adapter files in thousands of ways, and use each: it loads, or raises `SDXLError`, within 2 s.

    make proof-fuzz      # with the other fuzzers
    python scripts/proofs/fuzz_adapter.py --seed 1 --only 471   # one file again, with its traceback

The files are damaged by the same means as checkpoints (`damage.py`): bits, lengths, headers, entries, numbers.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import torch
from common import banner, claim, finish
from damage import edit_header, edit_numbers, join, mutate_file, split, write_valid
from torch import Tensor

import sdxl
from sdxl.adapters.embedding import Embedding
from sdxl.adapters.lora import LoRA
from sdxl.errors import SDXLError, SDXLWarning
from sdxl.pipeline.adapters import Adapters
from sdxl.weights.checkpoint import open_checkpoint
from sdxl.weights.container import save_tensors

SECONDS = 2.0
HANGS = 20  # seconds of the processor after which a file ends the process
Files = Callable[[Path], Mapping[str, tuple[dict[str, Tensor], dict[str, str]]]]


def adapters(model: Path) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
    """Files of every kind for a model: tensors and header."""
    torch.manual_seed(0)
    files: dict[str, tuple[dict[str, Tensor], dict[str, str]]] = {}
    unet = open_checkpoint(model).components["unet"]
    shapes = {row.folder: unet.weights[unet.key(row)] for row in unet.rows}
    names = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) >= 2][::7]
    matrices = {name: shapes[f"{name}.weight"] for name in names}
    lora: dict[str, Tensor] = {}
    peft: dict[str, Tensor] = {}
    lokr: dict[str, Tensor] = {}
    mixed: dict[str, Tensor] = {}
    for name, (out, fan, *kernel) in ((name, shape) for name, shape in matrices.items()):
        flat = "lora_unet_" + name.replace(".", "_")
        up, down = torch.randn(out, 2, *[1] * len(kernel)), torch.randn(2, fan, *kernel)
        lora |= {f"{flat}.lora_up.weight": up, f"{flat}.lora_down.weight": down, f"{flat}.alpha": torch.tensor(1.0)}
        peft |= {f"unet.{name}.lora_B.weight": up, f"unet.{name}.lora_A.weight": down}
        lokr |= {f"{flat}.lokr_w1": torch.randn(1, 1), f"{flat}.lokr_w2": torch.randn(out, fan, *kernel)}
        if f"{name}.bias" in shapes:
            mixed |= {f"{flat}.diff": torch.randn(out, fan, *kernel), f"{flat}.diff_b": torch.randn(out)}
        elif out % 2 == 0:
            mixed |= {f"{flat}.oft_blocks": torch.randn(out // 2, 2, 2)}
    config = {"unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {names[0]: 1}, "unet.use_rslora": True}
    tags = {"set": {"a cat": 3, "dog": 1}}
    files["kohya"] = lora, {"ss_tag_frequency": json.dumps(tags), "ss_output_name": "x"}
    files["peft"] = peft, {"lora_adapter_metadata": json.dumps(config)}
    files["lokr"], files["mixed"] = (lokr, {"x": "y"}), (mixed, {"x": "y"})
    files["embedding"] = {"clip_l": torch.randn(2, 8), "clip_g": torch.randn(2, 16)}, {"x": "y"}
    return files


def edit_text(r: Random, data: bytes) -> bytes:
    """The texts of the header damaged."""
    header, numbers = split(data)
    for key, text in header["__metadata__"].items():
        changed = list(text)
        for _ in range(r.randint(1, 6)):
            changed[r.randrange(len(changed))] = r.choice('{}[]":,0-x\\.*+()^')
        header["__metadata__"][key] = "".join(changed)
    return join(json.dumps(header), numbers)


def mutate(seed: int, number: int, data: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Mutant `number`: the kind of the file, and its bytes."""
    r = Random(f"{seed}.{number}")
    kind = r.choice(sorted(data))
    changed = data[kind]
    for _ in range(r.choice((1, 1, 2))):
        change = r.choice((mutate_file, edit_header, edit_numbers, edit_text))
        try:
            changed = change(r, changed)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            changed = mutate_file(r, changed)
    return kind, changed


def use(kind: str, path: Path, model: Path) -> None:
    """All that is done with an adapter: the report, the match, and the change of every weight."""
    checkpoint = open_checkpoint(model)
    opened = Adapters([checkpoint])
    try:
        sdxl.inspect(path)
    finally:
        if kind == "embedding":
            active = opened.open_embeddings([Embedding(path)])
            opened.words(active, [])
        else:
            loras = opened.resolve([LoRA(path)])
            opened.report(loras[0])
            changes = opened.changes(loras)
            for name, component in checkpoint.components.items():
                for own, weight in component.tensors():
                    if (change := changes.get(f"{name}.{own}")) is not None:
                        change(weight.float())


def run(doc: str | None, what: str, make: Files, use: Callable[[str, Path, Path], None]) -> None:
    """Proof: damage files of these kinds for a small model, use each, and exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", SDXLWarning)
    numbers = range(options.count) if options.only is None else [options.only]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    banner(what)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_valid(folder)
        model, data = folder / "model.safetensors", {}
        for kind, (tensors, header) in make(model).items():
            save_tensors(tensors, folder / f"{kind}.safetensors", header)
            data[kind] = (folder / f"{kind}.safetensors").read_bytes()
            use(kind, folder / f"{kind}.safetensors", model)
        for number in numbers:
            kind, changed = mutate(options.seed, number, data)
            path = folder / f"mutant-{number}.safetensors"
            path.write_bytes(changed)
            signal.setitimer(signal.ITIMER_PROF, HANGS)
            began = time.process_time()
            try:
                use(kind, path, model)
                outcome = "loaded"
            except SDXLError as error:
                outcome = type(error).__name__
            except Exception as error:
                if options.only is not None:
                    raise
                outcome = f"FAILED with {type(error).__name__}"
                print(f"mutant {number} ({kind}): {outcome}: {str(error)[:200]}")
            signal.setitimer(signal.ITIMER_PROF, 0)
            seconds = time.process_time() - began
            slowest = max(slowest, seconds)
            outcomes[outcome] += 1
            path.unlink()
    failures = sum(count for outcome, count in outcomes.items() if outcome.startswith("FAILED"))
    print(f"{outcomes.total()} damaged {what} of seed {options.seed}: {dict(outcomes)}")
    claim("failures", failures, most=0)
    claim("seconds of the slowest", slowest, most=SECONDS)
    finish()


if __name__ == "__main__":
    run(__doc__, "adapter files", adapters, use)
