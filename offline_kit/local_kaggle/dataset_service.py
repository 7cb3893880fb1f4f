"""Datasets: created privately, versioned as whole snapshots, there only a while after the answer."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.store import Record
from offline_kit.local_kaggle.versions import VersionedThings
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, rpc
from offline_kit.project.kaggle_names import check_title

# Suffixes by type; what BigQuery holds is no file, here it stands for what it loads.
_FILE_TYPES = {
    "CSV": (".csv", ".tsv"),
    "JSON": (".json", ".jsonl"),
    "SQLITE": (".sqlite", ".sqlite3", ".db"),
    "PARQUET": (".parquet",),
    "BIG_QUERY": (".csv", ".json", ".jsonl", ".parquet", ".avro", ".orc"),
}
_LICENCE_GROUPS = {"CC": "_CC", "GPL": "_GPL", "LGPL": "_GPL", "AGPL": "_GPL", "ODB": "_ODB", "DBCL": "_ODB"}
_TEXTS = ("title", "subtitle", "description")


class DatasetService(VersionedThings):
    """The datasets of one local Kaggle."""

    kind = "datasets"

    @rpc("datasets.DatasetApiService/CreateDataset")
    def _create_dataset(self, call: RpcCall) -> Mapping[str, Any]:
        # As on Kaggle, what is wrong with a name is an error inside of a 200.
        self.check_creator(call)
        slug, title = call.text("slug"), call.text("title")
        if not re.fullmatch(r"[A-Za-z0-9-]{3,50}", slug):
            return _refuse('Slug can only contain alphanumeric or "-" characters')
        if check_title(title):
            return _refuse("The dataset title must be between 6 and 50 characters")
        uploads = self.blobs.list_uploads(call)
        with self.store.lock:
            if self.read_record(call.user, slug):
                words = f'The requested title "{title}" is already in use by a dataset.'
                return _refuse(f"{words} Please choose another title.")
            facts = {
                **{name: call.text(name) for name in _TEXTS},
                "id": self.store.next_serial("dataset"),
                "owner": call.user,
                "slug": slug.lower(),
                "private": call.flag("isPrivate"),
                "license": call.text("licenseName") or "unknown",
                "keywords": call.texts("categoryIds"),
                "created": time.time(),
            }
            record = self.store.write_record(facts, self.kind, call.user, slug)
            self.add_version(record, uploads, notes="Initial release", stuck=call.stuck)
        return {**self.accept(call, record), "status": "Ok", "invalidTags": []}

    @rpc("datasets.DatasetApiService/CreateDatasetVersion")
    def _create_version(self, call: RpcCall) -> Mapping[str, Any]:
        # A version is a whole snapshot: nothing of the one before is taken over.
        record = self.require_owner(call, self._read_named(call), "update")
        version = call.inner(call.body.get("body"))  # the path parameters stand beside it
        uploads = self.blobs.list_uploads(version)
        with self.store.lock:
            # A second version needs a finished first one: https://github.com/Kaggle/kagglehub/issues/181
            if self.store.latest_number(*record.key) == 1 and self.has_unfinished(record):
                raise self.refusal("update")
            for name in ("subtitle", "description"):
                record[name] = version.text(name) or record[name]
            record["keywords"] = version.texts("categoryIds") or record["keywords"]
            self.store.write_record(record, *record.key)
            older_versions = list(self.store.iter_versions(record))
            self.add_version(record, uploads, notes=version.text("versionNotes"), stuck=call.stuck)
            for older in older_versions if version.flag("deleteOldVersions") else ():
                self.delete_version(older)
        return {**self.accept(call, record), "status": "Ok", "invalidTags": []}

    @rpc("datasets.DatasetApiService/GetDatasetStatus")
    def _get_status(self, call: RpcCall) -> Mapping[str, Any]:
        # Shortly after an upload this is still the version before, READY.
        return {"status": self.version_state(self._shown_version(self._open_dataset(call)))}

    @rpc("datasets.DatasetApiService/GetDataset")
    def _get_dataset(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell all about a dataset; 403 while its first version is processed, when only the status is told.

        So kagglehub's own suite waits: it takes an answer for a dataset that takes a second version.
        """
        record = self._open_dataset(call)
        if not self.newest_version(record, ready=True) and self.has_unfinished(record):
            raise self.refusal("get")
        return self._describe(call, record)

    @rpc("datasets.DatasetApiService/ListDatasetFiles")
    def _list_files(self, call: RpcCall) -> Mapping[str, Any]:
        return wire.list_page(
            call, "datasetFiles", self.describe_files(self._find_version(call), "totalBytes")
        )

    @rpc("datasets.DatasetApiService/ListTreeDatasetFiles")
    def _list_tree(self, call: RpcCall) -> Mapping[str, Any]:
        below = f"{call.text('path').strip('/')}/".lstrip("/")
        folders: dict[str, dict[str, Any]] = {}
        loose: list[dict[str, Any]] = []
        for entry in self.describe_files(self._find_version(call), "totalBytes"):
            name, slash, _ = entry["name"].removeprefix(below).partition("/")
            named = {"name": name, "relativeUrl": below + name}
            if entry["name"].startswith(below) and slash:
                folders[name] = named
            elif entry["name"].startswith(below):
                loose.append(entry | named)
        page, following = wire.slice_page(call, [*folders.values(), *loose])
        return {
            "directories": [entry for entry in page if "totalBytes" not in entry],
            "files": [entry for entry in page if "totalBytes" in entry],
            "totalDirectories": len(folders),
            "totalFiles": len(loose),
            "totalChildren": len(folders) + len(loose),
            "nextPageToken": following,
        }

    @rpc("datasets.DatasetApiService/GetDatasetMetadata")
    def _get_metadata(self, call: RpcCall) -> Mapping[str, Any]:
        # What `kaggle datasets metadata` writes to a file.
        record = self._open_dataset(call)
        info = {
            "datasetId": record["id"],
            "datasetSlug": record["slug"],
            "ownerUser": record["owner"],
            "isPrivate": record["private"],
            "licenses": [{"name": record["license"]}],
            **{name: record[name] for name in (*_TEXTS, "keywords")},
        }
        return {"info": info}

    @rpc("datasets.DatasetApiService/UpdateDatasetMetadata")
    def _update_metadata(self, call: RpcCall) -> Mapping[str, Any]:
        # Without `isPrivate` the dataset becomes public: absent means false on the wire.
        record = self.require_owner(call, self._read_named(call), "update")
        settings = call.inner(call.body.get("settings"))
        record |= {name: settings.text(name) or record[name] for name in _TEXTS}
        record["keywords"] = settings.texts("keywords") or record["keywords"]
        # A dataset has exactly one licence.
        for licence in settings.items("licenses")[:1]:
            record["license"] = call.inner(licence).text("name") or record["license"]
        record["private"] = settings.flag("isPrivate")
        self.store.write_record(record, *record.key)
        return {}

    @rpc("datasets.DatasetApiService/DeleteDataset")
    def _delete_dataset(self, call: RpcCall) -> Mapping[str, Any]:
        return self.delete_thing(self.require_owner(call, self._read_named(call), "delete"))

    @rpc("datasets.DatasetApiService/ListDatasets")
    def _list_datasets(self, call: RpcCall) -> Mapping[str, Any]:
        def is_in_group(record: Record, word: str) -> bool:
            own_groups = ("_MY", "_MY_PRIVATE" if record["private"] else "_MY_PUBLIC")
            is_own = record["owner"] == call.user and word.endswith(own_groups)
            return is_own or word.endswith(("_GROUP_PUBLIC", "_USER"))

        def has_licence(record: Record, word: str) -> bool:
            name = record["license"].upper()
            group = next(
                (group for start, group in _LICENCE_GROUPS.items() if name.startswith(start)), "_OTHER"
            )
            return word.endswith(group)

        def has_file_type(record: Record, word: str) -> bool:
            suffixes = _FILE_TYPES.get(word.rpartition("_GROUP_")[2], ())
            return any(name.lower().endswith(suffixes) for name in self._list_sizes(record))

        def last_updated(record: Record) -> float:
            return -float(self._shown_version(record)["created"])

        shown = (record for record in self.all_records() if self.newest_version(record))
        return wire.list_page(
            call,
            "datasets",
            (record for record in shown if self.may_see(record, call.user)),
            lambda record: self._describe(call, record),
            filters={
                "group": is_in_group,
                "user": lambda record, name: bool(record["owner"] == name.lower()),
                "search": lambda record, words: wire.matches_search(record, words),
                "tagIds": lambda record, tags: set(tags.split(",")) <= set(record["keywords"]),
                "license": has_licence,
                "fileType": has_file_type,
                "minSize": lambda record, size: sum(self._list_sizes(record).values()) >= int(size),
                "maxSize": lambda record, size: sum(self._list_sizes(record).values()) <= int(size),
            },
            orders={
                "_UPDATED": last_updated,
                "_ACTIVE": last_updated,
                "_PUBLISHED": lambda record: -record["created"],
            },
        )

    @rpc("datasets.DatasetApiService/DownloadDataset")
    def _download_dataset(self, call: RpcCall) -> HttpAnswer:
        return self.send_version(call, self._find_version(call), call.text("fileName"))

    def mounted_version(self, ref: str, user: str) -> tuple[str, Path] | None:
        """Return place and folder of what a notebook of this user gets for "owner/slug[/version]".

        The newest READY version, whichever the reference names, as on Kaggle; None if there is none.
        """
        record = self.find_mounted(ref, user)
        version = self.newest_version(record, ready=True) if record else None
        return ("/".join(version.key[:3]), self.version_folder(version)) if version else None

    def _read_named(self, call: RpcCall) -> Record | None:
        return self.read_record(call.text("ownerSlug") or call.user, call.text("datasetSlug"))

    def _open_dataset(self, call: RpcCall) -> Record:
        """Return a dataset that the caller may see by now."""
        record = self.open_record(call, call.text("ownerSlug") or call.user, call.text("datasetSlug"))
        self._shown_version(record)
        return record

    def _shown_version(self, record: Record) -> Record:
        version = self.newest_version(record)
        if version is None:
            raise self.refusal("get")
        return version

    def _find_version(self, call: RpcCall) -> Record:
        """Return the version of the number that is given, else the newest READY one."""
        record = self._open_dataset(call)
        if number := call.integer("datasetVersionNumber"):
            return self.get_version(record, number)
        return self.newest_version(record, ready=True) or self._shown_version(record)

    def _list_sizes(self, record: Record) -> dict[str, int]:
        return dict(self.list_files(self._shown_version(record)))

    def _describe(self, call: RpcCall, record: Record) -> dict[str, Any]:
        owner, version = record["owner"], self._shown_version(record)
        # A version on its way has no number yet; whether a failed one has is a setting, clients must bear both.
        failed = self.settings.numbers_failed and not self.has_unfinished(record)
        numbered = failed or self.newest_version(record, ready=True)
        versions = [
            {
                "versionNumber": shown["number"],
                "creationDate": wire.format_time(shown["created"]),
                "creatorName": owner,
                "creatorRef": owner,
                "versionNotes": shown["notes"],
                "status": self.version_state(shown).capitalize(),
            }
            for shown in self.iter_shown(record, deleted=True)
        ]
        return {
            **{name: record[name] for name in ("id", *_TEXTS)},
            **dict.fromkeys(("ownerName", "ownerRef", "creatorName"), owner),
            "ref": f"{owner}/{record['slug']}",
            "url": self.page_of(call, record),
            "isPrivate": record["private"],
            "licenseName": record["license"],
            "lastUpdated": wire.format_time(version["created"]),
            "totalBytes": sum(self._list_sizes(record).values()),
            "tags": [{"ref": word, "name": word} for word in record["keywords"]],
            **({"currentVersionNumber": version["number"]} if numbered else {}),
            "versions": versions[::-1],
        }


def _refuse(reason: str) -> dict[str, Any]:
    return {"status": "Error", "error": reason, "invalidTags": []}
