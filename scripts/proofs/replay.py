"""Proof: every image of the miniature in the pages, and in a job's folder, is identical when it is made again.

The scripts that draw for docs/ideas.md and docs/prompts.md run as they are. Each image that they generate is saved, and
`sdxl.verify` makes it again from its file. The images of a job are made in batches, and again one by one.

    make proof-replay
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from common import banner, claim, finish  # isort: skip
import draw_ideas
import draw_prompts

import sdxl
from sdxl.cli.main import main as run

SOURCES = ("image", "mask", "latents")
Made = list[tuple[Path, sdxl.Pipeline, dict[str, Any]]]


def draw_all(folder: Path) -> Made:
    """The images of the pages, with the pipelines and the sources that made them."""
    made: Made = []
    call = sdxl.Pipeline.__call__

    def saving(pipe: sdxl.Pipeline, *positional: Any, **arguments: Any) -> sdxl.Result:
        result: sdxl.Result = call(pipe, *positional, **arguments)
        files = result.save(folder / f"{len(made):04}.png")
        sources = {name: arguments[name] for name in SOURCES if name in arguments}
        made.extend((file, pipe, sources) for file in files)
        return result

    with mock.patch.object(sdxl.Pipeline, "__call__", saving), mock.patch.object(draw_ideas, "OUT", folder):
        draw_ideas.main()
        with mock.patch.object(draw_prompts, "OUT", folder):
            pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
            draw = partial(draw_ideas.drawer(pipe), prompt_syntax="a1111")
            for each in (draw_prompts.draw_weights, draw_prompts.draw_changes, draw_prompts.draw_parts):
                each(draw)
    return made


def run_job(folder: Path) -> Made:
    """The images of a job of several prompts with several images each."""
    lines = [
        {"prompt": prompt, "num_images": 4, "seed": 7 * n, "steps": 10} for n, prompt in enumerate(draw_ideas.GALLERY)
    ]
    (folder / "job.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = ["--batch", str(folder / "job.jsonl"), "--output-dir", str(folder / "job"), "--batch-size", "4", "--quiet"]
    with redirect_stdout(io.StringIO()):
        status = run(["generate", *flags, "--model", "miniature", "--dtype", "float32"])
    if status:
        sys.exit("the job failed")
    pipe = sdxl.Pipeline.from_pretrained("miniature", dtype="float32")
    return [(file, pipe, {}) for file in sorted((folder / "job").glob("*.png"))]


def main() -> None:
    banner("images of the pages and of a job")
    verdicts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for what, make in (("the pages", draw_all), ("a job", run_job)):
            folder = Path(name) / make.__name__
            folder.mkdir()
            made = make(folder)
            for file, pipe, sources in made:
                found = sdxl.verify(file, pipe, **sources)
                verdicts[found.verdict] += 1
                if found.verdict != "identical":
                    print(found, flush=True)
            print(f"{what}: {len(made)} images", flush=True)
    claim("images that are identical", verdicts["identical"], verdicts.total())
    finish()


if __name__ == "__main__":
    main()
