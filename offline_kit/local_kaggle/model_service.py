"""Models: a model has variations by framework, a variation has versions; nothing of theirs is unpacked."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.store import Key, Record
from offline_kit.local_kaggle.versions import VersionedThings
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal, rpc

# What a person tells about a model or a variation, under the names of the service.
_MODEL_TEXTS = ("title", "subtitle", "description", "isPrivate")
_INSTANCE_TEXTS = ("licenseName", "overview", "usage", "fineTunable", "trainingData", "modelInstanceType")
_UNSET: Mapping[str, Any] = {"isPrivate": False, "fineTunable": False, "trainingData": []}


class ModelService(VersionedThings):
    """The models of one local Kaggle."""

    kind = "models"
    verbatim = True

    @rpc("models.ModelApiService/CreateModel")
    def _create_model(self, call: RpcCall) -> Mapping[str, Any]:
        # As on Kaggle, what is wrong with a slug is an error inside of a 200.
        self.check_creator(call)
        slug = call.text("slug")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{2,49}", slug):
            return _refuse('Slug can only contain alphanumeric, "-" or "_" characters', 400)
        with self.store.lock:
            if self.read_record(call.user, slug):
                return _refuse(f"The requested slug '{slug}' is already used by a model", 409)
            facts = {
                **_pick_fields(call.body, _MODEL_TEXTS),
                "title": call.text("title") or slug,
                "id": self.store.next_serial("model"),
                "owner": call.user,
                "slug": slug.lower(),
                "private": call.flag("isPrivate", default=True),
                "created": time.time(),
            }
            record = self.store.write_record(facts, self.kind, call.user, slug)
        return {**self.accept(call, record), "id": record["id"]}

    @rpc("models.ModelApiService/GetModel")
    def _get_model(self, call: RpcCall) -> Mapping[str, Any]:
        record = self._open_model(call)
        return {**self._describe_model(call, record), "instances": list(self._list_instances(call, record))}

    @rpc("models.ModelApiService/UpdateModel")
    def _update_model(self, call: RpcCall) -> Mapping[str, Any]:
        record = self._own_model(call)
        changed = _masked_fields(call, _MODEL_TEXTS)
        private = bool(changed.get("isPrivate", record["private"]))
        self.store.change_record(record, **changed, private=private, updated=time.time())
        return {**self.accept(call, record), "id": record["id"]}

    @rpc("models.ModelApiService/UpdateModelInstance")
    def _update_instance(self, call: RpcCall) -> Mapping[str, Any]:
        record = self._own_model(call)
        instance = self._find_instance(call, record)
        self.store.change_record(instance, **_masked_fields(call, _INSTANCE_TEXTS))
        return {**self.accept(call, record), "id": instance["id"]}

    @rpc("models.ModelApiService/CreateModelInstance")
    def _create_instance(self, call: RpcCall) -> Mapping[str, Any]:
        # One that exists is 409 inside of a 200.
        record = self._own_model(call)
        body = call.inner(call.body.get("body"))
        key = _instance_key(record, body.text("framework"), body.text("instanceSlug"))
        with self.store.lock:
            if self.store.read(*key):
                return _refuse("The requested slug is already used: this model instance already exists", 409)
            uploads = self.blobs.list_uploads(body)
            facts = {
                **_pick_fields(body.body, _INSTANCE_TEXTS),
                "licenseName": body.text("licenseName"),
                "id": self.store.next_serial("instance"),
                "framework": body.text("framework"),
                "slug": key[5],
            }
            instance = self.store.write_record(facts, *key)
            self.add_version(instance, uploads, notes="Initial release", stuck=call.stuck)
        return {**self.accept(call, record), "id": record["id"]}

    @rpc("models.ModelApiService/CreateModelInstanceVersion")
    def _create_version(self, call: RpcCall) -> Mapping[str, Any]:
        record = self._own_model(call)
        instance = self._find_instance(call, record)
        body = call.inner(call.body.get("body"))
        uploads = self.blobs.list_uploads(body)
        self.add_version(instance, uploads, notes=body.text("versionNotes"), stuck=call.stuck)
        return {**self.accept(call, record), "id": record["id"]}

    @rpc("models.ModelApiService/GetModelInstance")
    def _get_instance(self, call: RpcCall) -> Mapping[str, Any]:
        record = self._open_model(call)
        return self._describe_instance(call, record, self._find_instance(call, record))

    @rpc("models.ModelApiService/ListModelInstanceVersionFiles")
    def _list_files(self, call: RpcCall) -> Mapping[str, Any]:
        return wire.list_page(call, "files", self.describe_files(self._find_version(call), "size"))

    @rpc("models.ModelApiService/DownloadModelInstanceVersion")
    def _download_version(self, call: RpcCall) -> HttpAnswer:
        return self.send_version(call, self._find_version(call), call.text("path"))

    @rpc("models.ModelApiService/DeleteModel")
    def _delete_model(self, call: RpcCall) -> Mapping[str, Any]:
        return self.delete_thing(self._own_model(call))

    @rpc("models.ModelApiService/DeleteModelInstance")
    def _delete_instance(self, call: RpcCall) -> Mapping[str, Any]:
        return self.delete_thing(self._find_instance(call, self._own_model(call)))

    @rpc("models.ModelApiService/DeleteModelInstanceVersion")
    def _delete_version(self, call: RpcCall) -> Mapping[str, Any]:
        # The number of a deleted version is not given again.
        instance = self._find_instance(call, self._own_model(call))
        version = self.get_version(instance, call.integer("versionNumber"))
        self.wait_for_processing()
        self.delete_version(version)
        return {}

    @rpc("models.ModelApiService/ListModels")
    def _list_models(self, call: RpcCall) -> Mapping[str, Any]:
        return wire.list_page(
            call,
            "models",
            (record for record in self.all_records() if self.may_see(record, call.user)),
            lambda record: self._describe_model(call, record),
            filters={
                "owner": lambda record, name: bool(record["owner"] == name.lower()),
                "search": wire.matches_search,
            },
            orders={
                "_CREATE_TIME": lambda record: -record["id"],
                "_PUBLISH_TIME": lambda record: -record["id"],
                "_UPDATE_TIME": lambda record: -float(record.get("updated") or record["created"]),
            },
        )

    @rpc("models.ModelApiService/ListModelInstances")
    def _list_all_instances(self, call: RpcCall) -> Mapping[str, Any]:
        return wire.list_page(call, "instances", self._list_instances(call, self._open_model(call)))

    @rpc("models.ModelApiService/ListModelInstanceVersions")
    def _list_versions(self, call: RpcCall) -> Mapping[str, Any]:
        record = self._open_model(call)
        instance = self._find_instance(call, record)
        shared = {
            "framework": instance["framework"],
            "url": self.page_of(call, record),
            "variationSlug": instance["slug"],
            "modelTitle": record["title"],
            "isPrivate": record["private"],
            "ownerSlug": record["owner"],
            "modelSlug": record["slug"],
        }
        entries = (
            {**shared, "id": _version_id(instance, version), "versionNumber": version["number"]}
            for version in self.iter_shown(instance)
        )
        page, following = wire.slice_page(call, entries)
        return {"versionList": {"versions": page}, "nextPageToken": following}

    def mounted_version(self, ref: str, user: str) -> tuple[str, Path] | None:
        """Return place and folder of "owner/model/framework/variation[/version]"; None if there is none."""
        words = ref.split("/")
        record = self.find_mounted(ref, user)
        if not record or len(words) not in (4, 5) or not "".join(words[4:] or ["1"]).isdecimal():
            return None
        instance = self.store.read(*_instance_key(record, words[2], words[3]))
        for version in self.iter_shown(instance) if instance else ():
            # A reference without a version is the latest, as in the API.
            is_wanted = not words[4:] or version["number"] == int(words[4])
            if is_wanted and self.version_state(version) == "READY":
                _, owner, model, _, framework, variation, _, number = version.key
                location = "/".join(("models", owner, model, framework, variation, number))
                return location, self.version_folder(version)
        return None

    def _find_version(self, call: RpcCall) -> Record:
        instance = self._find_instance(call, self._open_model(call))
        if number := call.integer("versionNumber"):
            return self.get_version(instance, number)
        version = self.newest_version(instance, ready=True)
        if version is None:
            raise ServiceRefusal(404, "Model instance version not found")
        return version

    def _find_instance(self, call: RpcCall, record: Record) -> Record:
        """Return the variation that a call names; 404 if the model has none such."""
        key = _instance_key(record, call.text("framework"), call.text("instanceSlug"))
        instance = self.store.read(*key)
        if instance is None:
            raise ServiceRefusal(404, "Model instance not found")
        return instance

    def _open_model(self, call: RpcCall) -> Record:
        return self.open_record(call, call.text("ownerSlug"), call.text("modelSlug"))

    def _own_model(self, call: RpcCall) -> Record:
        return self.require_owner(call, self._open_model(call), "update")

    def versioned_records(self) -> Iterator[Record]:
        """Yield the variations of all models."""
        for record in self.all_records():
            yield from self._instances_of(record)

    def _instances_of(self, record: Record) -> Iterator[Record]:
        for framework in self.store.key_names(*record.key, "instances"):
            yield from self.store.iter_records(*record.key, "instances", framework)

    def _list_instances(self, call: RpcCall, record: Record) -> Iterator[dict[str, Any]]:
        for instance in self._instances_of(record):
            if self.newest_version(instance):
                yield self._describe_instance(call, record, instance)

    def _describe_model(self, call: RpcCall, record: Record) -> dict[str, Any]:
        return {
            **_pick_fields(record, ("id", "slug", *_MODEL_TEXTS)),
            "ref": f"{record['owner']}/{record['slug']}",
            "author": record["owner"],
            "isPrivate": record["private"],
            "url": self.page_of(call, record),
        }

    def _describe_instance(self, call: RpcCall, record: Record, instance: Record) -> dict[str, Any]:
        version = self.newest_version(instance, ready=True) or self.newest_version(instance)
        if version is None:
            raise ServiceRefusal(404, "Model instance not found")
        return {
            **_pick_fields(instance, ("id", "slug", "framework", *_INSTANCE_TEXTS)),
            "versionId": _version_id(instance, version),
            "versionNumber": version["number"],
            "url": self.page_of(call, record),
            "totalUncompressedBytes": sum(size for _, size in self.list_files(version)),
        }


def _instance_key(record: Record, framework: str, slug: str) -> Key:
    """Return the key of a variation; the framework in lower case without what stands between its words."""
    # "pyTorch" in metadata, MODEL_FRAMEWORK_PY_TORCH in requests, and "pytorch" in mounts are one.
    word = framework.upper().removeprefix("MODEL_FRAMEWORK_").replace("_", "").lower()
    if not word or not slug:
        raise ServiceRefusal(400, "Framework and instance slug are needed")
    return (*record.key, "instances", word, slug.lower())


def _pick_fields(body: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return what is told about a thing under these names, kept as it came."""
    return {name: body[name] for name in names if body.get(name) is not None}


def _masked_fields(call: RpcCall, names: Iterable[str]) -> dict[str, Any]:
    """Return the new values of the fields that `updateMask` names; a field that is left out is empty."""
    # The client sends all fields, those that the mask does not name as they were in its file.
    mask = call.text("updateMask").split(",")
    return {name: call.body.get(name, _UNSET.get(name, "")) for name in names if name in mask}


def _version_id(instance: Record, version: Record) -> int:
    return int(instance["id"]) * 1000 + int(version["number"])


def _refuse(why: str, code: int) -> dict[str, Any]:
    return {"error": why, "errorCode": code}
