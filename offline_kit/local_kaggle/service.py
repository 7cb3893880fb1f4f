"""One local Kaggle: who may call, its services on one store, and the table of their remote calls."""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.core.errors import UsageError
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.blobs import UploadService
from offline_kit.local_kaggle.catalog import CompetitionCatalog
from offline_kit.local_kaggle.dataset_service import DatasetService
from offline_kit.local_kaggle.faults import Fault, FaultTable
from offline_kit.local_kaggle.kernel_runs import NotebookRunner, NotebookRuns
from offline_kit.local_kaggle.model_service import ModelService
from offline_kit.local_kaggle.notebook_service import NotebookService
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.local_kaggle.store import RecordStore, Service
from offline_kit.local_kaggle.submission_service import SubmissionService
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal, rpc
from offline_kit.project import kaggle_names

_OPEN = "security.OAuthService/IntrospectToken"  # a call that looks at credentials itself
# What the words of a configuration's sources are called here.
_KINDS = {"dataset": "dataset", "notebook": "kernel", "model": "model"}


class AccountService(Service):
    """The accounts of one local Kaggle."""

    def add_account(self, name: str, *, key: str = "", token: str = "") -> None:
        """Make an account, or give one that exists this key and this token."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,49}", name):
            raise UsageError(
                f"'{name}' is no account name",
                code="account-name-invalid",
                hint="a-z, 0-9 and -, two characters or more",
            )
        hashes = {"key": _hash_secret(key), "token": _hash_secret(token)}
        self.store.write_record({"name": name, **hashes}, "accounts", name)

    def user_of(self, authorization: str) -> str:
        """Return who calls, "" if no credentials came; refuses wrong ones with 401."""
        kind, _, secret = authorization.partition(" ")
        if not secret:
            return ""
        user = self._find_by_token(secret) if kind.lower() == "bearer" else self._find_by_key(secret)
        if not user:
            raise ServiceRefusal(401, "Unauthenticated")
        return user

    @rpc("api.v1.DiagnosticsService/Hello")
    def _greet(self, call: RpcCall) -> Mapping[str, Any]:
        return {"userName": call.user}

    @rpc("security.OAuthService/IntrospectToken")
    def _introspect_token(self, call: RpcCall) -> Mapping[str, Any]:
        user = self._find_by_token(call.text("token"))
        if not user:
            return {"active": False}  # an unknown token is no error
        facts = {"username": user, "userId": 7, "scope": "resources.admin:*", "exp": 9999999999}
        return {"active": True, **facts}

    def _find_by_token(self, token: str) -> str:
        token_hash = _hash_secret(token)
        for record in self.store.iter_records("accounts"):
            if token and hmac.compare_digest(record["token"], token_hash):  # in constant time
                return str(record["name"])
        return ""

    def _find_by_key(self, secret: str) -> str:
        try:
            name, _, key = base64.b64decode(secret, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ""
        if not key or not re.fullmatch(r"[A-Za-z0-9-]+", name):
            return ""
        record = self.store.read("accounts", name)
        return str(record["name"]) if record and hmac.compare_digest(record["key"], _hash_secret(key)) else ""


def _hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest() if secret else ""


class LocalKaggle:
    """The service behind the server; a folder of state that outlives it."""

    def __init__(self, folder: Path, settings: LocalKaggleSettings, runner: NotebookRunner) -> None:
        self.store = RecordStore(folder, settings)
        self.accounts = AccountService(self.store)
        self.blobs = UploadService(self.store)
        self.faults = FaultTable(folder / "faults.json")
        self.datasets = DatasetService(self.store)
        self.models = ModelService(self.store)
        self.catalog = CompetitionCatalog(self.store)
        self._copies: dict[tuple[str, str], tuple[str, Path]] = {}
        runs = NotebookRuns(self.store, runner=runner, find_source=self.find_source, faults=self.faults)
        self.kernels = NotebookService(runs)
        self.submissions = SubmissionService(self.catalog, kernels=self.kernels, blobs=self.blobs)
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
            source = kaggle_names.parse_source(name)
            self._copies[_KINDS[source.kind], source.ref.lower()] = (source.mount_path("new"), folder)

    def find_source(self, kind: str, ref: str, user: str) -> tuple[str, Path] | None:
        """Return place and folder of a data source that a user may attach: one pushed here, else a copy; else None."""
        finders = {
            "competition": self.catalog.mounted_data,
            "dataset": self.datasets.mounted_version,
            "kernel": self.kernels.mounted_output,
            "model": self.models.mounted_version,
        }
        words = ref.lower().split("/")
        name = "/".join(words if kind == "model" else words[:2])  # others may have a version behind them
        copy = self._copies.get((kind, name))
        return finders[kind](ref, user) or (copy if copy and copy[1].is_dir() else None)

    def resume_work(self) -> None:
        """Go on with what was under way when the server of this folder ended."""
        self.blobs.remove_expired()
        self.datasets.resume_processing()
        self.models.resume_processing()
        self.kernels.resume_runs()
        self.submissions.resume_scoring()

    def answer_call(self, name: str, authorization: str, raw: bytes, base: str, fault: Fault) -> HttpAnswer:
        """Answer one remote call; raises ServiceRefusal."""
        procedure = self._rpcs.get(name)
        if procedure is None:
            raise ServiceRefusal(501, f"The local Kaggle has no {name}")
        user = "" if name == _OPEN else self.accounts.user_of(authorization)
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ServiceRefusal(400, "Invalid JSON payload received")
        call = RpcCall(user=user, body=body, base=base, stuck=fault.stuck)
        answer = procedure(call)
        return answer if isinstance(answer, HttpAnswer) else wire.json_answer(answer)
