"""The service under load, with an end in the middle: `scripts/proof_load.py` with fewer requests."""

from __future__ import annotations

from pathlib import Path

import pytest

for package in ("starlette", "uvicorn", "multipart"):
    pytest.importorskip(package)


@pytest.mark.slow
def test_each_request_has_one_honest_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    from proof_load import proof

    assert proof(requests=48, clients=8, later=0) == []
