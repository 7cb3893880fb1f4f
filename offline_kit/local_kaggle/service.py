"""One local Kaggle: its nouns on one store, and the table of its remote calls."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.accounts import Accounts
from offline_kit.local_kaggle.blobs import Blobs
from offline_kit.local_kaggle.catalog import Catalog
from offline_kit.local_kaggle.dataset_service import Datasets
from offline_kit.local_kaggle.faults import Fault, Faults
from offline_kit.local_kaggle.kernel_runs import KernelRuns
from offline_kit.local_kaggle.links import Links
from offline_kit.local_kaggle.model_service import Models
from offline_kit.local_kaggle.notebook_service import Kernels
from offline_kit.local_kaggle.running import Finder, Runner
from offline_kit.local_kaggle.settings import Settings
from offline_kit.local_kaggle.store import Store
from offline_kit.local_kaggle.submission_service import Submissions
from offline_kit.local_kaggle.versions import Versions
from offline_kit.local_kaggle.wire import Answer, Call, Refusal, Rpc
from offline_kit.project import kaggle_sources

_OPEN = frozenset({"security.OAuthService/IntrospectToken", "users.AccountService/GenerateAccessToken"})
"""Calls that look at credentials themselves."""
_KINDS = {"dataset": "dataset", "notebook": "kernel", "model": "model"}
"""What the words of a configuration's sources are called here."""


class LocalKaggle:
    """The service behind the server; a folder of state that outlives it."""

    def __init__(self, folder: Path, settings: Settings, runner: Runner) -> None:
        self.settings = settings
        self.store = Store(folder)
        self.accounts = Accounts(self.store)
        self.links = Links(settings.link)
        self.blobs = Blobs(self.store, settings)
        self.faults = Faults(folder / "faults.json")
        self.datasets = Datasets(self.store, Versions(self.store, settings), self.blobs, self.links)
        self.catalog = Catalog(self.store, settings, self.links)
        self.copies: dict[tuple[str, str], tuple[str, Path]] = {}
        finders: dict[str, Finder] = {"competition": self.catalog.mounted}
        finders["dataset"] = self._or_copy("dataset", self.datasets.mounted)
        rules = partial(self.store.read, "competitions")
        runs = KernelRuns(self.store, settings, runner, finders, self.faults, rules)
        self.kernels = Kernels(self.store, runs, self.links, self.datasets.taken)
        finders["kernel"] = self._or_copy("kernel", self.kernels.mounted)
        verbatim = Versions(self.store, settings, verbatim=True)
        self.models = Models(self.store, verbatim, self.blobs, self.links)
        finders["model"] = self._or_copy("model", self.models.mounted)
        self.submissions = Submissions(self.store, self.catalog, self.kernels, self.blobs, self.faults)
        self._rpcs: dict[str, Rpc] = {
            **self.accounts.rpcs(),
            **self.blobs.rpcs(),
            **self.datasets.rpcs(),
            **self.kernels.rpcs(),
            **self.models.rpcs(),
            **self.catalog.rpcs(),
            **self.submissions.rpcs(),
        }

    def offer(self, copies: Mapping[str, Path]) -> None:
        """Let folders stand for sources that nobody pushed here, by "dataset:owner/slug", "notebook:..." or "model:...".

        Notebooks of all accounts can attach them, as long as this server runs. Raises UsageError for another name.
        """
        for name, folder in copies.items():
            source = kaggle_sources.parse(name)
            self.copies[_KINDS[source.kind], source.ref.lower()] = (source.place("new"), folder)

    def _or_copy(self, kind: str, finder: Finder) -> Finder:
        """Return a finder that looks among the copies for what the one given does not have."""

        def find(ref: str, user: str) -> tuple[str, Path] | None:
            words = ref.lower().split("/")
            name = "/".join(words if kind == "model" else words[:2])  # others may have a version behind them
            place, folder = self.copies.get((kind, name), ("", None))
            copy = (place, folder) if folder and folder.is_dir() else None
            return finder(ref, user) or copy

        return find

    def resume(self) -> None:
        """Go on with what was under way when the server of this folder ended."""
        self.blobs.sweep()
        self.datasets.resume()
        self.models.resume()
        self.kernels.resume()
        self.submissions.resume()

    def call(self, name: str, headers: Mapping[str, str], raw: bytes, base: str, fault: Fault) -> Answer:
        """Answer one remote call; raises Refusal."""
        rpc = self._rpcs.get(name)
        if rpc is None:
            raise Refusal(501, f"The local Kaggle has no {name}")
        user = "" if name in _OPEN else self.accounts.user_of(headers)
        call = Call(user=user, body=_parsed(raw), base=base, stuck=fault.stuck)
        answer = rpc(call)
        if fault.twice:
            answer = rpc(call)
        return answer if isinstance(answer, Answer) else wire.json_answer(wire.placed(answer, base))

    def follow_log(self, asked: Mapping[str, str], headers: Mapping[str, str], base: str) -> Answer:
        """Answer who follows the log of a run; raises Refusal."""
        return self.kernels.follow_log(Call(user=self.accounts.user_of(headers), body=asked, base=base))


def _parsed(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw or b"{}")
    except ValueError:
        raise Refusal(400, "Invalid JSON payload received") from None
    if not isinstance(body, dict):
        raise Refusal(400, "Invalid JSON payload received")
    return body
