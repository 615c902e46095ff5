"""Every error message of the package has advice. `scripts/list_errors.py` prints all of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

# the advice after the fact, or the only values that are possible
ADVICE = re.compile(r";|\. Try |must be|supported|, try|\{advice\}|\{remedy\(|: \{fault\}$")
# sentences from elsewhere: hub faults, which test_hub.py checks one by one
ELSEWHERE = re.compile(
    r"\{explain\(.*\)\}|in the second pass of hires \{error\}|image: \{error\}"
    r"|.*(\{no_answer\}|: \{FOREIGN\}|\{_EXAMPLE\}|\{findings\.wrong\[0\]\})"
)


@pytest.fixture
def messages() -> list[Any]:
    from list_errors import messages

    return list(messages())


def test_every_message_has_advice(messages: list[Any]) -> None:
    assert len(messages) > 150
    without_advice = [m for m in messages if not ADVICE.search(m.text) and not ELSEWHERE.fullmatch(m.text)]
    assert not without_advice, "\n".join(f"{m.place}: {m.text}" for m in without_advice)


def test_messages_have_one_form(messages: list[Any]) -> None:
    """One sentence without a full stop, which begins with a name or with lower case."""
    for message in messages:
        assert not message.text.endswith("."), message
        assert not re.match(r"[A-Z][a-z]+ ", message.text) or message.text.startswith("Ray "), message
        assert "\n" not in message.text, message
