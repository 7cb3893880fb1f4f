"""What we ask of Kaggle, and its answers, in words of our own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from offline_kit.errors import OutsideError


class RefusedError(OutsideError):
    """Kaggle answered no."""

    def __init__(self, what: str, *, hint: str, status: int, after: float | None = None) -> None:
        super().__init__(what, hint=hint)
        self.status = status
        """The HTTP status; 200 where the refusal stands in a friendly answer."""
        self.after = after
        """Seconds that Kaggle asks us to wait; None where it does not say."""


class UnansweredError(OutsideError):
    """No answer came: whether the request had an effect is unknown."""


class UnsentError(OutsideError):
    """Kaggle could not be reached at all: the request had no effect."""


class NotLoggedInError(OutsideError):
    """No credentials, or none that Kaggle takes."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who we are for Kaggle."""

    username: str
    """The account's name, as in addresses."""
    method: str
    """"ACCESS_TOKEN", "LEGACY_API_KEY" or "OAUTH"."""
    client: str = ""
    """Version of the kaggle package that speaks for us."""
    dropped: str = ""
    """Where a token came from that Kaggle refused and that was laid aside; empty for none."""
    place: str = "Kaggle"
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
    notes: Mapping[int, str] = field(default_factory=dict)
    """Version notes by version number, as far as Kaggle tells them."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A place to put the bytes of one file."""

    token: str
    """Names the bytes in the dataset that is made of them."""
    url: str
    """Takes the bytes; whoever knows it may write there, so it is a secret."""


@dataclass(frozen=True, kw_only=True)
class NewVersion:
    """What a dataset is created or continued with: a full snapshot."""

    ref: str
    """"owner/slug"."""
    title: str
    """Title; counts at creation alone."""
    notes: str
    """Version notes; at creation the description."""
    tokens: Mapping[str, str]
    """Blob token of every file by its posix path."""


class Kaggle(Protocol):
    """What we ask of Kaggle. Every call ends within a deadline; every failure is one of the errors above."""

    def account(self) -> Account:
        """Return who we are; raises NotLoggedInError."""

    def dataset(self, ref: str) -> RemoteDataset | None:
        """Return a dataset, or None where there is none that we may see."""

    def status(self, ref: str) -> str:
        """Return the processing state in lower case without underscores, "" where there is no dataset."""

    def files(self, ref: str, version: int | None = None) -> tuple[RemoteFile, ...]:
        """Return all files of a version, sorted by name; None means the current one."""

    def start_blob(self, name: str, size: int, modified: int) -> Blob:
        """Open a place for the bytes of a file; safe to repeat."""

    def create(self, new: NewVersion) -> str:
        """Create a private dataset and return its page. Never repeated once it may have had an effect."""

    def add_version(self, new: NewVersion) -> str:
        """Add a version to a dataset and return its page. Never repeated once it may have had an effect."""

    def download(self, ref: str, name: str, into: Path, version: int | None = None) -> int:
        """Write one file to `into`, which must not exist yet, and return its size in bytes."""

    def proxies(self) -> Mapping[str, str] | None:
        """Return the proxies that the bytes of a blob must take; None for what the environment says."""
