"""Notebooks: every push is a version with a run of its own, and hardly any refusal is an HTTP error."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.kernel_runs import ENDED, SOURCES, NotebookRuns
from offline_kit.local_kaggle.store import Record, pack_folder
from offline_kit.local_kaggle.versions import OwnedThings
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal, rpc
from offline_kit.project.kaggle_names import make_slug

# Accelerators that Kaggle retired, in lower case, and what it runs instead without a word (kaggle 2.2.5 warns of it).
_REPLACED = {
    "nvidiateslap100": "NvidiaTeslaT4",
    "tpuv38": "TpuV5E8",
    "tpu1vmv38": "TpuV5E8",
    "tpuv232": "",
    "tpuv2256": "",
}
_FLAGS = ("isPrivate", "enableGpu", "enableTpu", "enableInternet")
_TEXTS = ("dockerImage", "dockerImagePinningType", "machineShape", "language", "kernelType")
# Bytes of every file in a listing that the live service has for a file of a gigabyte, too.
_NO_SIZE = 946
_LOG_PAUSE = 0.2  # seconds between two looks whether a run has ended


class NotebookService(OwnedThings):
    """The notebooks of one local Kaggle."""

    kind = "kernels"

    def __init__(self, runs: NotebookRuns) -> None:
        super().__init__(runs.store)
        self.runs = runs

    @rpc("kernels.KernelsApiService/SaveKernel")
    def _save_version(self, call: RpcCall) -> Mapping[str, Any]:
        # A data source that is not there is named in the answer, and the run goes without: no error, as on Kaggle.
        if not call.user:
            raise ServiceRefusal(401, "Unauthenticated")
        runs_now, most = call.text("kernelExecutionType") != "QUICK_SAVE", self.settings.sessions
        if runs_now and self._count_running(call.user) >= most:
            # A refusal inside of a 200: `kaggle kernels push` prints it and exits with 0.
            return {"error": f"Maximum batch CPU session count of {most} reached."}
        shape = call.text("machineShape")
        sources = {kind: call.texts(name) for kind, name in SOURCES.items()}
        with self.store.lock:
            record = self._target_notebook(call)
            if record is None:
                return {"error": "Notebook not found"}
            number = self.store.latest_number(*record.key) + 1
            key = (*record.key, "versions", str(number))
            facts = {
                "number": number,
                "owner": record["owner"],
                "created": time.time(),
                "state": "QUEUED" if runs_now else "SAVED",
                "timeout": call.integer("sessionTimeoutSeconds"),
                **{name: call.flag(name) for name in _FLAGS},
                **{name: call.text(name) for name in _TEXTS},
                "machineShape": _REPLACED.get(shape.lower(), shape),  # what is read back differs
                "categoryIds": call.texts("categoryIds"),
                **{SOURCES[kind]: refs for kind, refs in sources.items()},
            }
            files.write_atomic(self.store.key_folder(*key) / "source.txt", call.text("text"))
            version = self.store.write_record(facts, *key)
            self.store.write_record({**record, "private": version["isPrivate"]}, *record.key)
        if runs_now:
            self.runs.start_run(version)
        ref = f"/code/{record['owner']}/{record['slug']}"
        refused = {
            f"invalid{kind.capitalize()}Sources": [
                source for source in refs if not self.runs.find_source(kind, source, call.user)
            ]
            for kind, refs in sources.items()
        }
        answer = {"ref": ref, "url": call.base + ref, "versionNumber": number, "kernelId": record["id"]}
        return {**answer, "error": "", "invalidTags": [], **refused}

    def _count_running(self, owner: str) -> int:
        return sum(
            version["state"] not in (*ENDED, "SAVED")
            for slug in self.store.key_names("kernels", owner)
            for version in self.store.iter_records("kernels", owner, slug, "versions")
        )

    def _target_notebook(self, call: RpcCall) -> Record | None:
        """Return the notebook that a push is for, made now if it is new; None if there is none to update."""
        if notebook_id := call.integer("id"):
            return next((record for record in self.all_records() if record["id"] == notebook_id), None)
        owner, _, slug = call.text("slug").rpartition("/")
        owner = owner or call.user
        if owner.lower() != call.user:
            raise self.refusal("update")
        if existing := self.read_record(owner, slug):
            return existing
        # The title decides, whatever slug was asked for; the client only warns if they differ.
        title = call.text("newTitle")
        slug = make_slug(title)
        if not re.fullmatch(r"[a-z0-9-]{5,50}", slug):
            return None
        # Notebooks and datasets share their slugs.
        if self.read_record(owner, slug) or self.store.read("datasets", owner, slug):
            raise ServiceRefusal(409, f"A notebook or dataset with the slug '{slug}' exists already")
        facts = {"id": self.store.next_serial("kernel"), "owner": owner.lower(), "slug": slug, "title": title}
        facts |= {"created": time.time(), "private": True}
        return self.store.write_record(facts, self.kind, owner, slug)

    @rpc("kernels.KernelsApiService/GetKernelSessionStatus")
    def _get_status(self, call: RpcCall) -> Mapping[str, Any]:
        version = self._find_session(call)
        return {"status": version["state"], "failureMessage": version.get("failure", "")}

    @rpc("kernels.KernelsApiService/ListKernelSessionOutput")
    def _get_session_output(self, call: RpcCall) -> Mapping[str, Any]:
        version = self._find_session(call)
        folder = self.runs.output_folder(version)

        def describe(path: Path) -> Mapping[str, str]:
            return {"fileName": path.as_posix(), "url": self.links.create_link(call, folder / path)}

        answer = wire.list_page(call, "files", self._list_output(version), describe)
        return {**answer, "log": self.runs.read_log(version)}

    @rpc("kernels/logs")
    def _follow_log(self, call: RpcCall) -> HttpAnswer:
        # Kaggle streams a log while its run goes on; here it comes whole at the end, which the client takes as well.
        while (version := self._find_session(call))["state"] not in ENDED:
            time.sleep(_LOG_PAUSE)
        headers = {"Content-Type": "application/json"}
        return HttpAnswer(body=self.runs.read_log(version).encode(), headers=headers)

    @rpc("kernels.KernelsApiService/ListKernelFiles")
    def _list_output_files(self, call: RpcCall) -> Mapping[str, Any]:
        # As the live service was seen to answer: bare names, and no true sizes.
        version = self._find_session(call)
        facts = {"size": _NO_SIZE, "creationDate": wire.format_time(version["created"])}
        names = self._list_output(version)
        return wire.list_page(call, "files", names, lambda path: {"name": path.name, **facts})

    @rpc("kernels.KernelsApiService/GetKernel")
    def _get_notebook(self, call: RpcCall) -> Mapping[str, Any]:
        record = self._open_notebook(call)
        version = self._labelled_version(record, call)
        blob = {"source": self.runs.read_source(version), "slug": record["slug"]}
        blob |= {name: version[name] for name in ("language", "kernelType")}
        return {"metadata": self._describe_notebook(record, version), "blob": blob}

    @rpc("kernels.KernelsApiService/ListKernels")
    def _list_notebooks(self, call: RpcCall) -> Mapping[str, Any]:
        visible = [
            (record, version)
            for record in self.all_records()
            if self.may_see(record, call.user) and (version := next(self.store.iter_versions(record), None))
        ]
        return wire.list_page(
            call,
            "kernels",
            visible,
            lambda pair: self._describe_notebook(*pair),
            filters={
                "group": lambda pair, word: word != "PROFILE" or pair[0]["owner"] == call.user,
                "user": lambda pair, name: bool(pair[0]["owner"] == name.lower()),
                "search": lambda pair, words: wire.matches_search(pair[0], words),
                "language": lambda pair, word: pair[1]["language"].lower() == word.lower(),
                "kernelType": lambda pair, word: pair[1]["kernelType"].lower() == word.lower(),
                "competition": lambda pair, ref: _is_attached(pair[1], "competition", ref),
                "dataset": lambda pair, ref: _is_attached(pair[1], "dataset", ref),
            },
            orders={
                "DATE_CREATED": lambda pair: -pair[0]["created"],
                "DATE_RUN": lambda pair: -pair[1]["created"],
            },
        )

    @rpc("kernels.KernelsApiService/DownloadKernelOutput")
    def _download_output(self, call: RpcCall) -> HttpAnswer:
        number, name = call.integer("versionNumber"), call.text("filePath")
        names = {"userName": call.text("ownerSlug"), "kernelSlug": call.text("kernelSlug")}
        named = call.inner({**names, "versionLabel": f"v{number}" if number else ""})
        version = self._labelled_version(self._open_notebook(named), named)
        folder = self.runs.output_folder(version)
        if not name and folder.is_dir():
            zipped = pack_folder(folder, folder.with_name("output.zip"))
            return self.links.redirect(call, zipped, f"{version.key[2]}.zip")
        if name not in [path.as_posix() for path in files.list_tree(folder)]:
            raise ServiceRefusal(404, f"File '{name}' not found")
        return self.links.redirect(call, folder / name)

    @rpc("kernels.KernelsApiService/DeleteKernel")
    def _delete_notebook(self, call: RpcCall) -> Mapping[str, Any]:
        record = self.require_owner(call, self._open_notebook(call), "delete")
        self.store.delete_record(*record.key)
        return {}

    def mounted_output(self, ref: str, user: str) -> tuple[str, Path] | None:
        """Return place and folder of the output of "owner/slug[/version]", of its newest finished run."""
        record = self.find_mounted(ref, user)
        for version in self.store.iter_versions(record) if record else ():
            if version["state"] == "COMPLETE":
                _, owner, slug, *_ = version.key
                return f"notebooks/{owner}/{slug}", self.runs.output_folder(version)
        return None

    def find_version(self, owner: str, slug: str, number: int) -> Record | None:
        """Return a version of a notebook, the latest one for 0."""
        record = self.read_record(owner, slug)
        versions = self.store.iter_versions(record) if record else ()
        return next((version for version in versions if number in (0, version["number"])), None)

    def resume_runs(self) -> None:
        """Run anew what was queued or running when the server ended."""
        for record in self.all_records():
            for version in self.store.iter_versions(record):
                if version["state"] in ("QUEUED", "RUNNING"):
                    self.runs.start_run(version)

    def _labelled_version(self, record: Record, call: RpcCall) -> Record:
        """Return the version that `versionLabel` names, else the latest; only "vN" is understood."""
        label = call.text("versionLabel")
        for version in self.store.iter_versions(record):
            if label in ("", f"v{version['number']}"):
                return version
        raise ServiceRefusal(404, f"Version '{label}' not found")

    def _find_session(self, call: RpcCall) -> Record:
        version = self._labelled_version(self._open_notebook(call), call)
        if version["state"] == "SAVED":
            raise ServiceRefusal(404, "The notebook has no session")
        return version

    def _open_notebook(self, call: RpcCall) -> Record:
        slug = call.text("kernelSlug")
        if not re.fullmatch(r"[A-Za-z0-9-]+", slug):
            raise self.refusal("get")
        record = self.open_record(call, call.text("userName") or call.user, slug)
        if not self.is_visible(record):
            raise self.refusal("get")
        return record

    def _list_output(self, version: Record) -> list[Path]:
        return list(files.list_tree(self.runs.output_folder(version))) if version["state"] in ENDED else []

    def _describe_notebook(self, record: Record, version: Record) -> dict[str, Any]:
        copied = {name: version[name] for name in (*_FLAGS, *_TEXTS, *SOURCES.values(), "categoryIds")}
        if self.settings.kinds_in_sources:
            for kind, name in SOURCES.items():
                copied[name] = [f"{'code' if kind == 'kernel' else kind}/{ref}" for ref in version[name]]
        return {
            **copied,
            **{name: record[name] for name in ("id", "title", "slug")},
            "ref": f"{record['owner']}/{record['slug']}",
            "author": record["owner"],
            "lastRunTime": wire.format_time(version["created"]),
            "currentVersionNumber": self.store.latest_number(*record.key),
        }


def _is_attached(version: Record, kind: str, ref: str) -> bool:
    words = 1 if kind == "competition" else 2
    return ref.lower() in ("/".join(source.lower().split("/")[:words]) for source in version[SOURCES[kind]])
