"""What we saw at Kaggle last, kept beside the journal: for `status`, and for not fetching twice."""

import json
from pathlib import Path
from typing import Any

from offline_kit.core import files


class LastSeenStore:
    """Small facts by name; whatever is lost or damaged is looked up again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save_facts(self, name: str, facts: dict[str, Any]) -> None:
        """Remember facts that JSON can hold instead of what had this name."""
        files.write_atomic(self._folder / f"{name}.json", json.dumps(facts, indent=2, sort_keys=True) + "\n")

    def load_facts(self, name: str) -> dict[str, Any] | None:
        """Return what was kept under a name, None where there is nothing."""
        try:
            facts = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None
