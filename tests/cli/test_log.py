from __future__ import annotations

import pytest

from tenantry.cli.log import in_words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("scale", "scale"),
        (7, "7"),
        (True, "yes"),
        (["a", "b"], "a b"),
        ({"cu_max": "2", "name": "Gold"}, "cu_max=2 name=Gold"),
    ],
)
def test_details_are_told_in_words(value: object, words: str) -> None:
    assert in_words(value) == words
