"""Models: a model has variations by framework, a variation has versions; nothing of theirs is unpacked."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.shelf import Shelf
from offline_kit.local_kaggle.store import Record
from offline_kit.local_kaggle.versions import Key
from offline_kit.local_kaggle.wire import Answer, Call, Refusal, Rpc

_SERVICE = "models.ModelApiService/"
_PREFIX = "MODEL_FRAMEWORK_"
_ABOUT_MODEL = ("subtitle", "description", "publishTime", "provenanceSources")
_ABOUT_INSTANCE = (
    *("overview", "usage", "fineTunable", "trainingData", "modelInstanceType", "baseModelInstance"),
    "externalBaseModelUrl",
)
"""What a person tells about a model or a variation, under the names of the service."""


class Models(Shelf):
    """The models of one local Kaggle."""

    def rpcs(self) -> dict[str, Rpc]:
        """Return the calls about models."""
        calls: dict[str, Rpc] = {
            "CreateModel": self.create,
            "UpdateModel": self.update,
            "UpdateModelInstance": self.update_instance,
            "GetModel": self.get,
            "CreateModelInstance": self.create_instance,
            "CreateModelInstanceVersion": self.new_version,
            "GetModelInstance": self.get_instance,
            "ListModelInstanceVersionFiles": self.list_files,
            "DownloadModelInstanceVersion": self.download,
            "ListModels": self.list_all,
            "ListModelInstances": self.list_instances,
            "ListModelInstanceVersions": self.list_versions,
            "DeleteModel": self.delete,
            "DeleteModelInstance": self.delete_instance,
            "DeleteModelInstanceVersion": self.delete_version,
        }
        return {_SERVICE + name: call for name, call in calls.items()}

    def create(self, call: Call) -> Mapping[str, Any]:
        """Make a model without variations; a slug that is taken is an error inside of a 200."""
        owner, slug = call.text("ownerSlug") or call.user, call.text("slug")
        if not call.user or owner.lower() != call.user:
            raise Refusal(403, "Permission 'models.create' was denied")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{2,49}", slug):
            return _refused('Slug can only contain alphanumeric, "-" or "_" characters', 400)
        with self.store.lock:
            if self.store.read("models", owner, slug):
                return _refused(f"The requested slug '{slug}' is already used by a model", 409)
            record = {
                "id": self.store.serial("model"),
                "owner": owner.lower(),
                "slug": slug.lower(),
                "title": call.text("title") or slug,
                "private": call.flag("isPrivate", default=True),
                "created": self.store.now(),
                **_about(call.body, _ABOUT_MODEL),
            }
            self.store.write(record, "models", owner, slug)
        return _accepted(record)

    def get(self, call: Call) -> Mapping[str, Any]:
        """Tell about a model and its variations."""
        record = self._open(call)
        return {**_named(record), "instances": list(self._instances(record))}

    def update(self, call: Call) -> Mapping[str, Any]:
        """Change what the mask names of a model."""
        record = self._mine(call)
        changed = _masked(call.body, (*_ABOUT_MODEL, "title", "isPrivate"))
        private = changed.pop("isPrivate", record["private"])
        record = {**record, **changed, "private": bool(private), "updated": self.store.now()}
        self.store.write(record, "models", record["owner"], record["slug"])
        return _accepted(record)

    def update_instance(self, call: Call) -> Mapping[str, Any]:
        """Change what the mask names of a variation."""
        record = self._mine(call)
        instance, key = self._instance(call, record)
        changed = _masked(call.body, (*_ABOUT_INSTANCE, "licenseName"))
        licence = changed.pop("licenseName", instance["license"])
        self.store.write({**instance, **changed, "license": licence}, *key)
        return {**_accepted(record), "id": instance["id"]}

    def create_instance(self, call: Call) -> Mapping[str, Any]:
        """Make a variation with its first version; one that exists is 409 inside of a 200."""
        record = self._mine(call)
        body = call.body.get("body") or {}
        key = _key(record, wire.text(body, "framework"), wire.text(body, "instanceSlug"))
        with self.store.lock:
            if self.store.read(*key):
                return _refused("The requested slug is already used: this model instance already exists", 409)
            uploads = self.uploads(call, body)
            made: Record = {
                "id": self.store.serial("instance"),
                "framework": wire.text(body, "framework"),
                "slug": key[5],
            }
            made |= {"license": wire.text(body, "licenseName"), **_about(body, _ABOUT_INSTANCE)}
            self.store.write(made, *key)
            self.versions.add(key, uploads, notes="Initial release", stuck=call.stuck)
        return _accepted(record)

    def new_version(self, call: Call) -> Mapping[str, Any]:
        """Make a new version of a variation, a whole snapshot."""
        record = self._mine(call)
        _, key = self._instance(call, record)
        body = call.body.get("body") or {}
        notes = wire.text(body, "versionNotes")
        self.versions.add(key, self.uploads(call, body), notes=notes, stuck=call.stuck)
        return _accepted(record)

    def get_instance(self, call: Call) -> Mapping[str, Any]:
        """Tell about a variation and its newest version."""
        record = self._open(call)
        return self._told(record, self._instance(call, record)[1])

    def list_files(self, call: Call) -> Mapping[str, Any]:
        """List the files of a version."""
        key, version = self._version(call)
        made = wire.stamp(version["created"])
        listing = self.versions.listing(key, version)
        found = [{"name": name, "size": size, "creationDate": made} for name, size in listing]
        page, following = wire.page_of(found, call.body)
        return {"files": page, "nextPageToken": following}

    def download(self, call: Call) -> Answer:
        """Send to the link of one file, or of an archive of all."""
        key, version = self._version(call)
        return self.sent(call, key, version, call.text("path"))

    def delete(self, call: Call) -> Mapping[str, Any]:
        """Remove a model with all that it has."""
        record = self._mine(call)
        self.versions.wait()
        self.store.remove("models", record["owner"], record["slug"])
        return {}

    def delete_instance(self, call: Call) -> Mapping[str, Any]:
        """Remove a variation with all of its versions."""
        _, key = self._instance(call, self._mine(call))
        self.versions.wait()
        self.store.remove(*key)
        return {}

    def delete_version(self, call: Call) -> Mapping[str, Any]:
        """Remove one version; its number is not given again."""
        _, key = self._instance(call, self._mine(call))
        number = int(self.versions.get(key, call.number("versionNumber"))["number"])
        self.versions.wait()
        self.versions.delete(key, number)
        return {}

    def list_all(self, call: Call) -> Mapping[str, Any]:
        """List the models that one may see."""
        seen = [
            record
            for owner in self.store.names("models")
            for record in self.store.records("models", owner)
            if not record["private"] or record["owner"] == call.user
        ]
        page, following = _LISTING.page(seen, call.body)
        return {"models": [_named(record) for record in page], "nextPageToken": following}

    def list_instances(self, call: Call) -> Mapping[str, Any]:
        """List the variations of a model."""
        page, following = wire.page_of(list(self._instances(self._open(call))), call.body)
        return {"instances": page, "nextPageToken": following}

    def list_versions(self, call: Call) -> Mapping[str, Any]:
        """List the versions of a variation that show, the latest first."""
        record = self._open(call)
        instance, key = self._instance(call, record)
        shown = [
            {
                "id": _version_id(instance, number),
                "framework": instance["framework"],
                "url": _url(record),
                "variationSlug": instance["slug"],
                "versionNumber": number,
                "modelTitle": record["title"],
                "isPrivate": record["private"],
                "ownerSlug": record["owner"],
                "modelSlug": record["slug"],
            }
            for number in reversed(self.versions.numbers(key))
            if self.versions.shows(key, number)
        ]
        page, following = wire.page_of(shown, call.body)
        return {"versionList": {"versions": page}, "nextPageToken": following}

    def mounted(self, ref: str, user: str) -> tuple[str, Path] | None:
        """Return place and folder of "owner/model/framework/variation[/version]"; None where there is none."""
        words = ref.split("/")
        if len(words) not in (4, 5) or (len(words) == 5 and not words[4].isdecimal()):
            return None
        record = self.store.read("models", *words[:2])
        if record is None or (record["private"] and record["owner"] != user):
            return None
        key = _key(record, words[2], words[3])
        try:
            version = (
                self.versions.get(key, int(words[4])) if words[4:] else self.versions.newest(key, ready=True)
            )
        except Refusal:
            return None
        if version is None or self.versions.stage(version) != "READY":
            return None
        place = "/".join(("models", record["owner"], record["slug"], key[4], key[5], str(version["number"])))
        return place, self.versions.folder(key, version)

    def resume(self) -> None:
        """Go on with what was being processed when the server ended."""
        for owner in self.store.names("models"):
            for record in self.store.records("models", owner):
                for key in self._keys(record):
                    self.versions.resume(key)

    def _version(self, call: Call) -> tuple[Key, Record]:
        _, key = self._instance(call, self._open(call))
        if wanted := call.number("versionNumber"):
            return key, self.versions.get(key, wanted)
        found = self.versions.newest(key, ready=True)
        if found is None:
            raise Refusal(404, "Model instance version not found")
        return key, found

    def _instance(self, call: Call, record: Record) -> tuple[Record, Key]:
        """Return the variation that a call names; 404 where the model has none such."""
        key = _key(record, call.text("framework"), call.text("instanceSlug"))
        found = self.store.read(*key)
        if found is None:
            raise Refusal(404, "Model instance not found")
        return found, key

    def _open(self, call: Call) -> Record:
        owner, slug = call.text("ownerSlug"), call.text("modelSlug")
        record = self.store.read("models", owner, slug) if owner and slug else None
        if record is None or (record["private"] and record["owner"] != call.user):
            raise Refusal(403, "Permission 'models.get' was denied")
        return record

    def _mine(self, call: Call) -> Record:
        record = self._open(call)
        if record["owner"] != call.user:
            raise Refusal(403, "Permission 'models.update' was denied")
        return record

    def _keys(self, record: Record) -> Iterator[Key]:
        base = ("models", record["owner"], record["slug"], "instances")
        for framework in self.store.names(*base):
            for slug in self.store.names(*base, framework):
                yield (*base, framework, slug)

    def _instances(self, record: Record) -> Iterator[dict[str, Any]]:
        for key in self._keys(record):
            if self.versions.newest(key):
                yield self._told(record, key)

    def _told(self, record: Record, key: Key) -> dict[str, Any]:
        instance = self.store.read(*key)
        version = self.versions.newest(key, ready=True) or self.versions.newest(key)
        if instance is None or version is None:
            raise Refusal(404, "Model instance not found")
        return {
            "id": instance["id"],
            "slug": instance["slug"],
            "framework": instance["framework"],
            "licenseName": instance["license"],
            **_about(instance, _ABOUT_INSTANCE),
            **_base(instance),
            "versionId": _version_id(instance, version["number"]),
            "versionNumber": version["number"],
            "url": _url(record),
            "totalUncompressedBytes": sum(size for _, size in self.versions.listing(key, version)),
        }


_LISTING = wire.Listing[Record](
    filters={
        "owner": lambda record, name: bool(record["owner"] == name.lower()),
        "search": lambda record, words: wire.matches(
            words, *(record.get(name) for name in ("slug", "title", "subtitle", "owner"))
        ),
    },
    orders={
        "_CREATE_TIME": lambda record: -record["id"],
        "_PUBLISH_TIME": lambda record: -record["id"],
        "_UPDATE_TIME": lambda record: -float(record.get("updated") or record.get("created") or 0),
    },
)


def _about(body: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return what is told about a thing under these names, kept as it came."""
    return {name: body[name] for name in names if body.get(name) is not None}


