"""Calls about notebooks (Kaggle's API: kernels), their runs, logs and outputs."""

import json
from pathlib import Path
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.core.report import Advance
from offline_kit.core.retry import ignore_progress
from offline_kit.kaggle.client.api_types import (
    LogLine,
    NewNotebook,
    NoResponseError,
    NotebookSources,
    RemoteNotebook,
    RunStatus,
    SavedNotebook,
)
from offline_kit.kaggle.client.calls import Answer, ApiService, parse_state

_SERVICE = "kernels.KernelsApiService/"
_STATES = ("queued", "running", "complete", "error", "cancelrequested", "cancelacknowledged", "newscript")
_REJECTED = {
    "invalidDatasetSources": "dataset",
    "invalidCompetitionSources": "competition",
    "invalidKernelSources": "notebook",
    "invalidModelSources": "model",
}

# Possible prefixes of a source in Kaggle's answer, and its least number of path segments.
_PREFIXES = {
    "dataset": (("dataset", "datasets"), 2),
    "competition": (("competition", "competitions", "c"), 1),
    "kernel": (("code", "kernel", "kernels", "notebooks"), 2),
    "model": (("model", "models"), 5),
}


class NotebookCalls(ApiService):
    """Calls about notebooks."""

    def get_notebook(self, ref: str, version: int | None = None) -> RemoteNotebook | None:
        """Return a notebook version (None: the newest), or None if it does not exist or is not visible to us."""
        answer = self._read_or_none(_SERVICE + "GetKernel", _notebook_fields(ref, version))
        return None if answer is None else _parse_notebook(ref, answer, self._session.site_url)

    def save_notebook(self, new: NewNotebook) -> SavedNotebook:
        """Push a version, which starts its run. Not idempotent: never retried once it may have had an effect."""
        answer = self._send(_SERVICE + "SaveKernel", build_save_request(new))
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
                f"{kind} '{source}'" for field, kind in _REJECTED.items() for source in answer.texts(field)
            ),
        )

    def get_notebook_run(self, ref: str, version: int) -> RunStatus | None:
        """Return the run state of exactly this version; None if it has no run (yet)."""
        answer = self._read_or_none(_SERVICE + "GetKernelSessionStatus", _notebook_fields(ref, version))
        if answer is None:
            return None
        state = parse_state(answer.text("status"), _STATES)
        return RunStatus(state=state, failure_message=answer.text("failureMessage"))

    def get_run_log(self, ref: str, version: int) -> tuple[LogLine, ...]:
        """Return the log of a version's run so far; empty if there is no run."""
        answer = self._read_or_none(_SERVICE + "ListKernelSessionOutput", _notebook_fields(ref, version))
        return _parse_log(answer.text("log")) if answer else ()

    def list_run_outputs(self, ref: str, version: int) -> tuple[str, ...]:
        """Return the paths of the output files of a version's run, sorted."""
        # ListKernelFiles is not used: it returns bare names, wrong sizes and sometimes nothing.
        method = _SERVICE + "ListKernelSessionOutput"
        raw_files = self._list_items(method, _notebook_fields(ref, version), "files")
        return tuple(sorted({raw.text("fileName") for raw in raw_files} - {""}))

    def download_run_output(
        self, ref: str, version: int, name: str, target_path: Path, advance: Advance = ignore_progress
    ) -> int:
        """Download one output file of a version to `target_path`, which must not exist; return its size in bytes."""
        owner, _, slug = ref.partition("/")
        body = {"ownerSlug": owner, "kernelSlug": slug, "filePath": name, "versionNumber": version}
        return self._download(_SERVICE + "DownloadKernelOutput", body, target_path, advance)


def _notebook_fields(ref: str, version: int | None = None) -> dict[str, Any]:
    owner, _, slug = ref.partition("/")
    return {"userName": owner, "kernelSlug": slug, **({"versionLabel": f"v{version}"} if version else {})}


def build_save_request(new: NewNotebook) -> dict[str, Any]:
    """Return the request of a push; unset values are left out, flags never, because Kaggle's defaults differ."""
    optional = {
        "datasetDataSources": list(new.sources.datasets),
        "competitionDataSources": list(new.sources.competitions),
        "kernelDataSources": list(new.sources.notebooks),
        "modelDataSources": list(new.sources.models),
        "dockerImage": new.image,
        "dockerImagePinningType": new.image_pinning,
        "machineShape": new.machine_shape,
        "sessionTimeoutSeconds": new.session_seconds,
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

    def list_sources(kind: str) -> tuple[str, ...]:
        # Kaggle may add a prefix such as "datasets/" to a name, or its address.
        prefixes, least = _PREFIXES[kind]
        sources = []
        for source in metadata.texts(f"{kind}DataSources"):
            steps = [step for step in source.removeprefix("https://www.kaggle.com").split("/") if step]
            has_prefix = len(steps) > least and steps[0].lower() in prefixes
            sources.append("/".join(steps[1:] if has_prefix else steps))
        return tuple(sources)

    return RemoteNotebook(
        ref=ref,
        newest_version=metadata.number("currentVersionNumber"),
        private=metadata.flag("isPrivate"),
        internet=metadata.flag("enableInternet"),
        sources=NotebookSources(
            datasets=list_sources("dataset"),
            competitions=list_sources("competition"),
            notebooks=list_sources("kernel"),
            models=list_sources("model"),
        ),
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


def _parse_log(text: str) -> tuple[LogLine, ...]:
    """Parse a log: a JSON array as text, which may be truncated; anything else becomes one line."""
    log_lines: list[LogLine] = []
    at = text.find("{") if text.lstrip().startswith("[") else -1
    while at >= 0:
        try:
            event, end = json.JSONDecoder().raw_decode(text, at)
            stream, seconds = str(event.get("stream_name") or "stdout"), float(event.get("time") or 0)
            log_lines.append(LogLine(seconds=seconds, stream=stream, text=str(event["data"])))
        except (ValueError, TypeError, KeyError):
            break
        at = text.find("{", end)
    if log_lines or text.strip() in ("", "[]"):
        return tuple(log_lines)
    return (LogLine(seconds=0.0, stream="stdout", text=text),)
