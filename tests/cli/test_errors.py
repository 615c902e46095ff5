"""Every error message of the package says what to do: `scripts/list_errors.py` prints them to be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

# what follows the fact, or the only values that there are
ADVICE = re.compile(r";|; |must be|supported|, try|\{advice\}|\{remedy\(")
# sentences that are made elsewhere: hub faults, which test_hub.py reads one by one
ELSEWHERE = re.compile(r"\{explain\(.*\)\}|.*(\{silence\}|: \{FOREIGN\}|\{_EXAMPLE\}|\{findings\.wrong\[0\]\})")


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    from list_errors import messages

    return list(messages())


def test_every_message_says_what_to_do(messages: list[Any]) -> None:
    assert len(messages) > 150
    silent = [m for m in messages if not ADVICE.search(m.text) and not ELSEWHERE.fullmatch(m.text)]
    assert not silent, "\n".join(f"{m.place}: {m.text}" for m in silent)


def test_messages_are_written_alike(messages: list[Any]) -> None:
    """One sentence, without a full stop, that names something, and lower case where it does not begin with a name."""
    for message in messages:
        assert not message.text.endswith("."), message
        assert not re.match(r"[A-Z][a-z]+ ", message.text) or message.text.startswith("Ray "), message
        assert "\n" not in message.text, message
