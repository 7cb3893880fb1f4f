"""Notebooks on Kaggle: a version pushed, its run followed, its log and output fetched."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.kaggle.client.api_types import (
    LogLine,
    NewNotebook,
    RefusedError,
    RemoteNotebook,
    Run,
    Saved,
    Sources,
    UnansweredError,
)
from offline_kit.kaggle.client.calls import ABSENT, Asking, flag, number, part, parts, state, text, texts

_SERVICE = "kernels.KernelsApiService/"
_STATUS = _SERVICE + "GetKernelSessionStatus"
_STATES = (
    "queued",
    "running",
    "complete",
    "error",
    "cancelrequested",
    "cancelacknowledged",
    "newscript",
)
_REJECTED = {
    "invalidDatasetSources": "dataset",
    "invalidCompetitionSources": "competition",
    "invalidKernelSources": "notebook",
    "invalidModelSources": "model",
}

_KINDS = {
    "datasetDataSources": (("dataset", "datasets"), 2),
    "competitionDataSources": (("competition", "competitions", "c"), 1),
    "kernelDataSources": (("code", "kernel", "kernels", "notebooks"), 2),
    "modelDataSources": (("model", "models"), 5),
}
"""Fields of a notebook's sources: what Kaggle may put in front of one, and of how many words one is at least."""


class Notebooks(Asking):
    """The part of `nouns.Kaggle` about notebooks."""

    def notebook(self, ref: str, version: int | None = None) -> RemoteNotebook | None:
        """Return a version of a notebook (None: the newest), or None where there is none that we may see."""
        if version is None:
            answer = self._calls.read_or_none(_SERVICE + "GetKernel", _named(ref))
        else:
            try:
                answer = self._of_version(_SERVICE + "GetKernel", ref, version)
            except RefusedError as no:
                if no.status not in ABSENT:
                    raise
                answer = None
        return None if answer is None else _notebook(ref, answer, self._calls.session.site)

    def save_notebook(self, new: NewNotebook) -> Saved:
        """Push a version, which begins to run."""
        answer = self._calls.effect(_SERVICE + "SaveKernel", as_request(new))
        ref = _ref(answer) or new.ref
        version = number(answer, "versionNumber")
        if not version:
            raise UnansweredError(
                f"Kaggle does not tell which version of '{ref}' it made",
                hint="run the same command again: it looks first whether there is a new version",
            )
        return Saved(
            ref=ref,
            version=version,
            url=_page(ref, text(answer, "url"), self._calls.session.site),
            rejected=tuple(
                f"{kind} '{source}'" for field, kind in _REJECTED.items() for source in texts(answer, field)
            ),
        )

    def run(self, ref: str, version: int) -> Run | None:
        """Return how far the run of exactly this version is; None where there is none, or none yet."""
        answer: dict[str, Any] | None
        try:
            answer = self._calls.read(_STATUS, _named(ref, version))
        except RefusedError as no:
            if no.status not in ABSENT:
                raise
            answer = self._run_without_label(ref, version) if no.status == 404 else None
        if answer is None:
            return None
        return Run(state=state(text(answer, "status"), _STATES), failure=text(answer, "failureMessage"))

    def log(self, ref: str, version: int) -> tuple[LogLine, ...]:
        """Return the log of a version's run as far as it goes."""
        try:
            answer = self._of_version(_SERVICE + "ListKernelSessionOutput", ref, version)
        except RefusedError as no:
            if no.status not in ABSENT:
                raise
            return ()  # no run, no log
        return _log(text(answer, "log"))

    def outputs(self, ref: str, version: int) -> tuple[str, ...]:
        """Return the paths of the output files of a version's run, sorted.

        Not of ListKernelFiles, which shows bare names, sizes that are not the files' and at times nothing.
        """
        method = _SERVICE + "ListKernelSessionOutput"
        try:
            pages = list(self._calls.pages(method, _named(ref, version)))
        except RefusedError as no:
            if no.status != 404 or self._newest(ref) != version:
                raise
            pages = list(self._calls.pages(method, _named(ref)))
        names = (text(raw, "fileName") for page in pages for raw in parts(page, "files"))
        return tuple(sorted({name for name in names if name}))

    def fetch_output(self, ref: str, version: int, name: str, into: Path) -> int:
        """Write one output file of a version to `into`, which must not exist yet; return its size in bytes."""
        owner, _, slug = ref.partition("/")
        body = {"ownerSlug": owner, "kernelSlug": slug, "filePath": name, "versionNumber": version}
        return self._calls.download(_SERVICE + "DownloadKernelOutput", body, into)

    def _of_version(self, method: str, ref: str, version: int) -> dict[str, Any]:
        """Return an answer about a version; without its label where Kaggle knows none and it is the newest."""
        try:
            return self._calls.read(method, _named(ref, version))
        except RefusedError as no:
            if no.status != 404 or self._newest(ref) != version:
                raise
        return self._calls.read(method, _named(ref))

    def _run_without_label(self, ref: str, version: int) -> dict[str, Any] | None:
        """Return the state of the newest run where that is the version's; None where one cannot tell.

        A label may be refused because this run does not show yet, while an earlier one answers without label:
        where the version before has a run under its label, labels are understood.
        """
        if self._newest(ref) != version:
            return None
        if version > 1 and self._calls.read_or_none(_STATUS, _named(ref, version - 1)) is not None:
            return None
        return self._calls.read_or_none(_STATUS, _named(ref))

    def _newest(self, ref: str) -> int:
        found = self.notebook(ref)
        return found.current if found else 0


