"""What we ask of Kaggle, and its answers, in words of our own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from offline_kit.core.errors import OutsideError

RATE_LIMITED = 429
UNKNOWN = "unknown"
"""How a state begins that Kaggle calls by a word that we do not know; the word follows in brackets."""


class RefusedError(OutsideError):
    """Kaggle answered no."""

    def __init__(self, what: str, *, hint: str, status: int, after: float | None = None) -> None:
        super().__init__(what, hint=hint)
        self.status = status
        """The HTTP status; 200 where the refusal stands in a friendly answer."""
        self.retry_after = after
        """Seconds that Kaggle asks us to wait; None if it does not say."""

    @property
    def is_server_error(self) -> bool:
        """Whether the server failed: the request may have had an effect all the same."""
        return is_server_error(self.status)

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status == RATE_LIMITED or self.is_server_error


def is_server_error(status: int) -> bool:
    """Tell whether an HTTP status blames the server (RFC 9110, section 15.6)."""
    return status >= 500


class NoResponseError(OutsideError):
    """No answer came: whether the request had an effect is unknown."""


class InvalidResponseError(OutsideError):
    """An answer came that says something else than it may; asked again, it would say the same."""


class UnreachableError(OutsideError):
    """Kaggle could not be reached at all: the request had no effect."""


class NotLoggedInError(OutsideError):
    """No credentials, or none that Kaggle takes."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who we are for Kaggle."""

    username: str
    """The account's name, as in addresses."""
    auth_method: str
    """"ACCESS_TOKEN", "LEGACY_API_KEY" or "OAUTH"."""
    client_version: str = ""
    """Version of the kaggle package that speaks for us."""
    ignored_token_source: str = ""
    """Where a token came from that Kaggle refused and that was laid aside; empty for none."""
    server_name: str = "Kaggle"
    """"Kaggle", or "the local Kaggle", for a person."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a dataset's version."""

    name: str
    """Posix path below the dataset, as Kaggle lists it."""
    size: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class RemoteDataset:
    """A dataset as Kaggle describes it."""

    ref: str
    """"owner/slug"."""
    version: int
    """Number of the current version; 0 while there is none."""
    private: bool
    """Whether only its owner sees it."""
    url: str = ""
    """Its page."""
    version_notes: Mapping[int, str] = field(default_factory=dict)
    """Version notes by version number, as far as Kaggle tells them."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A place to put the bytes of one file."""

    token: str
    """Names the bytes in the dataset that is made of them."""
    url: str
    """Takes the bytes; whoever knows it may write there, so it is a secret."""


@dataclass(frozen=True, kw_only=True)
class NewDatasetVersion:
    """What a dataset is created or continued with: a full snapshot."""

    ref: str
    """"owner/slug"."""
    title: str
    """Title; counts at creation alone."""
    version_notes: str
    """Version notes; at creation the description."""
    blob_tokens: Mapping[str, str]
    """Blob token of every file by its posix path."""


@dataclass(frozen=True, kw_only=True)
class RemoteModel:
    """A model as Kaggle describes it."""

    ref: str
    """"owner/slug"."""
    private: bool
    """Whether only its owner sees it."""
    url: str = ""
    """Its page."""


@dataclass(frozen=True, kw_only=True)
class NewModelVersion:
    """What a variation of a model is created or continued with: a full snapshot."""

    ref: str
    """"owner/model/framework/variation"."""
    version_notes: str
    """Version notes; at creation the overview."""
    blob_tokens: Mapping[str, str]
    """Blob token of every file by its posix path."""


@dataclass(frozen=True, kw_only=True)
class NotebookSources:
    """What a notebook has attached."""

    datasets: tuple[str, ...] = ()
    """"owner/slug" each."""
    competitions: tuple[str, ...] = ()
    """Slugs."""
    notebooks: tuple[str, ...] = ()
    """"owner/slug" each: their outputs."""
    models: tuple[str, ...] = ()
    """"owner/model/framework/variation/version" each."""


