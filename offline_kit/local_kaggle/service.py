"""One local Kaggle: its services on one store, and the table of its remote calls."""

import json
from collections.abc import Mapping
from pathlib import Path

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.accounts import AccountService
from offline_kit.local_kaggle.blobs import UploadService
from offline_kit.local_kaggle.catalog import CompetitionCatalog
from offline_kit.local_kaggle.dataset_service import DatasetService
from offline_kit.local_kaggle.faults import Fault, FaultTable
from offline_kit.local_kaggle.kernel_runs import Finder, NotebookRunner, NotebookRuns
from offline_kit.local_kaggle.model_service import ModelService
from offline_kit.local_kaggle.notebook_service import NotebookService
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.local_kaggle.store import DownloadLinks, Foundation, RecordStore
from offline_kit.local_kaggle.submission_service import SubmissionService
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal
from offline_kit.project import kaggle_sources

# Calls that look at credentials themselves.
_OPEN = frozenset({"security.OAuthService/IntrospectToken", "users.AccountService/GenerateAccessToken"})
# What the words of a configuration's sources are called here.
_KINDS = {"dataset": "dataset", "notebook": "kernel", "model": "model"}


class LocalKaggle:
    """The service behind the server; a folder of state that outlives it."""

    def __init__(self, folder: Path, settings: LocalKaggleSettings, runner: NotebookRunner) -> None:
        self.settings = settings
        self.store = RecordStore(folder)
        self.links = DownloadLinks(settings.link)
        base = Foundation(store=self.store, settings=settings, links=self.links)
        self.accounts = AccountService(base)
        self.blobs = UploadService(base)
        self.faults = FaultTable(folder / "faults.json")
        self.datasets = DatasetService(base)
        self.models = ModelService(base)
        self.catalog = CompetitionCatalog(base)
        self.copies: dict[tuple[str, str], tuple[str, Path]] = {}
        finders = {
            "competition": self.catalog.mounted_data,
            "dataset": self._with_copies("dataset", self.datasets.mounted_version),
            "model": self._with_copies("model", self.models.mounted_version),
        }
        runs = NotebookRuns(base, runner=runner, finders=finders, faults=self.faults)
        self.kernels = NotebookService(base, runs)
        finders["kernel"] = self._with_copies("kernel", self.kernels.mounted_output)
        self.submissions = SubmissionService(
            base, catalog=self.catalog, kernels=self.kernels, blobs=self.blobs
        )
        services = (self.accounts, self.blobs, self.datasets, self.kernels, self.models, self.catalog)
        self._rpcs = {
            name: answer
            for service in (*services, self.submissions)
            for name, answer in wire.list_rpcs(service).items()
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
            copy = self.copies.get((kind, name))
            return finder(ref, user) or (copy if copy and copy[1].is_dir() else None)

        return find

    def resume_work(self) -> None:
        """Go on with what was under way when the server of this folder ended."""
        self.blobs.remove_expired()
        self.datasets.resume_processing()
        self.models.resume_processing()
        self.kernels.resume_runs()
        self.submissions.resume_scoring()

    def answer_call(self, name: str, authorization: str, raw: bytes, base: str, fault: Fault) -> HttpAnswer:
        """Answer one remote call; raises ServiceRefusal."""
        rpc = self._rpcs.get(name)
        if rpc is None:
            raise ServiceRefusal(501, f"The local Kaggle has no {name}")
        user = "" if name in _OPEN else self.accounts.user_of(authorization)
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ServiceRefusal(400, "Invalid JSON payload received")
        call = RpcCall(user=user, body=body, base=base, stuck=fault.stuck)
        answer = rpc(call)
        if fault.twice:
            answer = rpc(call)
        return answer if isinstance(answer, HttpAnswer) else wire.json_answer(answer)

    def follow_log(self, wanted: Mapping[str, str], authorization: str, base: str) -> HttpAnswer:
        """Answer who follows the log of a run; raises ServiceRefusal."""
        return self.kernels.follow_log(
            RpcCall(user=self.accounts.user_of(authorization), body=wanted, base=base)
        )
