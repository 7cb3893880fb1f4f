"""How a push goes about it: where it keeps its state, how long it waits."""

from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.retry import PATIENT, Patience
from offline_kit.kaggle.client.api_types import Kaggle
from offline_kit.kaggle.client.uploads import Uploader
from offline_kit.kaggle.push.journal import Journal
from offline_kit.kaggle.push.poll_policy import WAITING, Waiting


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How a push goes about it."""

    state: Path
    """Folder for the journal and for uploads under way; one for each account."""
    waiting: Waiting = WAITING
    """How long to wait for Kaggle."""
    patience: Patience = PATIENT
    """How long to go on with an upload that fails."""

    @property
    def journal(self) -> Journal:
        """The journal of effects."""
        return Journal(self.state / "journal.jsonl")

    def uploader(self, kaggle: Kaggle, ref: str, *, kind: str = "DATASET") -> Uploader:
        """Return what uploads for one dataset, or one variation of a "MODEL"."""
        state = self.state / "uploads" / ref.lower().replace("/", "--")
        return Uploader(kaggle, state, patience=self.patience, kind=kind)
