"""The trace of a prompt through the package (docs/architecture.md), without a bound on its length."""

from __future__ import annotations

import pytest
import trace_call


def test_a_prompt_is_traced_through_the_files_that_it_calls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["trace_call.py"])
    trace_call.main()
    *rows, total = (line.split() for line in capsys.readouterr().out.splitlines())
    names = {row[2] for row in rows}
    assert {"pipeline/pipeline.py", "pipeline/loop.py", "models/unet.py", "sampling/samplers/euler.py"} <= names
    assert not any(name.startswith(("weights/", "cli/", "jobs/")) for name in names)  # it is loaded, and alone
    assert all(0 < int(ran) <= int(lines) for lines, ran, _ in rows)
    assert int(total[0]) == sum(int(row[0]) for row in rows)
