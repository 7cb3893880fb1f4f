"""The Kaggle API as this package uses it: requests, answers and errors.

A `ref` is "owner/slug"; of a model's variation "owner/model/framework/variation".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from offline_kit.core.errors import OutsideError

RATE_LIMITED = 429
RUNNING_STATES = frozenset({"queued", "running", "newscript", "cancelrequested"})  # of a notebook's run


class RefusedError(OutsideError):
    """Kaggle refused a request."""

    default_code = "kaggle-refused"

    def __init__(
        self, what: str, *, hint: str, status: int, after: float | None = None, code: str = ""
    ) -> None:
        super().__init__(what, hint=hint, code=code)
        self.status = status  # the HTTP status; 200 if a successful answer contains the refusal
        self.after = after  # seconds that Kaggle asks us to wait; None if it does not say

    @property
    def is_server_error(self) -> bool:
        """Whether the server failed: the request may have had an effect all the same."""
        return self.status >= 500  # RFC 9110, section 15.6

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status == RATE_LIMITED or self.is_server_error


class NoResponseError(OutsideError):
    """No answer came: whether the request had an effect is unknown."""

    default_code = "kaggle-no-response"


class InvalidResponseError(OutsideError):
    """An answer does not have the documented form; a retry would not change that."""

    default_code = "kaggle-invalid-response"


class UnreachableError(OutsideError):
    """The server could not be reached: the request had no effect."""

    default_code = "kaggle-unreachable"


class NotLoggedInError(OutsideError):
    """There are no credentials, or Kaggle does not accept them."""

    default_code = "kaggle-not-logged-in"


@dataclass(frozen=True, kw_only=True)
class Account:
    """The account that the credentials belong to."""

    username: str
    auth_method: str  # "ACCESS_TOKEN", "LEGACY_API_KEY" or "OAUTH"
    ignored_token_source: str = ""  # where a rejected token came from that is now ignored; empty for none
    server_name: str = "Kaggle"  # "Kaggle", or "the local Kaggle", for a person


@dataclass(frozen=True, kw_only=True)
class RemoteDataset:
    """A dataset on Kaggle; its version is 0 while there is none."""

    ref: str
    version: int
    private: bool
    url: str = ""
    version_notes: Mapping[int, str] = field(default_factory=dict)  # by version number; may be incomplete


@dataclass(frozen=True, kw_only=True)
class NewVersion:
    """A new dataset, model variation or version of one: a full snapshot."""

    ref: str
    version_notes: str  # becomes the description at creation
    blob_tokens: Mapping[str, str]  # blob token of every file, by POSIX path
    title: str = ""  # used at the creation of a dataset only


@dataclass(frozen=True, kw_only=True)
class RemoteModel:
    """A model on Kaggle."""

    ref: str
    private: bool
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class NotebookSources:
    """The inputs that are attached to a notebook; the outputs of other notebooks are among them."""

    datasets: tuple[str, ...] = ()
    competitions: tuple[str, ...] = ()
    notebooks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # "owner/model/framework/variation/version" each


@dataclass(frozen=True, kw_only=True)
class NotebookVersion:
    """What a version of a notebook consists of."""

    ref: str
    title: str = ""  # Kaggle derives the slug from it
    text: str
    kernel_type: str = "notebook"  # or "script"
    sources: NotebookSources = field(default_factory=NotebookSources)
    private: bool = True
    gpu: bool = False
    machine_shape: str = ""  # Kaggle's name, such as "NvidiaTeslaT4"; empty for the default
    image: str = ""  # by digest; empty for the latest
    internet: bool = False  # network access: for notebooks that download, never for one that is submitted


@dataclass(frozen=True, kw_only=True)
class NewNotebook(NotebookVersion):
    """A notebook version to push and run."""

    image_pinning: str = ""  # "original" where an image is pinned


@dataclass(frozen=True, kw_only=True)
class SavedNotebook:
    """The version that a push created."""

    ref: str  # as Kaggle resolved it: where the title decides, another one than was asked for
    version: int
    url: str
    rejected_sources: tuple[tuple[str, str], ...] = ()  # kind and name of each that Kaggle did not attach


@dataclass(frozen=True, kw_only=True)
class RemoteNotebook(NotebookVersion):
    """A notebook version on Kaggle."""

    newest_version: int
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The state of a version's run."""

    state: str  # "complete", "error", "cancelacknowledged" or one of RUNNING_STATES; or a word that this version does not know
    failure_message: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether the run failed, or is being cancelled."""
        return self.state in ("error", "cancelrequested", "cancelacknowledged")


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """What a run has written so far, both streams without colors."""

    text: str = ""
    seconds: float = 0.0  # from its start to its last event; 0 if unknown


@dataclass(frozen=True, kw_only=True)
class Competition:
    """A competition on Kaggle."""

    slug: str
    title: str
    deadline: datetime | None  # in UTC; None if Kaggle gives none
    has_entered: bool
    is_closed: bool
    daily_limit: int  # submissions per day; 0 if Kaggle does not say
    url: str = ""
    is_code_only: bool = True  # whether it runs notebooks again on a hidden test set


@dataclass(frozen=True, kw_only=True)
class SubmissionLimits:
    """How many submissions were made and are left."""

    made_today: int
    remaining: int


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submission on Kaggle, with its scores as Kaggle prints them."""

    ref: int
    submitted_at: datetime | None  # in UTC
    state: str  # "pending", "complete" or "error"; or a word that this version does not know
    message: str
    file: str = ""
    error: str = ""  # why there is no score; may be set for "complete" too, and empty for "error"
    public_score: str = ""
    private_score: str = ""
    url: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether it was scored or failed."""
        return self.state in ("complete", "error")
