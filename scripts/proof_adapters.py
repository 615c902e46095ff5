"""Proof, at full size: a LoRA of rank 64 over all 986 modules that kohya's scripts train, on a model of random weights.

    make proof-adapters            # makes a checkpoint of 7 GB in a temporary folder
    python scripts/proof_adapters.py weights/random_base.safetensors

In stage (float32) and in block (bfloat16): the time to set it, one step at 512 x 512 with it, and to remove it; the
peak of memory with it and without; and after its removal the latents of before, bit for bit. Then 2,000 damaged adapter
files (`fuzz_adapter.py`).
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import sdxl
from sdxl.weights import open_checkpoint
from sdxl.weights.container import save_tensors
from sdxl.weights.keymap import UNET_PREFIX

RANK = 64
MODES = (("stage", "float32"), ("block", "bfloat16"))
PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
TRAINED = {
    "unet": re.compile(r".*attn\.\d+\.(proj_in|proj_out|blocks\.\d+\.((self|cross)_attn|ff)\.\w+)\.weight"),
    "text_encoder": re.compile(r"layers\.\d+\.(attn|ff)\.\w+\.weight"),
}
TRAINED["text_encoder_2"] = TRAINED["text_encoder"]


def write_lora(model: Path, path: Path) -> int:
    """A LoRA in float16 over the modules that kohya's scripts train; how many there are."""
    state, generator = {}, torch.Generator().manual_seed(0)
    for name, component in open_checkpoint(model).components.items():
        shapes = {own: value.shape for own, value in component.build().state_dict().items()}
        for row in component.rows if name in TRAINED else ():
            if not TRAINED[name].fullmatch(row.ours):
                continue
            theirs = row.single.removeprefix(UNET_PREFIX) if name == "unet" else row.folder
            module = PREFIXES[name] + theirs.rpartition(".")[0].replace(".", "_")
            out, fan = shapes[row.ours]
            up, down = torch.randn(out, RANK, generator=generator), torch.randn(RANK, fan, generator=generator)
            state[f"{module}.lora_up.weight"] = (up / RANK**0.5).half()
            state[f"{module}.lora_down.weight"] = (0.1 * down / fan**0.5).half()
            state[f"{module}.alpha"] = torch.tensor(float(RANK)).half()
    save_tensors(state, path, {})
    return len(state) // 3


def peak() -> float:
    """The most memory that this process has had, in GB."""
    return 1024e-9 * int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def measure(model: str, lora: str, mode: str, dtype: str) -> dict[str, Any]:
    """One process: load, a step, and with a LoRA: set it, a step, remove it, and a step."""

    def step() -> torch.Tensor:
        images = pipe("a cat", width=512, height=512, steps=1, seed=1, output="latent", progress=False).images
        assert isinstance(images, torch.Tensor)
        return images

    def timed(name: str, work: Any) -> Any:
        began = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - began
        return result

    seconds: dict[str, float] = {}
    pipe = timed("load", lambda: sdxl.Pipeline.from_pretrained(model, device="cpu", offload=mode, dtype=dtype))
    before = timed("step", step)
    facts: dict[str, Any] = {"dtype": str(pipe.dtype), "seconds": seconds}
    if lora:
        timed("set", lambda: pipe.set_loras([lora]))
        facts["changes"] = not torch.equal(timed("step with it", step), before)
        timed("remove", lambda: pipe.set_loras([]))
        facts["restored"] = torch.equal(timed("step after it", step), before)
    return facts | {"peak": peak()}


def child(*arguments: str) -> dict[str, Any]:
    run = subprocess.run([sys.executable, __file__, "--measure", *arguments], check=True, stdout=subprocess.PIPE)
    facts: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return facts


def prove(model: Path, folder: Path) -> bool:
    lora = folder / "lora.safetensors"
    count = write_lora(model, lora)
    print(f"{count} modules of rank {RANK}, {lora.stat().st_size / 1e9:.2f} GB in float16")
    good = count == 986
    for mode, dtype in MODES:
        plain, changed = child(str(model), "", mode, dtype), child(str(model), str(lora), mode, dtype)
        times = ", ".join(f"{name} {value:.1f} s" for name, value in changed["seconds"].items())
        more = changed["peak"] - plain["peak"]
        print(f"offload {mode}, {changed['dtype']}: {times}")
        print(
            f"  peak {changed['peak']:.2f} GB, {plain['peak']:.2f} without: {more:.2f} more (at most 1); "
            f"bit for bit the first latents after removal: {changed['restored']}",
            flush=True,
        )
        good &= more <= 1 and changed["restored"] and changed["changes"]
    return good


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
        return
    print(
        f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    scripts = Path(__file__).parent
    with tempfile.TemporaryDirectory() as name:
        model = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(name) / "base.safetensors"
        if not model.exists():
            subprocess.run([sys.executable, scripts / "make_checkpoint.py", "base", model], check=True)
        good = prove(model, Path(name))
    sys.stdout.flush()
    fuzz = subprocess.run([sys.executable, scripts / "fuzz_adapter.py", "--count", "2000"], check=False)
    sys.exit(not good or fuzz.returncode != 0)


if __name__ == "__main__":
    main()
