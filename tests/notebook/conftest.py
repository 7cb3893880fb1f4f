"""What the tests of the notebook share."""

import pytest

from offline_kit.notebook.runtime.kit_runtime import print_once


@pytest.fixture(autouse=True)
def _fresh_notes() -> None:
    """Let each test see all notes, as a new session does."""
    print_once.cache_clear()
