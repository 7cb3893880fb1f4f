"""All calls of Kaggle's API, on top of its official client: datasets, models, notebooks and competitions."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.core.report import Advance
from offline_kit.core.retry import ignore_progress
from offline_kit.kaggle.client.api_types import (
    Competition,
    NewNotebook,
    NewVersion,
    NoResponseError,
    NotebookSources,
    RefusedError,
    RemoteDataset,
    RemoteModel,
    RemoteNotebook,
    RunLog,
    RunStatus,
    SavedNotebook,
    Submission,
    SubmissionLimits,
)
from offline_kit.kaggle.client.calls import NOT_VISIBLE, Answer, ApiService, parse_state, parse_time

_DATASETS = "datasets.DatasetApiService/"
_MODELS = "models.ModelApiService/"
_ENDED = ("ready", "failed", "deleted")

_NOTEBOOKS = "kernels.KernelsApiService/"
# Of each field of NotebookSources: Kaggle's word, prefixes that a source may have in its answers, its least path segments.
_SOURCE_KINDS = {
    "datasets": ("Dataset", ("dataset", "datasets"), 2),
    "competitions": ("Competition", ("competition", "competitions", "c"), 1),
    "notebooks": ("Kernel", ("code", "kernel", "kernels", "notebooks"), 2),
    "models": ("Model", ("model", "models"), 5),
}

_COLORS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_COMPETITIONS = "competitions.CompetitionApiService/"
# Parts of Kaggle's message if the rules are not accepted.
_RULES_MESSAGES = ("competition's rules", "competitions.participate")


class KaggleClient(ApiService):
    """All calls of Kaggle's API, on top of its official client."""

    def get_dataset(self, ref: str) -> RemoteDataset | None:
        """Return a dataset, or None if it does not exist or is not visible to us."""
        answer = self._read_or_none(_DATASETS + "GetDataset", _dataset_fields(ref))
        if answer is None and (processing := self.get_dataset_status(ref)):
            # While the first version is processed, Kaggle may answer for a dataset's status only.
            if processing not in _ENDED:
                return RemoteDataset(ref=ref, version=0, private=True)
            answer = self._read_or_none(_DATASETS + "GetDataset", _dataset_fields(ref))
        if answer is None:
            return None
        versions = answer.objects("versions")
        return RemoteDataset(
            ref=ref,
            version=answer.number("currentVersionNumber"),
            private=answer.flag("isPrivate"),
            url=answer.text("url"),
            version_notes={v.number("versionNumber"): v.text("versionNotes") for v in versions},
        )

    def get_dataset_status(self, ref: str) -> str:
        """Return the processing state in lower case without underscores, "" if there is no dataset."""
        answer = self._read_or_none(_DATASETS + "GetDatasetStatus", _dataset_fields(ref))
        return "" if answer is None else parse_state(answer.text("status"), "notyetpersisted")

    def list_dataset_files(
        self, ref: str, version: int | None = None, *, by_folder: bool = False
    ) -> dict[str, int]:
        """Return the sizes of a version's files by name (None: the current one); `by_folder` sends a request per folder."""
        body = _dataset_fields(ref, version)
        if by_folder:
            return dict(self._walk_folder("", body))
        raw_files = self._list_items(_DATASETS + "ListDatasetFiles", body, "datasetFiles")
        return {raw.text("name"): raw.number("totalBytes") for raw in raw_files}

    def _walk_folder(self, folder: str, body: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
        for page in self._list_pages(_DATASETS + "ListTreeDatasetFiles", {**body, "path": folder}):
            for raw in page.objects("files"):
                yield _join_path(raw, folder), raw.number("totalBytes")
            for raw in page.objects("directories"):
                yield from self._walk_folder(_join_path(raw, folder), body)

    def start_blob(self, name: str, size: int, modified: int, kind: str = "DATASET") -> tuple[str, str]:
        """Open an upload slot (Kaggle's word: blob) for a file of a "DATASET" or a "MODEL", and return its token and address.

        The address is a secret: anyone who knows it can write there.
        """
        body: dict[str, Any] = {"type": kind, "name": name, "lastModifiedEpochSeconds": modified}
        if size:
            body["contentLength"] = size
        answer = self._read("blobs.BlobApiService/StartBlobUpload", body)
        token, url = answer.text("token"), answer.text("createUrl")
        if not token or not url.startswith("http"):
            raise NoResponseError(
                f"Kaggle returned no upload address for '{name}'", hint="run the same command again"
            )
        return token, url

    def create_dataset(self, new: NewVersion) -> str:
        """Create a private dataset and return its URL. Not idempotent: never retried once it may have had an effect."""
        owner, slug = new.ref.split("/")
        body = {
            "ownerSlug": owner,
            "slug": slug,
            "title": new.title,
            "licenseName": "unknown",
            "isPrivate": True,
            "description": new.version_notes,
            **_build_file_tree(new.blob_tokens),
        }
        return self._send(_DATASETS + "CreateDataset", body).text("url")

    def add_dataset_version(self, new: NewVersion) -> str:
        """Add a version to a dataset and return its URL. Not idempotent: never retried once it may have had an effect."""
        body = {
            **_dataset_fields(new.ref),
            "body": {"versionNotes": new.version_notes, **_build_file_tree(new.blob_tokens)},
        }
        return self._send(_DATASETS + "CreateDatasetVersion", body).text("url")

    def download_dataset_file(
        self,
        ref: str,
        version: int | None,
        name: str,
        target_path: Path,
        advance: Advance = ignore_progress,
    ) -> int:
        """Download one file to `target_path`, which must not exist, and return its size in bytes."""
        body = {**_dataset_fields(ref, version), "fileName": name}
        return self._download(_DATASETS + "DownloadDataset", body, target_path, advance)

    def get_model(self, ref: str) -> RemoteModel | None:
        """Return the model "owner/slug", or None if it does not exist or is not visible to us."""
        owner, _, slug = ref.partition("/")
        answer = self._read_or_none(_MODELS + "GetModel", {"ownerSlug": owner, "modelSlug": slug})
        if answer is None:
            return None
        return RemoteModel(ref=ref, private=answer.flag("isPrivate"), url=answer.text("url"))

    def get_model_version(self, ref: str) -> int:
        """Return the newest version of "owner/model/framework/variation", 0 if there is none."""
        answer = self._read_or_none(_MODELS + "GetModelInstance", _variation_fields(ref))
        return answer.number("versionNumber") if answer else 0

    def list_model_files(self, ref: str, version: int) -> dict[str, int]:
        """Return the sizes of the files of a variation's version by name; empty while the version is not visible."""
        body = {**_variation_fields(ref), "versionNumber": version}
        try:
            raw_files = list(self._list_items(_MODELS + "ListModelInstanceVersionFiles", body, "files"))
        except RefusedError as refusal:
            if refusal.status not in NOT_VISIBLE:
                raise
            return {}
        return {raw.text("name"): raw.number("size") for raw in raw_files}

    def download_model_file(
        self, ref: str, version: int, name: str, target_path: Path, advance: Advance = ignore_progress
    ) -> int:
        """Download one file of a version to `target_path`, which must not exist; return its size in bytes."""
        body = {**_variation_fields(ref), "versionNumber": version, "path": name}
        return self._download(_MODELS + "DownloadModelInstanceVersion", body, target_path, advance)

    def create_model(self, ref: str, title: str, notes: str) -> str:
        """Create a private model "owner/slug" without variations and return its URL. Not idempotent."""
        owner, _, slug = ref.partition("/")
        body = {"ownerSlug": owner, "slug": slug, "title": title, "isPrivate": True, "description": notes}
        return self._send(_MODELS + "CreateModel", body).text("url")

    def create_variation(self, new: NewVersion) -> str:
        """Create a variation with its first version and return its URL."""
        # No licence is set: Kaggle accepts only names from its own list, and a private model needs none.
        variation = _variation_fields(new.ref)
        body = {
            "framework": variation.pop("framework"),
            "instanceSlug": variation.pop("instanceSlug"),
            "overview": new.version_notes,
            "fineTunable": False,
            **_build_file_tree(new.blob_tokens),
        }
        answer = self._send(_MODELS + "CreateModelInstance", {**variation, "body": body})
        return answer.text("url")

    def add_model_version(self, new: NewVersion) -> str:
        """Add a version to a variation and return its URL. Not idempotent."""
        body = {
            **_variation_fields(new.ref),
            "body": {"versionNotes": new.version_notes, **_build_file_tree(new.blob_tokens)},
        }
        return self._send(_MODELS + "CreateModelInstanceVersion", body).text("url")

    def get_notebook(self, ref: str, version: int | None = None) -> RemoteNotebook | None:
        """Return a notebook version (None: the newest), or None if it does not exist or is not visible to us."""
        answer = self._read_or_none(_NOTEBOOKS + "GetKernel", _notebook_fields(ref, version))
        return None if answer is None else _parse_notebook(ref, answer, self._session.site_url)

    def save_notebook(self, new: NewNotebook) -> SavedNotebook:
        """Push a version, which starts its run. Not idempotent: never retried once it may have had an effect."""
        answer = self._send(_NOTEBOOKS + "SaveKernel", build_save_request(new))
        ref = _parse_ref(answer) or new.ref
        version = answer.number("versionNumber")
        if not version:
            raise NoResponseError(
                f"Kaggle did not return the version of '{ref}' that it created",
                hint="run the same command again: it first checks whether there is a new version",
            )
        return SavedNotebook(
            ref=ref,
            version=version,
            url=_page_url(ref, answer.text("url"), self._session.site_url),
            rejected_sources=tuple(
                (field.removesuffix("s"), source)
                for field, (word, _, _) in _SOURCE_KINDS.items()
                for source in answer.texts(f"invalid{word}Sources")
            ),
        )

    def get_notebook_run(self, ref: str, version: int) -> RunStatus | None:
        """Return the run state of exactly this version; None if it has no run (yet)."""
        answer = self._read_or_none(_NOTEBOOKS + "GetKernelSessionStatus", _notebook_fields(ref, version))
        if answer is None:
            return None
        state = parse_state(answer.text("status"), "queued")
        return RunStatus(state=state, failure_message=answer.text("failureMessage"))

    def get_run_log(self, ref: str, version: int) -> RunLog:
        """Return the log of a version's run so far; empty if there is no run."""
        answer = self._read_or_none(_NOTEBOOKS + "ListKernelSessionOutput", _notebook_fields(ref, version))
        return _parse_log(answer.text("log")) if answer else RunLog()

    def list_run_outputs(self, ref: str, version: int) -> tuple[str, ...]:
        """Return the paths of the output files of a version's run, sorted."""
        # ListKernelFiles is not used: it returns bare names, wrong sizes and sometimes nothing.
        method = _NOTEBOOKS + "ListKernelSessionOutput"
        raw_files = self._list_items(method, _notebook_fields(ref, version), "files")
        return tuple(sorted({raw.text("fileName") for raw in raw_files} - {""}))

    def download_run_output(
        self, ref: str, version: int, name: str, target_path: Path, advance: Advance = ignore_progress
    ) -> int:
        """Download one output file of a version to `target_path`, which must not exist; return its size in bytes."""
        owner, _, slug = ref.partition("/")
        body = {"ownerSlug": owner, "kernelSlug": slug, "filePath": name, "versionNumber": version}
        return self._download(_NOTEBOOKS + "DownloadKernelOutput", body, target_path, advance)

    def get_competition(self, slug: str) -> Competition | None:
        """Return a competition, or None if it does not exist or is not visible to us.

        Raises RefusedError with the page of the rules if only participants can see it.
        """
        page = f"{self._session.site_url}/competitions/{slug}"
        try:
            answer = self._read(_COMPETITIONS + "GetCompetition", {"competitionName": slug})
        except RefusedError as refusal:
            if refusal.status not in NOT_VISIBLE:
                raise
            if any(words in refusal.what.lower() for words in _RULES_MESSAGES):
                raise RefusedError(
                    f"this account has not accepted the rules of '{slug}'",
                    code="competition-rules-not-accepted",
                    hint=f"accept them at {page}/rules (only a person can), then run the same command again",
                    status=refusal.status,
                ) from refusal
            return None
        return Competition(
            slug=slug,
            title=answer.text("title"),
            deadline=parse_time(answer.text("deadline")),
            has_entered=answer.flag("userHasEntered"),
            is_closed=answer.flag("submissionsDisabled"),
            daily_limit=answer.number("maxDailySubmissions"),
            url=answer.text("url") or page,
            is_code_only=answer.flag("isKernelsSubmissionsOnly"),
        )

    def get_submission_limits(self, slug: str) -> SubmissionLimits:
        """Return how many submissions are left."""
        answer = self._read(_COMPETITIONS + "GetSubmissionLimits", {"competitionName": slug})
        return SubmissionLimits(
            made_today=answer.number("numToday"),
            remaining=answer.number("numAllowedNow"),
        )

    def submit_notebook(
        self, *, competition: str, notebook: str, version: int, file: str, message: str
    ) -> Submission:
        """Queue a code submission; if Kaggle returns no number, it is 0 and `error` holds its message. Not idempotent."""
        owner, _, slug = notebook.partition("/")
        body = {
            "competitionName": competition,
            "kernelOwner": owner,
            "kernelSlug": slug,
            "kernelVersion": version,
            "fileName": file,
            "submissionDescription": message,
        }
        answer = self._send(_COMPETITIONS + "CreateCodeSubmission", body)
        ref = answer.number("ref")
        words = "" if ref else answer.text("message").strip()
        return Submission(ref=ref, submitted_at=None, state="pending", message=message, error=words)

    def get_submission(self, ref: int) -> Submission | None:
        """Return one submission; None while it is not visible."""
        answer = self._read_or_none(_COMPETITIONS + "GetSubmission", {"ref": ref}, absent=frozenset({404}))
        return None if answer is None else _parse_submission(Answer({"ref": ref, **answer.fields}))

    def list_submissions(self, slug: str) -> tuple[Submission, ...]:
        """Return our submissions to a competition, newest first."""
        method, body = _COMPETITIONS + "ListSubmissions", {"competitionName": slug}
        raw_items = self._list_items(method, body, "submissions")
        # By number: a submission that is made meanwhile moves others to the next page.
        submissions = {submission.ref: submission for submission in map(_parse_submission, raw_items)}
        never = datetime.min.replace(tzinfo=UTC)
        return tuple(
            sorted(
                submissions.values(), key=lambda item: (item.submitted_at or never, item.ref), reverse=True
            )
        )


def _join_path(raw: Answer, folder: str) -> str:
    name = raw.text("name")
    return f"{folder}/{PurePosixPath(name).name}" if folder else name


def _dataset_fields(ref: str, version: int | None = None) -> dict[str, Any]:
    owner, _, slug = ref.partition("/")
    number = {"datasetVersionNumber": version} if version else {}
    return {"ownerSlug": owner, "datasetSlug": slug, **number}


def _build_file_tree(tokens: Mapping[str, str]) -> dict[str, Any]:
    """Return files and folders as Kaggle's API takes them: `files` and nested `directories`."""
    top: dict[str, Any] = {"files": [], "directories": []}
    folders = {"": top}

    def get_folder(path: PurePosixPath) -> dict[str, Any]:
        key = "" if str(path) == "." else str(path)
        if key not in folders:
            folders[key] = {"name": path.name, "files": [], "directories": []}
            get_folder(path.parent)["directories"].append(folders[key])
        return folders[key]

    for name, token in sorted(tokens.items()):
        get_folder(PurePosixPath(name).parent)["files"].append({"token": token})
    return top


def _variation_fields(ref: str) -> dict[str, Any]:
    owner, model, framework, variation = ref.split("/")[:4]
    return {
        "ownerSlug": owner,
        "modelSlug": model,
        "framework": framework_name(framework),
        "instanceSlug": variation,
    }


def framework_name(framework: str) -> str:
    """Return a framework's name in requests: "pyTorch" becomes MODEL_FRAMEWORK_PY_TORCH."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=\d)", "_", framework)
    return f"MODEL_FRAMEWORK_{words.upper()}"


def _notebook_fields(ref: str, version: int | None = None) -> dict[str, Any]:
    owner, _, slug = ref.partition("/")
    return {"userName": owner, "kernelSlug": slug, **({"versionLabel": f"v{version}"} if version else {})}


def build_save_request(new: NewNotebook) -> dict[str, Any]:
    """Return the request of a push; unset values are left out, flags never, because Kaggle's defaults differ."""
    optional = {
        **{
            f"{word.lower()}DataSources": list(getattr(new.sources, field))
            for field, (word, _, _) in _SOURCE_KINDS.items()
        },
        "dockerImage": new.image,
        "dockerImagePinningType": new.image_pinning,
        "machineShape": new.machine_shape,
    }
    return {
        "slug": new.ref,
        "newTitle": new.title,
        "text": new.text if new.kernel_type == "script" else normalise_notebook(new.text),
        "language": "python",
        "kernelType": new.kernel_type,
        "isPrivate": new.private,
        "enableGpu": new.gpu,
        "enableTpu": False,
        "enableInternet": new.internet,
        **{name: value for name, value in optional.items() if value},
    }


def normalise_notebook(text: str) -> str:
    """Return a notebook without outputs and with every source as one string, as Kaggle stores it.

    Raises ProjectError if the text is not a notebook.
    """
    try:
        document = json.loads(text)
        before = json.dumps(document)
        for cell in document["cells"]:
            if cell.get("cell_type") == "code" and "outputs" in cell:
                cell["outputs"] = []
            if isinstance(cell.get("source"), list):
                cell["source"] = "".join(cell["source"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProjectError(
            "the file to push is not a notebook", code="notebook-invalid", hint="build the kit again"
        ) from error
    after = json.dumps(document)
    return text if after == before else after


def _parse_notebook(ref: str, answer: Answer, site: str) -> RemoteNotebook:
    metadata = answer.object("metadata")
    ref = _parse_ref(metadata) or ref

    def list_sources(word: str, prefixes: tuple[str, ...], least: int) -> tuple[str, ...]:
        # Kaggle may add a prefix such as "datasets/" to a name, or its address.
        sources = []
        for source in metadata.texts(f"{word.lower()}DataSources"):
            steps = [step for step in source.removeprefix("https://www.kaggle.com").split("/") if step]
            has_prefix = len(steps) > least and steps[0].lower() in prefixes
            sources.append("/".join(steps[1:] if has_prefix else steps))
        return tuple(sources)

    return RemoteNotebook(
        ref=ref,
        newest_version=metadata.number("currentVersionNumber"),
        private=metadata.flag("isPrivate"),
        internet=metadata.flag("enableInternet"),
        sources=NotebookSources(**{field: list_sources(*kind) for field, kind in _SOURCE_KINDS.items()}),
        text=answer.object("blob").text("source"),
        kernel_type=answer.object("blob").text("kernelType").lower(),
        title=metadata.text("title"),
        gpu=metadata.flag("enableGpu"),
        machine_shape=metadata.text("machineShape"),
        image=metadata.text("dockerImage"),
        url=_page_url(ref, metadata.text("url"), site),
    )


def _parse_ref(answer: Answer) -> str:
    """Return "owner/slug" of "owner/slug", "/code/owner/slug" or a URL; "" if there is none."""
    for field in ("ref", "url"):
        steps = [step for step in answer.text(field).split("?")[0].split("/") if step]
        if "code" in steps[:-2]:
            steps = steps[steps.index("code") + 1 :][:2]
        if len(steps) == 2:
            return "/".join(steps)
    return ""


def _page_url(ref: str, url: str, site: str) -> str:
    return url if url.startswith("http") else f"{site}/code/{ref}"


def _parse_log(raw_log: str) -> RunLog:
    """Parse a log: a JSON array as text, which may be truncated; anything else is taken as it is."""
    texts, seconds = list[str](), 0.0
    at = raw_log.find("{") if raw_log.lstrip().startswith("[") else -1
    while at >= 0:
        try:
            event, end = json.JSONDecoder().raw_decode(raw_log, at)
            seconds = max(seconds, float(event.get("time") or 0))
            texts.append(str(event["data"]))
        except (ValueError, TypeError, KeyError):
            break
        at = raw_log.find("{", end)
    text = "".join(texts) if texts or raw_log.strip() == "[]" else raw_log
    return RunLog(text=_COLORS.sub("", text), seconds=seconds)


def _parse_submission(raw: Answer) -> Submission:
    return Submission(
        ref=raw.number("ref"),
        submitted_at=parse_time(raw.text("date")),
        state=parse_state(raw.text("status"), "pending"),
        message=raw.text("description"),
        file=raw.text("fileName"),
        error=raw.text("errorDescription"),
        public_score=raw.text("publicScore"),
        private_score=raw.text("privateScore"),
        url=raw.text("url"),
    )
