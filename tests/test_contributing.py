"""The changes that CONTRIBUTING.md shows, made to a copy of the package and tried there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import ROOT, blocks

TRIAL = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import sdxl
from sdxl.weights import open_checkpoint

model, here = Path(sys.argv[1]), Path(sys.argv[2])
assert Path(sdxl.__file__).is_relative_to(here)
pipe = sdxl.Pipeline.from_pretrained(model, dtype="float32", device="cpu")
quick = {"steps": 3, "seed": 1, "output": "latent", "progress": False}
before = pipe("a red cat", **quick).images
image = pipe("a red cat", **quick, sampler="midpoint", schedule="even").images
assert image.isfinite().all() and not torch.equal(image, before)

weights = dict(open_checkpoint(model).components["unet"].tensors())
name = next(name for name in weights if name.endswith("cross_attn.q.weight"))
row = next(row for row in open_checkpoint(model).components["unet"].rows if row.ours == name)
module = "lora_unet_" + row.folder.removesuffix(".weight").replace(".", "_")
out, fan = weights[name].shape
u, s, v = torch.randn(out, 3), torch.rand(3), torch.randn(3, fan)
save_file({f"{module}.svd_u": u, f"{module}.svd_s": s, f"{module}.svd_v": v}, here / "svd.safetensors")
pipe.set_loras([here / "svd.safetensors"])
change = pipe.residency.loader.adapted["unet." + name](weights[name].float()) - weights[name].float()
assert (change.double() - (u.double() * s.double()) @ v.double()).abs().max() < 1e-5
assert sdxl.inspect(here / "svd.safetensors").kinds == {"SVD": 1}
"""


def changes(page: Path) -> list[tuple[str, list[str]]]:
    """The files of the page's diffs, each with the lines of its hunks."""
    found = []
    for block in blocks(page, "diff"):
        for part in re.split(r"^(?:--- .*\n)?\+\+\+ ", block, flags=re.MULTILINE)[1:]:
            file, *lines = part.splitlines()
            found.append((file, [line for line in lines if not line.startswith("--- ")]))
    return found


def apply(root: Path, file: str, lines: list[str]) -> None:
    """Put added lines behind the line that `@@` shows; those without one before it into the same file's next `@@`."""
    path = root / file
    if not path.exists():
        path.write_text("".join(f"{line[1:]}\n" for line in lines), encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8").splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("@@ "))
    anchors = [n for n, line in enumerate(text) if line.strip() == lines[first].removeprefix("@@ ")]
    assert len(anchors) == 1, (file, lines[first], anchors)
    (at,) = anchors
    assert all(line.startswith("+") for line in (*lines[:first], *lines[first + 1 :]))
    before, after = ([line[1:] for line in part] for part in (lines[:first], lines[first + 1 :]))
    text = [*text[:at], *before, text[at], *after, *text[at + 1 :]]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_the_changes_that_the_page_shows_work(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sdxl", tmp_path / "sdxl", ignore=shutil.ignore_patterns("__pycache__"))
    made = changes(ROOT / "CONTRIBUTING.md")
    assert len(made) == 5
    for file, lines in made:
        apply(tmp_path, file, lines)
    model = tmp_path / "saved by torch"
    shutil.copytree(tiny_folder, model)
    rename_keys(model / "unet/diffusion_pytorch_model.safetensors")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", TRIAL, str(model), str(tmp_path)]
    tried = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *(file for file, _ in made)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def rename_keys(path: Path) -> None:
    """As torch.nn.parallel names them."""
    from safetensors.torch import load_file, save_file

    save_file({f"module.{key}": value for key, value in load_file(path).items()}, path, metadata={"format": "pt"})
