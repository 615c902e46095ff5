"""The service under load, with an end in the middle: `make proof-load` with fewer requests."""

from __future__ import annotations

import pytest

for package in ("starlette", "uvicorn", "multipart"):
    pytest.importorskip(package)


@pytest.mark.slow
def test_each_request_has_one_honest_answer() -> None:
    from load import proof

    assert proof(requests=48, clients=8, later=0) == []
