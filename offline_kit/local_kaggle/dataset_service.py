"""Datasets: created privately, versioned as whole snapshots, there only a while after the answer."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.shelf import VersionedService
from offline_kit.local_kaggle.store import Record
from offline_kit.local_kaggle.versions import Key
from offline_kit.local_kaggle.wire import HttpAnswer, Rpc, RpcCall, ServiceRefusal
from offline_kit.project.kaggle_names import check_title

_SERVICE = "datasets.DatasetApiService/"
_MORE = ("expectedUpdateFrequency", "userSpecifiedSources")
_SEARCHED = ("title", "slug", "subtitle", "description")
_FILE_TYPES = {
    "CSV": (".csv", ".tsv"),
    "JSON": (".json", ".jsonl"),
    "SQLITE": (".sqlite", ".sqlite3", ".db"),
    "PARQUET": (".parquet",),
    "BIG_QUERY": (".csv", ".json", ".jsonl", ".parquet", ".avro", ".orc"),
}
"""Suffixes by type; what BigQuery holds is no file, here it stands for what it loads."""


class DatasetService(VersionedService):
    """The datasets of one local Kaggle."""

    def list_rpcs(self) -> dict[str, Rpc]:
        """Return the calls about datasets."""
        calls: dict[str, Rpc] = {
            "CreateDataset": self.create_dataset,
            "CreateDatasetVersion": self.create_version,
            "CreateDatasetVersionById": self.create_version,
            "GetDatasetStatus": self.get_status,
            "GetDataset": self.get_dataset,
            "ListDatasetFiles": self.list_dataset_files,
            "ListTreeDatasetFiles": self.list_tree_files,
            "GetDatasetMetadata": self.get_metadata,
            "UpdateDatasetMetadata": self.update_metadata,
            "DeleteDataset": self.delete_dataset,
            "ListDatasets": self.list_datasets,
            "DownloadDataset": self.download_dataset,
        }
        return {_SERVICE + name: call for name, call in calls.items()}

    def create_dataset(self, call: RpcCall) -> Mapping[str, Any]:
        """Make a dataset with its first version; a name that is taken is an error inside of a 200."""
        owner, slug, title = (
            call.text_field("ownerSlug") or call.user,
            call.text_field("slug"),
            call.text_field("title"),
        )
        if not call.user or owner.lower() != call.user:
            raise ServiceRefusal(403, "Permission 'datasets.create' was denied")
        if not re.fullmatch(r"[A-Za-z0-9-]{3,50}", slug):
            return _refused_answer('Slug can only contain alphanumeric or "-" characters')
        if check_title(title):
            return _refused_answer("The dataset title must be between 6 and 50 characters")
        uploads = self.collect_uploads(call, call.body)
        key = _store_key(owner, slug)
        with self.store.lock:
            if self.store.read(*key):
                words = f'The requested title "{title}" is already in use by a dataset.'
                return _refused_answer(f"{words} Please choose another title.")
            record = {
                "id": self.store.next_serial("dataset"),
                "owner": call.user,
                "slug": slug.lower(),
                "title": title,
                "private": call.bool_field("isPrivate"),
                "license": call.text_field("licenseName") or "unknown",
                "subtitle": call.text_field("subtitle"),
                "description": call.text_field("description"),
                "keywords": call.text_list("categoryIds"),
                "created": self.store.current_time(),
            }
            self.store.write_record(record, *key)
            self.versions.add_version(key, uploads, notes="Initial release", stuck=call.stuck)
        return _accepted_answer(record)

    def create_version(self, call: RpcCall) -> Mapping[str, Any]:
        """Make a new version: a whole snapshot; nothing of the one before is taken over."""
        record = self._by_id(call.int_field("id")) if call.body.get("id") else self._read_record(call)
        if record is None or record["owner"] != call.user:
            raise ServiceRefusal(403, "Permission 'datasets.update' was denied")
        body = call.body.get("body") or {}
        uploads = self.collect_uploads(call, body)
        key = _key_of(record)
        with self.store.lock:
            first = self.versions.version_numbers(key) == [1]
            if first and self.versions.has_unfinished(key):
                raise ServiceRefusal(403, "Permission 'datasets.update' was denied")
            for name in ("subtitle", "description"):
                record[name] = wire.text_field(body, name) or record[name]
            record["keywords"] = wire.list_field(body, "categoryIds") or _keyword_tags(record)
            self.store.write_record(record, *key)
            notes = wire.text_field(body, "versionNotes")
            number = self.versions.add_version(key, uploads, notes=notes, stuck=call.stuck)
            if body.get("deleteOldVersions"):
                self.versions.delete_older(key, number)
        return _accepted_answer(record)

    def get_status(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell the state of the newest version that shows: shortly after an upload that is the old one."""
        return {"status": self.versions.version_state(self._is_visible(self._open_dataset(call)))}

    def get_dataset(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell all about a dataset; 403 while its first version is processed, when only the status is told.

        So kagglehub's own suite waits: it takes an answer for a dataset that takes a second version.
        """
        record = self._open_dataset(call)
        key = _key_of(record)
        if not self.versions.newest_version(key, ready=True) and self.versions.has_unfinished(key):
            raise ServiceRefusal(403, "Permission 'datasets.get' was denied")
        return self._describe_dataset(record)

    def list_dataset_files(self, call: RpcCall) -> Mapping[str, Any]:
        """List the files of a version, the newest READY one unless a number is given."""
        key, version = self._find_version(call)
        created = wire.format_time(version["created"])
        listing = [
            {"name": name, "totalBytes": size, "creationDate": created, "ref": name}
            for name, size in self.versions.list_files(key, version)
        ]
        page, following = wire.slice_page(listing, call.body)
        return {"datasetFiles": page, "nextPageToken": following}

    def list_tree_files(self, call: RpcCall) -> Mapping[str, Any]:
        """List what lies directly in one folder of a version."""
        key, version = self._find_version(call)
        below = f"{call.text_field('path').strip('/')}/".lstrip("/")
        inside = [
            (name.removeprefix(below), size)
            for name, size in self.versions.list_files(key, version)
            if name.startswith(below)
        ]
        folders = dict.fromkeys(name.partition("/")[0] for name, _ in inside if "/" in name)
        entries: list[dict[str, Any]] = [{"name": name, "relativeUrl": below + name} for name in folders]
        entries += [
            {
                "name": name,
                "relativeUrl": below + name,
                "totalBytes": size,
                "creationDate": wire.format_time(version["created"]),
            }
            for name, size in inside
            if "/" not in name
        ]
        page, following = wire.slice_page(entries, call.body)
        return {
            "directories": [entry for entry in page if "totalBytes" not in entry],
            "files": [entry for entry in page if "totalBytes" in entry],
            "totalDirectories": len(folders),
            "totalFiles": len(entries) - len(folders),
            "totalChildren": len(entries),
            "nextPageToken": following,
        }

    def get_metadata(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell what `datasets metadata` writes to a file."""
        record = self._open_dataset(call)
        info = {
            "datasetId": record["id"],
            "datasetSlug": record["slug"],
            "ownerUser": record["owner"],
            "title": record["title"],
            "subtitle": record["subtitle"],
            "description": record["description"],
            "isPrivate": record["private"],
            "licenses": [{"name": record["license"]}],
            "keywords": _keyword_tags(record),
            "collaborators": record.get("collaborators", []),
            "data": [],
            **{name: record.get(name, "") for name in _MORE},
        }
        return {"info": info}

    def update_metadata(self, call: RpcCall) -> Mapping[str, Any]:
        """Change title, texts and privacy; without `isPrivate` the dataset becomes public, as asked."""
        record = self._own_dataset(call, "update")
        settings = call.body.get("settings") or {}
        for name in ("title", "subtitle", "description", *_MORE):
            record[name] = wire.text_field(settings, name) or record.get(name, "")
        for name in ("keywords", "collaborators"):
            record[name] = wire.list_field(settings, name) or record.get(name, [])
        for licence in wire.list_field(settings, "licenses")[:1]:
            record["license"] = wire.text_field(licence, "name") or record["license"]
        record["private"] = bool(settings.get("isPrivate"))
        self.store.write_record(record, *_key_of(record))
        return {}

    def delete_dataset(self, call: RpcCall) -> Mapping[str, Any]:
        """Remove a dataset with all of its versions."""
        record = self._own_dataset(call, "delete")
        self.versions.wait_for_processing()
        self.store.delete_record(*_key_of(record))
        return {}

    def list_datasets(self, call: RpcCall) -> Mapping[str, Any]:
        """List one's own datasets, or those that one may see."""
        listing = wire.ListingRules[Record](
            filters={
                "group": lambda record, word: _in_group(record, word.rpartition("_GROUP_")[2], call.user),
                "user": lambda record, name: bool(record["owner"] == name.lower()),
                "search": lambda record, words: wire.matches_search(
                    words, *(record[name] for name in _SEARCHED)
                ),
                "tagIds": lambda record, tags: set(tags.split(",")) <= set(_keyword_tags(record)),
                "license": lambda record, word: word.endswith(_licence_group(record["license"])),
                "fileType": lambda record, word: any(
                    name.lower().endswith(_FILE_TYPES.get(word.rpartition("_GROUP_")[2], ()))
                    for name, _ in self._shown_files(record)
                ),
                "minSize": lambda record, size: self._total_bytes(record) >= int(size),
                "maxSize": lambda record, size: self._total_bytes(record) <= int(size),
            },
            orders={
                "_UPDATED": lambda record: -self._is_visible(record)["created"],
                "_ACTIVE": lambda record: -self._is_visible(record)["created"],
                "_PUBLISHED": lambda record: -record["created"],
            },
        )
        visible = (
            record
            for record in self._all_records()
            if self._may_see(record, call.user) and self.versions.newest_version(_key_of(record))
        )
        page, following = listing.page_of_things(visible, call.body)
        return {"datasets": [self._describe_dataset(record) for record in page], "nextPageToken": following}

    def download_dataset(self, call: RpcCall) -> HttpAnswer:
        """Send to the link of one file, or of a zip of all."""
        key, version = self._find_version(call)
        return self.send_version(call, key, version, call.text_field("fileName"))

    def mounted_version(self, ref: str, user: str) -> tuple[str, Path] | None:
        """Return place and folder of what a notebook of this user gets for "owner/slug[/version]".

        The newest READY version, whichever the reference names, as on Kaggle; None if there is none.
        """
        owner, _, slug = "/".join(ref.split("/")[:2]).partition("/")
        record = self.store.read(*_store_key(owner, slug)) if owner and slug else None
        if record is None or not self._may_see(record, user):
            return None
        version = self.versions.newest_version(_key_of(record), ready=True)
        if version is None:
            return None
        folder = f"datasets/{record['owner']}/{record['slug']}"
        return folder, self.versions.version_folder(_key_of(record), version)

    def is_taken(self, owner: str, slug: str) -> bool:
        """Tell whether a dataset has this name."""
        return self.store.read(*_store_key(owner, slug)) is not None

    def resume_processing(self) -> None:
        """Go on with what was being processed when the server ended."""
        for record in self._all_records():
            self.versions.resume_processing(_key_of(record))

    def _find_version(self, call: RpcCall) -> tuple[Key, Record]:
        key = _key_of(self._open_dataset(call))
        if number := call.int_field("datasetVersionNumber"):
            return key, self.versions.get_version(key, number)
        version = self.versions.newest_version(key, ready=True) or self.versions.newest_version(key)
        if version is None:
            raise ServiceRefusal(403, "Permission 'datasets.get' was denied")
        return key, version

    def _is_visible(self, record: Record) -> Record:
        version = self.versions.newest_version(_key_of(record))
        if version is None:
            raise ServiceRefusal(403, "Permission 'datasets.get' was denied")
        return version

    def _open_dataset(self, call: RpcCall) -> Record:
        """Return a dataset that the caller may see by now; anything else is 403, as on Kaggle."""
        record = self._read_record(call)
        if record is None or not self._may_see(record, call.user):
            raise ServiceRefusal(403, "Permission 'datasets.get' was denied")
        self._is_visible(record)
        return record

    def _own_dataset(self, call: RpcCall, right: str) -> Record:
        record = self._read_record(call)
        if record is None or record["owner"] != call.user:
            raise ServiceRefusal(403, f"Permission 'datasets.{right}' was denied")
        return record

    def _read_record(self, call: RpcCall) -> Record | None:
        owner, slug = call.text_field("ownerSlug") or call.user, call.text_field("datasetSlug")
        return self.store.read(*_store_key(owner, slug)) if owner and slug else None

    def _by_id(self, number: int) -> Record | None:
        return next((record for record in self._all_records() if record["id"] == number), None)

    def _all_records(self) -> Iterator[Record]:
        for owner in self.store.key_names("datasets"):
            yield from self.store.iter_records("datasets", owner)

    def _may_see(self, record: Record, user: str) -> bool:
        return not record["private"] or record["owner"] == user

    def _shown_files(self, record: Record) -> list[tuple[str, int]]:
        return self.versions.list_files(_key_of(record), self._is_visible(record))

    def _total_bytes(self, record: Record) -> int:
        return sum(size for _, size in self._shown_files(record))

    def _describe_dataset(self, record: Record) -> dict[str, Any]:
        key = _key_of(record)
        version = self._is_visible(record)
        failed = self.versions.settings.numbers_failed and not self.versions.has_unfinished(key)
        numbered = failed or self.versions.newest_version(key, ready=True)
        versions = [
            {
                "versionNumber": number,
                "creationDate": wire.format_time(version_record["created"]),
                "creatorName": record["owner"],
                "creatorRef": record["owner"],
                "versionNotes": version_record.get("notes", ""),
                "status": self.versions.version_state(version_record).capitalize(),
            }
            for number in self.versions.version_numbers(key)
            if (version_record := self.store.read(*key, "versions", str(number)))
            and self.versions.is_visible(version_record)
        ]
        return {
            "id": record["id"],
            "ref": f"{record['owner']}/{record['slug']}",
            "title": record["title"],
            "subtitle": record["subtitle"],
            "description": record["description"],
            "ownerName": record["owner"],
            "ownerRef": record["owner"],
            "creatorName": record["owner"],
            "url": _dataset_url(record),
            "isPrivate": record["private"],
            "licenseName": record["license"],
            "lastUpdated": wire.format_time(version["created"]),
            "totalBytes": self._total_bytes(record),
            "tags": [{"ref": word, "name": word} for word in _keyword_tags(record)],
            **({"currentVersionNumber": version["number"]} if numbered else {}),
            "versions": versions,
        }


def _keyword_tags(record: Record) -> list[str]:
    return [str(word) for word in record.get("keywords", [])]


def _in_group(record: Record, group: str, user: str) -> bool:
    """Tell whether a dataset that one may see is in a group: "MY", "MY_PRIVATE", "USER" ..."""
    if group in ("PUBLIC", "USER"):
        return True
    private = bool(record["private"])
    return record["owner"] == user and group in ("MY", "MY_PRIVATE" if private else "MY_PUBLIC")


def _licence_group(name: str) -> str:
    """Return the last word of the group of licences that one belongs to."""
    word = name.upper()
    groups = {"CC": "_CC", "GPL": "_GPL", "LGPL": "_GPL", "AGPL": "_GPL", "ODB": "_ODB", "DBCL": "_ODB"}
    return next((group for start, group in groups.items() if word.startswith(start)), "_OTHER")


def _store_key(owner: str, slug: str) -> Key:
    return ("datasets", owner, slug)


def _key_of(record: Record) -> Key:
    return _store_key(record["owner"], record["slug"])


def _dataset_url(record: Record) -> str:
    return f"{wire.HERE}/datasets/{record['owner']}/{record['slug']}"


def _accepted_answer(record: Record) -> dict[str, Any]:
    ref = f"/{record['owner']}/{record['slug']}"
    return {"ref": ref, "url": _dataset_url(record), "status": "Ok", "error": "", "invalidTags": []}


def _refused_answer(reason: str) -> dict[str, Any]:
    return {"status": "Error", "error": reason, "invalidTags": []}
