"""Notebooks: every push is a version with a run of its own, and hardly any refusal is an HTTP error."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from offline_kit.core import files
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.kernel_runs import ENDED, SOURCES, NotebookRuns
from offline_kit.local_kaggle.links import DownloadLinks
from offline_kit.local_kaggle.packing import pack_folder
from offline_kit.local_kaggle.store import Record, RecordStore
from offline_kit.local_kaggle.wire import HttpAnswer, Rpc, RpcCall, ServiceRefusal
from offline_kit.project.kaggle_names import make_slug

_SERVICE = "kernels.KernelsApiService/"
_REPLACED = {
    "nvidiateslap100": "NvidiaTeslaT4",
    "tpuv38": "TpuV5E8",
    "tpu1vmv38": "TpuV5E8",
    "tpuv232": "",
    "tpuv2256": "",
}
"""Accelerators that Kaggle retired, in lower case, and what it runs instead without a word (kaggle 2.2.5 warns of it)."""
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".html")
_FLAGS = ("isPrivate", "enableGpu", "enableTpu", "enableInternet")
_TEXTS = ("dockerImage", "dockerImagePinningType", "machineShape", "language", "kernelType")
_QUOTA = {"timeUsed": "0s", "timeReserved": "0s", "totalTimeAllowed": "108000s"}
_NO_SIZE = 946
"""Bytes of every file in a listing that the live service has for a file of a gigabyte, too."""
Key = tuple[str, ...]


class NotebookService:
    """The notebooks of one local Kaggle."""

    def __init__(
        self, store: RecordStore, runs: NotebookRuns, links: DownloadLinks, taken: Callable[[str, str], bool]
    ) -> None:
        """`taken` tells whether a dataset of this owner has the slug, which is no notebook's then."""
        self.store = store
        self.runs = runs
        self.links = links
        self.taken = taken

    def list_rpcs(self) -> dict[str, Rpc]:
        """Return the calls about notebooks."""
        calls: dict[str, Rpc] = {
            "SaveKernel": self.save_version,
            "GetKernelSessionStatus": self.get_status,
            "ListKernelSessionOutput": self.get_session_output,
            "ListKernelFiles": self.list_output_files,
            "GetKernel": self.get_notebook,
            "ListKernels": self.list_notebooks,
            "DownloadKernelOutput": self.download_output,
            "DeleteKernel": self.delete_notebook,
            "GetAcceleratorQuotaStatistics": self.get_quota,
        }
        return {_SERVICE + name: call for name, call in calls.items()}

    def save_version(self, call: RpcCall) -> Mapping[str, Any]:
        """Make a version and let it run; a data source that is not there is named, and the run goes without."""
        if not call.user:
            raise ServiceRefusal(401, "Unauthenticated")
        running = sum(version["state"] not in ENDED for version in self._versions_of(call.user))
        runs_now = call.text_field("kernelExecutionType") != "QUICK_SAVE"
        if runs_now and running >= self.runs.settings.sessions:
            return {"error": f"Maximum batch CPU session count of {self.runs.settings.sessions} reached."}
        with self.store.lock:
            record = self._target_notebook(call)
            if record is None:
                return {"error": "Notebook not found"}
            key = _key_of(record)
            number = max(self.store.version_numbers(*key), default=0) + 1
            version = {
                "number": number,
                "owner": record["owner"],
                "created": self.store.current_time(),
                "state": "QUEUED" if runs_now else "SAVED",
                "timeout": call.int_field("sessionTimeoutSeconds"),
                **{name: call.bool_field(name) for name in _FLAGS},
                **{name: call.text_field(name) for name in _TEXTS},
                "machineShape": _REPLACED.get(
                    call.text_field("machineShape").lower(), call.text_field("machineShape")
                ),
                "categoryIds": call.text_list("categoryIds"),
                **{field: call.text_list(field) for field in SOURCES.values()},
            }
            folder = self.store.key_folder(*key, "versions", str(number))
            files.write_atomic(folder / "source.txt", call.text_field("text"))
            self.store.write_record(version, *key, "versions", str(number))
            self.store.write_record({**record, "private": version["isPrivate"]}, *key)
        if runs_now:
            self.runs.start_run((*key, "versions", str(number)))
        ref = f"/code/{record['owner']}/{record['slug']}"
        refused = {
            f"invalid{kind.capitalize()}Sources": self.runs.find_invalid_sources(
                kind, call.text_list(field), call.user
            )
            for kind, field in SOURCES.items()
        }
        url = f"{wire.HERE}{ref}"
        answer = {"ref": ref, "url": url, "versionNumber": number, "kernelId": record["id"], "error": ""}
        return {**answer, "invalidTags": [], **refused}

    def _target_notebook(self, call: RpcCall) -> Record | None:
        """Return the notebook that a push is for, made now if it is new; None if there is none to update."""
        if notebook_id := call.int_field("id"):
            return next((record for record in self._all_records() if record["id"] == notebook_id), None)
        owner, _, slug = call.text_field("slug").rpartition("/")
        owner = owner or call.user
        if owner.lower() != call.user:
            raise ServiceRefusal(403, "Permission 'kernels.update' was denied")
        if existing := self.store.read(*_store_key(owner, slug)):
            return existing
        title = call.text_field("newTitle")
        if not title:
            return None
        # The title decides, whatever slug was asked for; the client only warns if they differ.
        slug = make_slug(title)
        if not re.fullmatch(r"[a-z0-9-]{5,50}", slug):
            return None
        if self.store.read(*_store_key(owner, slug)) or self.taken(owner, slug):
            raise ServiceRefusal(409, f"A notebook or dataset with the slug '{slug}' exists already")
        created = {
            "id": self.store.next_serial("kernel"),
            "owner": owner.lower(),
            "slug": slug,
            "title": title,
        }
        return {**created, "created": self.store.current_time(), "private": True}

    def get_status(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell the state of a version's run, of the latest version unless a label is given."""
        version = self._find_session(call)
        return {"status": version["state"], "failureMessage": version.get("failure", "")}

    def get_session_output(self, call: RpcCall) -> Mapping[str, Any]:
        """List the output files of a run, each with a link, and its log."""
        key, version = self._session_key(call), self._find_session(call)
        folder = self.runs.output_folder(key)
        names = files.list_tree(folder) if version["state"] in ENDED else ()
        page, following = wire.slice_page(names, call.body)
        links = [
            {"fileName": path.as_posix(), "url": self.links.create_link(call.base, folder / path, path.name)}
            for path in page
        ]
        return {"files": links, "log": self.runs.logs.log_text(key), "nextPageToken": following}

    def follow_log(self, call: RpcCall) -> HttpAnswer:
        """Stream the log of a run while it goes on; give the whole of it when it has ended."""
        key, version = self._session_key(call), self._find_session(call)
        if version["state"] in ENDED:
            return HttpAnswer(
                body=self.runs.logs.log_text(key).encode(), headers={"Content-Type": "application/json"}
            )
        events = (
            f"data: {json.dumps(event)}\n\n" if event else ":\n\n" for event in self.runs.logs.follow_log(key)
        )
        pieces = (piece.encode() for piece in itertools.chain(events, ("data: END_OF_LOG\n\n",)))
        return HttpAnswer(stream=pieces, headers={"Content-Type": "text/event-stream"})

    def list_output_files(self, call: RpcCall) -> Mapping[str, Any]:
        """List the output files of a run as the live service was seen to: bare names, and no true sizes."""
        key, version = self._session_key(call), self._find_session(call)
        created = wire.format_time(version["created"])
        entries = [
            {"name": path.name, "size": _NO_SIZE, "creationDate": created}
            for path in (files.list_tree(self.runs.output_folder(key)) if version["state"] in ENDED else ())
        ]
        page, following = wire.slice_page(entries, call.body)
        return {"files": page, "nextPageToken": following}

    def get_notebook(self, call: RpcCall) -> Mapping[str, Any]:
        """Give a version's source and metadata."""
        record = self._open_notebook(call)
        key = self._version_key(record, call)
        version = self.store.read(*key) or {}
        blob = {"source": self.runs.pushed_source(key), "slug": record["slug"]}
        blob |= {name: version[name] for name in ("language", "kernelType")}
        return {"metadata": self._describe_notebook(record, version), "blob": blob}

    def list_notebooks(self, call: RpcCall) -> Mapping[str, Any]:
        """List one's own notebooks, or those that one may see."""
        visible = [
            (record, version)
            for record in self._all_records()
            if (record["owner"] == call.user or not record["private"])
            and (version := self._latest_version(record))
        ]
        listing = wire.ListingRules[tuple[Record, Record]](
            filters={
                "group": lambda pair, word: word != "PROFILE" or pair[0]["owner"] == call.user,
                "user": lambda pair, name: bool(pair[0]["owner"] == name.lower()),
                "search": lambda pair, words: wire.matches_search(words, pair[0]["title"], pair[0]["slug"]),
                "language": lambda pair, word: pair[1]["language"].lower() == word.lower(),
                "kernelType": lambda pair, word: pair[1]["kernelType"].lower() == word.lower(),
                "outputType": lambda pair, word: self._has_output(*pair, pictures=word == "visualization"),
                "competition": lambda pair, ref: _is_attached(pair[1], "competition", ref),
                "dataset": lambda pair, ref: _is_attached(pair[1], "dataset", ref),
                "parentKernel": lambda _pair, _ref: False,  # nothing here is a fork
            },
            orders={
                "DATE_CREATED": lambda pair: -pair[0]["created"],
                "DATE_RUN": lambda pair: -pair[1]["created"],
            },
        )
        page, following = listing.page_of_things(visible, call.body)
        return {"kernels": [self._describe_notebook(*pair) for pair in page], "nextPageToken": following}

    def _has_output(self, record: Record, version: Record, *, pictures: bool) -> bool:
        folder = self.runs.output_folder((*_key_of(record), "versions", str(version["number"])))
        names = [path.name.lower() for path in files.list_tree(folder)] if folder.is_dir() else []
        return any(name.endswith(_PICTURES) for name in names) if pictures else bool(names)

    def download_output(self, call: RpcCall) -> HttpAnswer:
        """Send to the link of one output file of one version, or of a zip of all."""
        label = f"v{call.int_field('versionNumber')}" if call.int_field("versionNumber") else ""
        words = {"userName": call.text_field("ownerSlug"), "kernelSlug": call.text_field("kernelSlug")}
        inner = RpcCall(user=call.user, body={**words, "versionLabel": label}, base=call.base)
        key, name = self._session_key(inner), call.text_field("filePath")
        folder = self.runs.output_folder(key)
        if not name and folder.is_dir():
            zipped = pack_folder(folder, folder.with_name("output.zip"))
            return wire.redirect_answer(self.links.create_link(call.base, zipped, f"{key[2]}.zip"))
        if name not in [path.as_posix() for path in files.list_tree(folder)]:
            raise ServiceRefusal(404, f"File '{name}' not found")
        return wire.redirect_answer(self.links.create_link(call.base, folder / name, name.rpartition("/")[2]))

    def delete_notebook(self, call: RpcCall) -> Mapping[str, Any]:
        """Remove a notebook with all of its versions."""
        record = self._open_notebook(call)
        if record["owner"] != call.user:
            raise ServiceRefusal(403, "Permission 'kernels.delete' was denied")
        self.store.delete_record(*_key_of(record))
        return {}

    def get_quota(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell the hours of accelerators: all of them are left."""
        refresh = wire.format_time(self.store.current_time() + 7 * 86400)
        return {"quotaRefreshTime": refresh, "gpuQuota": _QUOTA, "tpuQuota": _QUOTA} if call.user else {}

    def mounted_output(self, ref: str, user: str) -> tuple[str, Any] | None:
        """Return place and folder of the output of "owner/slug[/version]", of its newest finished run."""
        owner, _, slug = "/".join(ref.split("/")[:2]).partition("/")
        record = self.store.read(*_store_key(owner, slug)) if owner and slug else None
        if record is None or (record["private"] and record["owner"] != user):
            return None
        for number in reversed(self.store.version_numbers(*_key_of(record))):
            key = (*_key_of(record), "versions", str(number))
            if (self.store.read(*key) or {}).get("state") == "COMPLETE":
                return f"notebooks/{record['owner']}/{record['slug']}", self.runs.output_folder(key)
        return None

    def find_version(self, owner: str, slug: str, number: int) -> tuple[Key, Record] | None:
        """Return key and record of a version of a notebook, the latest one for 0."""
        record = self.store.read(*_store_key(owner, slug))
        if record is None:
            return None
        key = (
            *_key_of(record),
            "versions",
            str(number or max(self.store.version_numbers(*_key_of(record)), default=0)),
        )
        found = self.store.read(*key)
        return (key, found) if found else None

    def resume_runs(self) -> None:
        """Run anew what was queued or running when the server ended."""
        for record in self._all_records():
            for number in self.store.version_numbers(*_key_of(record)):
                key = (*_key_of(record), "versions", str(number))
                if (self.store.read(*key) or {}).get("state") in ("QUEUED", "RUNNING"):
                    self.runs.start_run(key)

    def _find_session(self, call: RpcCall) -> Record:
        version = self.store.read(*self._session_key(call))
        if version is None or version["state"] == "SAVED":
            raise ServiceRefusal(404, "The notebook has no session")
        return version

    def _session_key(self, call: RpcCall) -> Key:
        return self._version_key(self._open_notebook(call), call)

    def _version_key(self, record: Record, call: RpcCall) -> Key:
        """Return the key of the version that `versionLabel` names; only "vN" is understood."""
        label, numbers = call.text_field("versionLabel"), self.store.version_numbers(*_key_of(record))
        number = max(numbers, default=0)
        if label:
            number = int(label[1:]) if re.fullmatch(r"v\d{1,9}", label) else 0
        if number not in numbers:
            raise ServiceRefusal(404, f"Version '{label}' not found")
        return (*_key_of(record), "versions", str(number))

    def _open_notebook(self, call: RpcCall) -> Record:
        owner, slug = call.text_field("userName") or call.user, call.text_field("kernelSlug")
        is_valid = bool(re.fullmatch(r"[A-Za-z0-9-]+", slug)) and bool(owner)
        record = self.store.read(*_store_key(owner, slug)) if is_valid else None
        late = self.runs.settings.visible_after
        if (
            record is None
            or (record["private"] and record["owner"] != call.user)
            or self.store.current_time() - record["created"] < late
        ):
            raise ServiceRefusal(403, "Permission 'kernels.get' was denied")
        return record

    def _latest_version(self, record: Record) -> Record | None:
        number = max(self.store.version_numbers(*_key_of(record)), default=0)
        return self.store.read(*_key_of(record), "versions", str(number))

    def _all_records(self) -> Iterator[Record]:
        for owner in self.store.key_names("kernels"):
            yield from self.store.iter_records("kernels", owner)

    def _versions_of(self, owner: str) -> Iterator[Record]:
        for slug in self.store.key_names("kernels", owner):
            for version in self.store.iter_records("kernels", owner, slug, "versions"):
                if version["state"] != "SAVED":
                    yield version

    def _describe_notebook(self, record: Record, version: Record) -> dict[str, Any]:
        copied = {name: version[name] for name in (*_FLAGS, *_TEXTS, *SOURCES.values())}
        copied["categoryIds"] = version.get("categoryIds", [])
        if self.runs.settings.kinds_in_sources:
            for kind, field in SOURCES.items():
                copied[field] = [f"{'code' if kind == 'kernel' else kind}/{ref}" for ref in version[field]]
        latest = max(self.store.version_numbers(*_key_of(record)), default=0)
        own = {
            "id": record["id"],
            "ref": f"{record['owner']}/{record['slug']}",
            "title": record["title"],
            "author": record["owner"],
            "slug": record["slug"],
            "lastRunTime": wire.format_time(version["created"]),
            "currentVersionNumber": latest,
        }
        return {**copied, **own}


def _is_attached(version: Record, kind: str, ref: str) -> bool:
    words = 1 if kind == "competition" else 2
    return ref.lower() in ("/".join(source.lower().split("/")[:words]) for source in version[SOURCES[kind]])


def _store_key(owner: str, slug: str) -> Key:
    return ("kernels", owner, slug)


def _key_of(record: Record) -> Key:
    return _store_key(record["owner"], record["slug"])
