"""Datasets: created privately, versioned as whole snapshots, there only a while after the answer."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.shelf import Shelf
from offline_kit.local_kaggle.store import Record
from offline_kit.local_kaggle.versions import Key
from offline_kit.local_kaggle.wire import Answer, Call, Refusal, Rpc
from offline_kit.project.kaggle_names import title_problems

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


class Datasets(Shelf):
    """The datasets of one local Kaggle."""

    def rpcs(self) -> dict[str, Rpc]:
        """Return the calls about datasets."""
        calls: dict[str, Rpc] = {
            "CreateDataset": self.create,
            "CreateDatasetVersion": self.new_version,
            "CreateDatasetVersionById": self.new_version,
            "GetDatasetStatus": self.status,
            "GetDataset": self.get,
            "ListDatasetFiles": self.list_files,
            "ListTreeDatasetFiles": self.list_tree,
            "GetDatasetMetadata": self.metadata,
            "UpdateDatasetMetadata": self.update,
            "DeleteDataset": self.delete,
            "ListDatasets": self.list_all,
            "DownloadDataset": self.download,
        }
        return {_SERVICE + name: call for name, call in calls.items()}

    def create(self, call: Call) -> Mapping[str, Any]:
        """Make a dataset with its first version; a name that is taken is an error inside of a 200."""
        owner, slug, title = call.text("ownerSlug") or call.user, call.text("slug"), call.text("title")
        if not call.user or owner.lower() != call.user:
            raise Refusal(403, "Permission 'datasets.create' was denied")
        if not re.fullmatch(r"[A-Za-z0-9-]{3,50}", slug):
            return _refused('Slug can only contain alphanumeric or "-" characters')
        if title_problems(title):
            return _refused("The dataset title must be between 6 and 50 characters")
        uploads = self.uploads(call, call.body)
        key = _key(owner, slug)
        with self.store.lock:
            if self.store.read(*key):
                words = f'The requested title "{title}" is already in use by a dataset.'
                return _refused(f"{words} Please choose another title.")
            record = {
                "id": self.store.serial("dataset"),
                "owner": call.user,
                "slug": slug.lower(),
                "title": title,
                "private": call.flag("isPrivate"),
                "license": call.text("licenseName") or "unknown",
                "subtitle": call.text("subtitle"),
                "description": call.text("description"),
                "keywords": call.texts("categoryIds"),
                "created": self.store.now(),
            }
            self.store.write(record, *key)
            self.versions.add(key, uploads, notes="Initial release", stuck=call.stuck)
        return _accepted(record)

    def new_version(self, call: Call) -> Mapping[str, Any]:
        """Make a new version: a whole snapshot; nothing of the one before is taken over."""
        record = self._by_id(call.number("id")) if call.body.get("id") else self._read(call)
        if record is None or record["owner"] != call.user:
            raise Refusal(403, "Permission 'datasets.update' was denied")
        body = call.body.get("body") or {}
        uploads = self.uploads(call, body)
        key = _key_of(record)
        with self.store.lock:
            first = self.versions.numbers(key) == [1]
            if first and self.versions.unfinished(key):
                raise Refusal(403, "Permission 'datasets.update' was denied")
            for name in ("subtitle", "description"):
                record[name] = wire.text(body, name) or record[name]
            record["keywords"] = wire.items(body, "categoryIds") or _keywords(record)
            self.store.write(record, *key)
            notes = wire.text(body, "versionNotes")
            number = self.versions.add(key, uploads, notes=notes, stuck=call.stuck)
            if body.get("deleteOldVersions"):
                self.versions.delete_older(key, number)
        return _accepted(record)

    def status(self, call: Call) -> Mapping[str, Any]:
        """Tell the state of the newest version that shows: shortly after an upload that is the old one."""
        return {"status": self.versions.stage(self._shown(self._open(call)))}

    def get(self, call: Call) -> Mapping[str, Any]:
        """Tell all about a dataset; 403 while its first version is processed, when only the status is told.

        So kagglehub's own suite waits: it takes an answer for a dataset that takes a second version.
        """
        record = self._open(call)
        key = _key_of(record)
        if not self.versions.newest(key, ready=True) and self.versions.unfinished(key):
            raise Refusal(403, "Permission 'datasets.get' was denied")
        return self._told(record)

    def list_files(self, call: Call) -> Mapping[str, Any]:
        """List the files of a version, the newest READY one unless a number is given."""
        key, version = self._version(call)
        made = wire.stamp(version["created"])
        listing = [
            {"name": name, "totalBytes": size, "creationDate": made, "ref": name}
            for name, size in self.versions.listing(key, version)
        ]
        page, following = wire.page_of(listing, call.body)
        return {"datasetFiles": page, "nextPageToken": following}

    def list_tree(self, call: Call) -> Mapping[str, Any]:
        """List what lies directly in one folder of a version."""
        key, version = self._version(call)
        below = f"{call.text('path').strip('/')}/".lstrip("/")
        inside = [
            (name.removeprefix(below), size)
            for name, size in self.versions.listing(key, version)
            if name.startswith(below)
        ]
        folders = dict.fromkeys(name.partition("/")[0] for name, _ in inside if "/" in name)
        found: list[dict[str, Any]] = [{"name": name, "relativeUrl": below + name} for name in folders]
        found += [
            {
                "name": name,
                "relativeUrl": below + name,
                "totalBytes": size,
                "creationDate": wire.stamp(version["created"]),
            }
            for name, size in inside
            if "/" not in name
        ]
        page, following = wire.page_of(found, call.body)
        return {
            "directories": [each for each in page if "totalBytes" not in each],
            "files": [each for each in page if "totalBytes" in each],
            "totalDirectories": len(folders),
            "totalFiles": len(found) - len(folders),
            "totalChildren": len(found),
            "nextPageToken": following,
        }

    def metadata(self, call: Call) -> Mapping[str, Any]:
        """Tell what `datasets metadata` writes to a file."""
        record = self._open(call)
        info = {
            "datasetId": record["id"],
            "datasetSlug": record["slug"],
            "ownerUser": record["owner"],
            "title": record["title"],
            "subtitle": record["subtitle"],
            "description": record["description"],
            "isPrivate": record["private"],
            "licenses": [{"name": record["license"]}],
            "keywords": _keywords(record),
            "collaborators": record.get("collaborators", []),
            "data": [],
            **{name: record.get(name, "") for name in _MORE},
        }
        return {"info": info}

    def update(self, call: Call) -> Mapping[str, Any]:
        """Change title, texts and privacy; without `isPrivate` the dataset becomes public, as asked."""
        record = self._mine(call, "update")
        settings = call.body.get("settings") or {}
        for name in ("title", "subtitle", "description", *_MORE):
            record[name] = wire.text(settings, name) or record.get(name, "")
        for name in ("keywords", "collaborators"):
            record[name] = wire.items(settings, name) or record.get(name, [])
        for licence in wire.items(settings, "licenses")[:1]:
            record["license"] = wire.text(licence, "name") or record["license"]
        record["private"] = bool(settings.get("isPrivate"))
        self.store.write(record, *_key_of(record))
        return {}

    def delete(self, call: Call) -> Mapping[str, Any]:
        """Remove a dataset with all of its versions."""
        record = self._mine(call, "delete")
        self.versions.wait()
        self.store.remove(*_key_of(record))
        return {}

    def list_all(self, call: Call) -> Mapping[str, Any]:
        """List one's own datasets, or those that one may see."""
        listing = wire.Listing[Record](
            filters={
                "group": lambda record, word: _in_group(record, word.rpartition("_GROUP_")[2], call.user),
                "user": lambda record, name: bool(record["owner"] == name.lower()),
                "search": lambda record, words: wire.matches(words, *(record[name] for name in _SEARCHED)),
                "tagIds": lambda record, tags: set(tags.split(",")) <= set(_keywords(record)),
                "license": lambda record, word: word.endswith(_licence_group(record["license"])),
                "fileType": lambda record, word: any(
                    name.lower().endswith(_FILE_TYPES.get(word.rpartition("_GROUP_")[2], ()))
                    for name, _ in self._shown_files(record)
                ),
                "minSize": lambda record, size: self._size(record) >= int(size),
                "maxSize": lambda record, size: self._size(record) <= int(size),
            },
            orders={
                "_UPDATED": lambda record: -self._shown(record)["created"],
                "_ACTIVE": lambda record: -self._shown(record)["created"],
                "_PUBLISHED": lambda record: -record["created"],
            },
        )
        seen = (
            record
            for record in self._all()
            if self._may_see(record, call.user) and self.versions.newest(_key_of(record))
        )
        page, following = listing.page(seen, call.body)
        return {"datasets": [self._told(record) for record in page], "nextPageToken": following}

    def download(self, call: Call) -> Answer:
        """Send to the link of one file, or of a zip of all."""
        key, version = self._version(call)
        return self.sent(call, key, version, call.text("fileName"))

    def mounted(self, ref: str, user: str) -> tuple[str, Path] | None:
        """Return place and folder of what a notebook of this user gets for "owner/slug[/version]".

        The newest READY version, whichever the reference names, as on Kaggle; None where there is none.
        """
        owner, _, slug = "/".join(ref.split("/")[:2]).partition("/")
        record = self.store.read(*_key(owner, slug)) if owner and slug else None
        if record is None or not self._may_see(record, user):
            return None
        version = self.versions.newest(_key_of(record), ready=True)
        if version is None:
            return None
        place = f"datasets/{record['owner']}/{record['slug']}"
        return place, self.versions.folder(_key_of(record), version)

    def taken(self, owner: str, slug: str) -> bool:
        """Tell whether a dataset has this name."""
        return self.store.read(*_key(owner, slug)) is not None

    def resume(self) -> None:
        """Go on with what was being processed when the server ended."""
        for record in self._all():
            self.versions.resume(_key_of(record))

    def _version(self, call: Call) -> tuple[Key, Record]:
        key = _key_of(self._open(call))
        if wanted := call.number("datasetVersionNumber"):
            return key, self.versions.get(key, wanted)
        found = self.versions.newest(key, ready=True) or self.versions.newest(key)
        if found is None:
            raise Refusal(403, "Permission 'datasets.get' was denied")
        return key, found

    def _shown(self, record: Record) -> Record:
        found = self.versions.newest(_key_of(record))
        if found is None:
            raise Refusal(403, "Permission 'datasets.get' was denied")
        return found

    def _open(self, call: Call) -> Record:
        """Return a dataset that the caller may see by now; anything else is 403, as on Kaggle."""
        record = self._read(call)
        if record is None or not self._may_see(record, call.user):
            raise Refusal(403, "Permission 'datasets.get' was denied")
        self._shown(record)
        return record

    def _mine(self, call: Call, right: str) -> Record:
        record = self._read(call)
        if record is None or record["owner"] != call.user:
            raise Refusal(403, f"Permission 'datasets.{right}' was denied")
        return record

    def _read(self, call: Call) -> Record | None:
        owner, slug = call.text("ownerSlug") or call.user, call.text("datasetSlug")
        return self.store.read(*_key(owner, slug)) if owner and slug else None

    def _by_id(self, number: int) -> Record | None:
        return next((record for record in self._all() if record["id"] == number), None)

    def _all(self) -> Iterator[Record]:
        for owner in self.store.names("datasets"):
            yield from self.store.records("datasets", owner)

    def _may_see(self, record: Record, user: str) -> bool:
        return not record["private"] or record["owner"] == user

    def _shown_files(self, record: Record) -> list[tuple[str, int]]:
        return self.versions.listing(_key_of(record), self._shown(record))

    def _size(self, record: Record) -> int:
        return sum(size for _, size in self._shown_files(record))

    def _told(self, record: Record) -> dict[str, Any]:
        key = _key_of(record)
        shown = self._shown(record)
        failed = self.versions.settings.numbers_failed and not self.versions.unfinished(key)
        numbered = failed or self.versions.newest(key, ready=True)
        versions = [
            {
                "versionNumber": number,
                "creationDate": wire.stamp(each["created"]),
                "creatorName": record["owner"],
                "creatorRef": record["owner"],
                "versionNotes": each.get("notes", ""),
                "status": self.versions.stage(each).capitalize(),
            }
            for number in self.versions.numbers(key)
            if (each := self.store.read(*key, "versions", str(number))) and self.versions.visible(each)
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
            "url": _url(record),
            "isPrivate": record["private"],
            "licenseName": record["license"],
            "lastUpdated": wire.stamp(shown["created"]),
            "totalBytes": self._size(record),
            "tags": [{"ref": word, "name": word} for word in _keywords(record)],
            **({"currentVersionNumber": shown["number"]} if numbered else {}),
            "versions": versions,
        }


def _keywords(record: Record) -> list[str]:
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
    known = {"CC": "_CC", "GPL": "_GPL", "LGPL": "_GPL", "AGPL": "_GPL", "ODB": "_ODB", "DBCL": "_ODB"}
    return next((group for start, group in known.items() if word.startswith(start)), "_OTHER")


def _key(owner: str, slug: str) -> Key:
    return ("datasets", owner, slug)


def _key_of(record: Record) -> Key:
    return _key(record["owner"], record["slug"])


def _url(record: Record) -> str:
    return f"{wire.HERE}/datasets/{record['owner']}/{record['slug']}"


def _accepted(record: Record) -> dict[str, Any]:
    ref = f"/{record['owner']}/{record['slug']}"
    return {"ref": ref, "url": _url(record), "status": "Ok", "error": "", "invalidTags": []}


def _refused(why: str) -> dict[str, Any]:
    return {"status": "Error", "error": why, "invalidTags": []}
