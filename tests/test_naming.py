"""The names of files in errors."""

from __future__ import annotations

import pytest

from sdxl.errors import CheckpointError, naming


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("t", "the VAE is incomplete"),  # a file called t
        ("model", "model_max_length is 0"),
        ("/m/a", "/m/ab has no tensors"),
        ("/m/a", "the UNet of /m/a is incomplete"),
    ],
)
def test_a_file_is_named_where_the_error_begins_otherwise(where: str, text: str) -> None:
    with pytest.raises(CheckpointError) as caught, naming(where):
        raise CheckpointError(text)
    assert str(caught.value) == f"{where}: {text}"


@pytest.mark.parametrize("rest", [" is no file", ": conv_in is missing", "/unet has no config", ", metadata: y", ""])
def test_a_file_is_not_named_twice(rest: str) -> None:
    with pytest.raises(CheckpointError) as caught, naming("/m/a"), naming("/m/a"):
        raise CheckpointError("/m/a" + rest)
    assert str(caught.value) == "/m/a" + rest