@dataclass(frozen=True, kw_only=True)
class NewNotebook:
    """A version of a notebook that is pushed and run; with the internet off unless it says otherwise."""

    ref: str
    """"owner/slug"."""
    title: str
    """Title; the slug follows from it."""
    text: str
    """The .ipynb as JSON text."""
    sources: NotebookSources = field(default_factory=NotebookSources)
    """What is attached."""
    private: bool = True
    """Whether only its owner sees it."""
    gpu: bool = False
    """Whether it asks for a GPU."""
    machine_shape: str = ""
    """Kaggle's name of a machine shape, or empty."""
    image: str = ""
    """Digest of the image to pin, or empty."""
    image_pinning: str = ""
    """"original" where an image is pinned."""
    session_seconds: int | None = None
    """Limit of the session; None for Kaggle's own."""
    internet: bool = False
    """Whether it may use the network: for notebooks that download, never for one that is submitted."""


@dataclass(frozen=True, kw_only=True)
class SavedNotebook:
    """What became of a push."""

    ref: str
    """"owner/slug" as Kaggle resolved it: where the title decides, another one than was asked for."""
    version: int
    """Number of the version."""
    url: str
    """Its page."""
    rejected_sources: tuple[str, ...] = ()
    """Sources that Kaggle did not attach, as "dataset 'owner/slug'"; the version runs without them."""


@dataclass(frozen=True, kw_only=True)
class RemoteNotebook:
    """A version of a notebook as Kaggle describes it."""

    ref: str
    """"owner/slug"."""
    newest_version: int
    """Number of the newest version, whichever was asked for."""
    private: bool
    """Whether only its owner sees it."""
    internet: bool
    """Whether it may use the network."""
    sources: NotebookSources
    """What is attached."""
    text: str
    """Its source, the .ipynb as JSON text."""
    title: str = ""
    """Its title."""
    gpu: bool = False
    """Whether it asks for a GPU."""
    machine_shape: str = ""
    """The machine shape, or empty."""
    image: str = ""
    """The pinned image, or empty."""
    url: str = ""
    """Its page."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far the run of a version is."""

    state: str
    """"queued", "running", "complete", "error", "cancelrequested", "cancelacknowledged", "newscript" or UNKNOWN."""
    failure_message: str = ""
    """Kaggle's sentence about a failure."""

    @property
    def has_failed(self) -> bool:
        """Whether it certainly comes, or came, to no good end."""
        return self.state in ("error", "cancelrequested", "cancelacknowledged")


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A piece of a run's log."""

    seconds: float
    """Since the start of the run."""
    stream: str
    """"stdout" or "stderr"."""
    text: str
    """The words, line ends included."""


@dataclass(frozen=True, kw_only=True)
class Competition:
    """A competition as Kaggle describes it."""

    slug: str
    """Its slug."""
    title: str
    """Its title."""
    deadline: datetime | None
    """When it ends, in UTC; None where Kaggle does not say."""
    has_entered: bool
    """Whether this account has accepted its rules."""
    is_closed: bool
    """Whether it takes no submissions at all."""
    daily_limit: int
    """Submissions a day; 0 where Kaggle does not say."""
    url: str = ""
    """Its page."""


@dataclass(frozen=True, kw_only=True)
class SubmissionLimits:
    """How many submissions there may be."""

    made_today: int
    """Made today (UTC)."""
    made_total: int
    """Made in all."""
    remaining: int
    """Allowed now."""


