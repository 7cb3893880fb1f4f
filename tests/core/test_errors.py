"""Words that errors share."""

import pytest

from offline_kit.core.errors import suggest_name


@pytest.mark.parametrize(
    ("name", "known", "most", "said"),
    [
        ("chekpoints", {"checkpoints": 1, "packages": 2}, 1, "; did you mean 'checkpoints'?"),
        ("pands", ("pandas", "panda"), 1, "; did you mean 'pandas'?"),
        ("pands", ("pandas", "panda", "polars"), 2, "; did you mean 'pandas' or 'panda'?"),
        ("abacus", ("numpy",), 1, ""),
        ("anything", (), 1, ""),
    ],
)
def test_a_name_that_is_nearly_known_is_guessed(name: str, known: list[str], most: int, said: str) -> None:
    """The sentence on an unknown name ends with what is meant most likely, and without a guess where nothing is near."""
    assert suggest_name(name, known, limit=most) == said
