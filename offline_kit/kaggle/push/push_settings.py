"""How a push goes about it: where it keeps its state, how long it waits."""

from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.retry import PATIENT, RetryPolicy
from offline_kit.kaggle.client.api_types import KaggleApi
from offline_kit.kaggle.client.uploads import Uploader
from offline_kit.kaggle.push.journal import Journal
from offline_kit.kaggle.push.poll_policy import DEFAULT_POLL, PollPolicy


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """How a push goes about it."""

    state_folder: Path
    """Folder for the journal and for uploads under way; one for each account."""
    poll_policy: PollPolicy = DEFAULT_POLL
    """How long to wait for Kaggle."""
    retry_policy: RetryPolicy = PATIENT
    """How long to go on with an upload that fails."""

    @property
    def effect_journal(self) -> Journal:
        """The journal of effects."""
        return Journal(self.state_folder / "journal.jsonl")

    def create_uploader(self, kaggle: KaggleApi, ref: str, *, kind: str = "DATASET") -> Uploader:
        """Return what uploads for one dataset, or one variation of a "MODEL"."""
        state = self.state_folder / "uploads" / ref.lower().replace("/", "--")
        return Uploader(kaggle, state, patience=self.retry_policy, kind=kind)