@dataclass(frozen=True, kw_only=True)
class NewSubmission:
    """A code submission: a finished version of a notebook."""

    competition: str
    """Slug."""
    notebook: str
    """"owner/slug"."""
    version: int
    """The finished version."""
    file: str
    """Its output file that is scored."""
    message: str
    """What the list of submissions shows."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submission as Kaggle describes it."""

    ref: int
    """Its number."""
    submitted_at: datetime | None
    """When it was made, in UTC."""
    state: str
    """"pending", "complete", "error" or UNKNOWN."""
    message: str
    """What it was sent with."""
    file: str = ""
    """The scored file."""
    error: str = ""
    """Why there is no score; may be set with "complete" too, and may be empty with "error"."""
    public_score: str = ""
    """Public score as Kaggle writes it; empty for none yet."""
    private_score: str = ""
    """Private score as Kaggle writes it; empty for none yet."""
    url: str = ""
    """Its page."""

    @property
    def is_finished(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return self.state in ("complete", "error")


class KaggleApi(Protocol):
    """What we ask of Kaggle. Every call ends within a deadline; every failure is one of the errors above."""

    def fetch_account(self) -> Account:
        """Return who we are; raises NotLoggedInError."""

    def get_dataset(self, ref: str) -> RemoteDataset | None:
        """Return a dataset, or None where there is none that we may see."""

    def get_dataset_status(self, ref: str) -> str:
        """Return the processing state in lower case without underscores, "" where there is no dataset."""

    def list_dataset_files(
        self, ref: str, version: int | None = None, *, by_folder: bool = False
    ) -> tuple[RemoteFile, ...]:
        """Return all files of a version, sorted by name; None means the current one, `by_folder` many questions."""

    def start_blob(self, name: str, size: int, modified: int, kind: str = "DATASET") -> Blob:
        """Open a place for the bytes of a file of a "DATASET" or a "MODEL"; safe to repeat."""

    def create_dataset(self, new: NewDatasetVersion) -> str:
        """Create a private dataset and return its page. Never repeated once it may have had an effect."""

    def add_dataset_version(self, new: NewDatasetVersion) -> str:
        """Add a version to a dataset and return its page. Never repeated once it may have had an effect."""

    def download_dataset_file(
        self, ref: str, name: str, target_path: Path, version: int | None = None
    ) -> int:
        """Write one file to `target_path`, which must not exist yet, and return its size in bytes."""

    def upload_proxies(self) -> Mapping[str, str] | None:
        """Return the proxies that the bytes of a blob must take; None for what the environment says."""

    def get_model(self, ref: str) -> RemoteModel | None:
        """Return the model "owner/slug", or None where there is none that we may see."""

    def get_model_version(self, ref: str) -> int:
        """Return the newest version of "owner/model/framework/variation", 0 where there is none."""

    def list_model_files(self, ref: str, version: int) -> tuple[RemoteFile, ...]:
        """Return all files of a version of a variation, sorted by name; none while it does not show."""

    def download_model_file(self, ref: str, version: int, name: str, target_path: Path) -> int:
        """Write one file of a version to `target_path`, which must not exist yet; return its size in bytes."""

    def create_model(self, ref: str, title: str, notes: str) -> str:
        """Create a private model "owner/slug" without variations and return its page. Never repeated."""

    def create_variation(self, new: NewModelVersion) -> str:
        """Create a variation with its first version and return its page. Never repeated."""

    def add_model_version(self, new: NewModelVersion) -> str:
        """Add a version to a variation and return its page. Never repeated."""

    def get_notebook(self, ref: str, version: int | None = None) -> RemoteNotebook | None:
        """Return a version of a notebook (None: the newest), or None where there is none that we may see."""

    def save_notebook(self, new: NewNotebook) -> SavedNotebook:
        """Push a version, which begins to run. Never repeated once it may have had an effect."""

    def get_notebook_run(self, ref: str, version: int) -> RunStatus | None:
        """Return how far the run of exactly this version is; None where there is none, or none yet."""

    def get_run_log(self, ref: str, version: int) -> tuple[LogLine, ...]:
        """Return the log of a version's run as far as it goes."""

    def list_run_outputs(self, ref: str, version: int) -> tuple[str, ...]:
        """Return the paths of a version's output files, sorted; their sizes Kaggle does not tell reliably."""

    def download_run_output(self, ref: str, version: int, name: str, target_path: Path) -> int:
        """Write one output file of a version to `target_path`, which must not exist yet; return its size in bytes."""

    def get_competition(self, slug: str) -> Competition | None:
        """Return a competition, or None where there is none of this name."""

    def get_submission_limits(self, slug: str) -> SubmissionLimits:
        """Return how many submissions are left."""

    def submit_notebook(self, new: NewSubmission) -> Submission:
        """Queue a code submission; its number is 0 where Kaggle does not tell it, `error` has its words then. Never repeated once it may have had an effect."""

    def get_submission(self, ref: int) -> Submission | None:
        """Return one submission; None while it does not show yet."""

    def list_submissions(self, slug: str) -> tuple[Submission, ...]:
        """Return our submissions to a competition, the latest first."""
