"""docs/serve.md: its calls of curl, run as they are against a service with the miniature; every route is among them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from serving import serving

from sdxl.pipeline import ModelRequest
from sdxl.serve.openapi import ENDPOINTS

ADAPTERS = Path(__file__).parents[2] / "weights/adapters"
PAGE = (Path(__file__).parents[2] / "docs/serve.md").read_text(encoding="utf-8")
BLOCKS = [code for code in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) if "curl" in code]
FAILS = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }\nset -eo pipefail\n'


@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "python3", "base64"))), reason="needs bash and curl")
def test_the_calls_of_curl(tmp_path: Path) -> None:
    mask = Image.new("L", (128, 128))
    mask.paste(255, (32, 32, 80, 80))
    mask.save(tmp_path / "mask.png")
    mask.save(tmp_path / "edges.png")
    with serving([ModelRequest("miniature", dtype="float32", device="cpu", control_dir=ADAPTERS)]) as running:
        script = FAILS + "".join(BLOCKS).replace(":7860", f":{running.client.port}").replace(
            '"steps": 20', '"steps": 2'
        )
        ran = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, (ran.stdout[-2000:], ran.stderr)
        jobs = [job for session in (None, "my-session") for job in running.service.engine.jobs(session)]
        for job in jobs:
            assert job.state.failure is None, job.state.failure
    assert Image.open(tmp_path / "circle.png").size == (128, 128)
    assert len(jobs) >= 5


def test_every_route_is_called() -> None:
    called = "".join(BLOCKS)
    for each in ENDPOINTS:
        path = each.path.replace("{id}", "$id").replace("{name}", "$id-1.png")
        assert re.search(rf":7860{re.escape(path)}(?=[\s\"?]|$)", called, re.MULTILINE), path
