"""One local Kaggle: its nouns on one store, and the table of its remote calls."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.accounts import AccountService
from offline_kit.local_kaggle.blobs import UploadService
from offline_kit.local_kaggle.catalog import CompetitionCatalog
from offline_kit.local_kaggle.dataset_service import DatasetService
from offline_kit.local_kaggle.faults import Fault, FaultTable
from offline_kit.local_kaggle.kernel_runs import NotebookRuns
from offline_kit.local_kaggle.links import DownloadLinks
from offline_kit.local_kaggle.model_service import ModelService
from offline_kit.local_kaggle.notebook_service import NotebookService
from offline_kit.local_kaggle.running import Finder, NotebookRunner
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.local_kaggle.store import RecordStore
from offline_kit.local_kaggle.submission_service import SubmissionService
from offline_kit.local_kaggle.versions import VersionStore
from offline_kit.local_kaggle.wire import HttpAnswer, Rpc, RpcCall, ServiceRefusal
from offline_kit.project import kaggle_sources

_OPEN = frozenset({"security.OAuthService/IntrospectToken", "users.AccountService/GenerateAccessToken"})
"""Calls that look at credentials themselves."""
_KINDS = {"dataset": "dataset", "notebook": "kernel", "model": "model"}
"""What the words of a configuration's sources are called here."""


class LocalKaggle:
    """The service behind the server; a folder of state that outlives it."""

    def __init__(self, folder: Path, settings: LocalKaggleSettings, runner: NotebookRunner) -> None:
        self.settings = settings
        self.store = RecordStore(folder)
        self.accounts = AccountService(self.store)
        self.links = DownloadLinks(settings.link)
        self.blobs = UploadService(self.store, settings)
        self.faults = FaultTable(folder / "faults.json")
        self.datasets = DatasetService(self.store, VersionStore(self.store, settings), self.blobs, self.links)
        self.catalog = CompetitionCatalog(self.store, settings, self.links)
        self.copies: dict[tuple[str, str], tuple[str, Path]] = {}
        finders: dict[str, Finder] = {"competition": self.catalog.mounted_data}
        finders["dataset"] = self._with_copies("dataset", self.datasets.mounted_version)
        rules = partial(self.store.read, "competitions")
        runs = NotebookRuns(self.store, settings, runner, finders, self.faults, rules)
        self.kernels = NotebookService(self.store, runs, self.links, self.datasets.is_taken)
        finders["kernel"] = self._with_copies("kernel", self.kernels.mounted_output)
        verbatim = VersionStore(self.store, settings, verbatim=True)
        self.models = ModelService(self.store, verbatim, self.blobs, self.links)
        finders["model"] = self._with_copies("model", self.models.mounted_version)
        self.submissions = SubmissionService(self.store, self.catalog, self.kernels, self.blobs, self.faults)
        self._rpcs: dict[str, Rpc] = {
            **self.accounts.list_rpcs(),
            **self.blobs.list_rpcs(),
            **self.datasets.list_rpcs(),
            **self.kernels.list_rpcs(),
            **self.models.list_rpcs(),
            **self.catalog.list_rpcs(),
            **self.submissions.list_rpcs(),
        }

    def offer_copies(self, copies: Mapping[str, Path]) -> None:
        """Let folders stand for sources that nobody pushed here, by "dataset:owner/slug", "notebook:..." or "model:...".

        Notebooks of all accounts can attach them, as long as this server runs. Raises UsageError for another name.
        """
        for name, folder in copies.items():
            source = kaggle_sources.parse_source(name)
            self.copies[_KINDS[source.kind], source.ref.lower()] = (source.mount_path("new"), folder)

    def _with_copies(self, kind: str, finder: Finder) -> Finder:
        """Return a finder that looks among the copies for what the one given does not have."""

        def find(ref: str, user: str) -> tuple[str, Path] | None:
            words = ref.lower().split("/")
            name = "/".join(words if kind == "model" else words[:2])  # others may have a version behind them
            location, folder = self.copies.get((kind, name), ("", None))
            copy = (location, folder) if folder and folder.is_dir() else None
            return finder(ref, user) or copy

        return find

    def resume_work(self) -> None:
        """Go on with what was under way when the server of this folder ended."""
        self.blobs.remove_expired()
        self.datasets.resume_processing()
        self.models.resume_processing()
        self.kernels.resume_runs()
        self.submissions.resume_scoring()

    def answer_call(
        self, name: str, headers: Mapping[str, str], raw: bytes, base: str, fault: Fault
    ) -> HttpAnswer:
        """Answer one remote call; raises Refusal."""
        rpc = self._rpcs.get(name)
        if rpc is None:
            raise ServiceRefusal(501, f"The local Kaggle has no {name}")
        user = "" if name in _OPEN else self.accounts.user_of(headers)
        call = RpcCall(user=user, body=_parse_body(raw), base=base, stuck=fault.stuck)
        answer = rpc(call)
        if fault.twice:
            answer = rpc(call)
        return (
            answer if isinstance(answer, HttpAnswer) else wire.json_answer(wire.localize_urls(answer, base))
        )

    def follow_log(self, asked: Mapping[str, str], headers: Mapping[str, str], base: str) -> HttpAnswer:
        """Answer who follows the log of a run; raises Refusal."""
        return self.kernels.follow_log(RpcCall(user=self.accounts.user_of(headers), body=asked, base=base))


def _parse_body(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw or b"{}")
    except ValueError:
        raise ServiceRefusal(400, "Invalid JSON payload received") from None
    if not isinstance(body, dict):
        raise ServiceRefusal(400, "Invalid JSON payload received")
    return body
