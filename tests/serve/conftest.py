"""What the tests of the service share as fixtures; each file starts the service that it needs as `running`."""

from __future__ import annotations

import pytest
from serving import Client, Running


@pytest.fixture
def client(running: Running) -> Client:
    return running.client