def _named(ref: str, version: int | None = None) -> dict[str, Any]:
    owner, _, slug = ref.partition("/")
    return {"userName": owner, "kernelSlug": slug, **({"versionLabel": f"v{version}"} if version else {})}


def as_request(new: NewNotebook) -> dict[str, Any]:
    """Return the request of a push; what is not wanted is left out, but the flags, whose defaults are not ours."""
    wishes = {
        "datasetDataSources": list(new.sources.datasets),
        "competitionDataSources": list(new.sources.competitions),
        "kernelDataSources": list(new.sources.notebooks),
        "modelDataSources": list(new.sources.models),
        "dockerImage": new.image,
        "dockerImagePinningType": new.pinning,
        "machineShape": new.machine,
        "sessionTimeoutSeconds": new.seconds,
    }
    return {
        "slug": new.ref,
        "newTitle": new.title,
        "text": as_sent(new.text),
        "language": "python",
        "kernelType": "notebook",
        "isPrivate": new.private,
        "enableGpu": new.gpu,
        "enableTpu": False,
        "enableInternet": new.internet,
        **{name: wish for name, wish in wishes.items() if wish},
    }


def as_sent(text: str) -> str:
    """Return a notebook as Kaggle takes it: no outputs, every source one string; the same text where that holds.

    Raises ProjectError where it is no notebook.
    """
    try:
        told = json.loads(text)
        changed = [_simplify(cell) for cell in told["cells"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProjectError("what is to be pushed is no notebook", hint="build the kit again") from error
    return json.dumps(told) if any(changed) else text


def _simplify(cell: dict[str, Any]) -> bool:
    before = dict(cell)
    if cell.get("cell_type") == "code" and "outputs" in cell:
        cell["outputs"] = []
    if isinstance(cell.get("source"), list):
        cell["source"] = "".join(cell["source"])
    return cell != before


def _notebook(ref: str, answer: Mapping[str, Any], site: str) -> RemoteNotebook:
    told = part(answer, "metadata")

    def refs(field: str) -> tuple[str, ...]:
        return tuple(_source(field, source) for source in texts(told, field))

    return RemoteNotebook(
        ref=_ref(told) or ref,
        current=number(told, "currentVersionNumber"),
        private=flag(told, "isPrivate"),
        internet=flag(told, "enableInternet"),
        sources=Sources(
            datasets=refs("datasetDataSources"),
            competitions=refs("competitionDataSources"),
            notebooks=refs("kernelDataSources"),
            models=refs("modelDataSources"),
        ),
        text=text(part(answer, "blob"), "source"),
        title=text(told, "title"),
        gpu=flag(told, "enableGpu"),
        machine=text(told, "machineShape"),
        image=text(told, "dockerImage"),
        url=_page(_ref(told) or ref, text(told, "url"), site),
    )


def _source(field: str, said: str) -> str:
    """Return a source as it is pushed, "owner/slug"; Kaggle tells it with the name of its kind in front, too."""
    kinds, words = _KINDS[field]
    steps = [step for step in said.removeprefix("https://www.kaggle.com").split("/") if step]
    named = len(steps) > words and steps[0].lower() in kinds
    return "/".join(steps[1:] if named else steps)


def _ref(answer: Mapping[str, Any]) -> str:
    """Return "owner/slug" of "owner/slug", "/code/owner/slug" or an address; "" where there is none."""
    for field in ("ref", "url"):
        steps = [step for step in text(answer, field).split("?")[0].split("/") if step]
        if "code" in steps[:-2]:
            steps = steps[steps.index("code") + 1 :][:2]
        if len(steps) == 2:
            return "/".join(steps)
    return ""


def _page(ref: str, url: str, site: str) -> str:
    return url if url.startswith("http") else f"{site}/code/{ref}"


def _log(text: str) -> tuple[LogLine, ...]:
    """Return the pieces of a log: a JSON array as text, which may be cut; anything else is taken as it is."""
    found: list[LogLine] = []
    at = text.find("{") if text.lstrip().startswith("[") else -1
    while at >= 0:
        try:
            event, end = json.JSONDecoder().raw_decode(text, at)
            found.append(_line(event))
        except (ValueError, TypeError, KeyError):
            break
        at = text.find("{", end)
    if found or text.strip() in ("", "[]"):
        return tuple(found)
    return (LogLine(seconds=0.0, stream="stdout", text=text),)


def _line(event: Mapping[str, Any]) -> LogLine:
    stream = str(event.get("stream_name") or "stdout")
    return LogLine(seconds=float(event.get("time") or 0), stream=stream, text=str(event["data"]))