def _masked(body: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the new values of the fields that `updateMask` names; a field that is left out is empty."""
    mask = wire.text(body, "updateMask").split(",")
    empty: Mapping[str, Any] = {"isPrivate": False, "fineTunable": False, "trainingData": []}
    return {name: body.get(name, empty.get(name, "")) for name in names if name in mask}


def _base(instance: Record) -> dict[str, Any]:
    """Return which variation one was made from, "owner/model/framework/variation", as the service tells it."""
    words = str(instance.get("baseModelInstance", "")).split("/")
    if len(words) < 4:
        return {}
    owner, model, framework, variation = words[:4]
    told = {"owner": {"slug": owner}, "modelSlug": model, "framework": framework, "instanceSlug": variation}
    return {"baseModelInstanceInformation": told}


def _key(record: Record, framework: str, slug: str) -> Key:
    """Return the key of a variation; the framework in lower case without what stands between its words."""
    word = framework.upper().removeprefix(_PREFIX).replace("_", "").lower()
    if not word or not slug:
        raise Refusal(400, "Framework and instance slug are needed")
    return ("models", record["owner"], record["slug"], "instances", word, slug.lower())


def _version_id(instance: Record, number: int) -> int:
    return int(instance["id"]) * 1000 + number


def _url(record: Record) -> str:
    return f"{wire.HERE}/models/{record['owner']}/{record['slug']}"


def _named(record: Record) -> dict[str, Any]:
    ref = f"{record['owner']}/{record['slug']}"
    own = {"id": record["id"], "ref": ref, "title": record["title"], "slug": record["slug"]}
    told = {**own, "author": record["owner"], "isPrivate": record["private"], "url": _url(record)}
    return {**told, **_about(record, _ABOUT_MODEL)}


def _accepted(record: Record) -> dict[str, Any]:
    ref = f"/{record['owner']}/{record['slug']}"
    return {"id": record["id"], "ref": ref, "url": _url(record), "error": ""}


def _refused(why: str, code: int) -> dict[str, Any]:
    return {"error": why, "errorCode": code}
