"""Models: a model has variations by framework, a variation has versions; nothing of theirs is unpacked."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.shelf import VersionedService
from offline_kit.local_kaggle.store import Record
from offline_kit.local_kaggle.versions import Key
from offline_kit.local_kaggle.wire import HttpAnswer, Rpc, RpcCall, ServiceRefusal

_SERVICE = "models.ModelApiService/"
_PREFIX = "MODEL_FRAMEWORK_"
_ABOUT_MODEL = ("subtitle", "description", "publishTime", "provenanceSources")
_ABOUT_INSTANCE = (
    *("overview", "usage", "fineTunable", "trainingData", "modelInstanceType", "baseModelInstance"),
    "externalBaseModelUrl",
)
"""What a person tells about a model or a variation, under the names of the service."""


class ModelService(VersionedService):
    """The models of one local Kaggle."""

    def list_rpcs(self) -> dict[str, Rpc]:
        """Return the calls about models."""
        calls: dict[str, Rpc] = {
            "CreateModel": self.create_model,
            "UpdateModel": self.update_model,
            "UpdateModelInstance": self.update_instance,
            "GetModel": self.get_model,
            "CreateModelInstance": self.create_instance,
            "CreateModelInstanceVersion": self.new_version,
            "GetModelInstance": self.get_instance,
            "ListModelInstanceVersionFiles": self.list_version_files,
            "DownloadModelInstanceVersion": self.download_version,
            "ListModels": self.list_models,
            "ListModelInstances": self.list_instances,
            "ListModelInstanceVersions": self.list_versions,
            "DeleteModel": self.delete_model,
            "DeleteModelInstance": self.delete_instance,
            "DeleteModelInstanceVersion": self.delete_version,
        }
        return {_SERVICE + name: call for name, call in calls.items()}

    def create_model(self, call: RpcCall) -> Mapping[str, Any]:
        """Make a model without variations; a slug that is taken is an error inside of a 200."""
        owner, slug = call.text_field("ownerSlug") or call.user, call.text_field("slug")
        if not call.user or owner.lower() != call.user:
            raise ServiceRefusal(403, "Permission 'models.create' was denied")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{2,49}", slug):
            return _refused_answer('Slug can only contain alphanumeric, "-" or "_" characters', 400)
        with self.store.lock:
            if self.store.read("models", owner, slug):
                return _refused_answer(f"The requested slug '{slug}' is already used by a model", 409)
            record = {
                "id": self.store.next_serial("model"),
                "owner": owner.lower(),
                "slug": slug.lower(),
                "title": call.text_field("title") or slug,
                "private": call.bool_field("isPrivate", default=True),
                "created": self.store.current_time(),
                **_pick_fields(call.body, _ABOUT_MODEL),
            }
            self.store.write_record(record, "models", owner, slug)
        return _accepted_answer(record)

    def get_model(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell about a model and its variations."""
        record = self._open_model(call)
        return {**_instance_name(record), "instances": list(self._list_instances(record))}

    def update_model(self, call: RpcCall) -> Mapping[str, Any]:
        """Change what the mask names of a model."""
        record = self._own_model(call)
        changed = _masked_fields(call.body, (*_ABOUT_MODEL, "title", "isPrivate"))
        private = changed.pop("isPrivate", record["private"])
        record = {**record, **changed, "private": bool(private), "updated": self.store.current_time()}
        self.store.write_record(record, "models", record["owner"], record["slug"])
        return _accepted_answer(record)

    def update_instance(self, call: RpcCall) -> Mapping[str, Any]:
        """Change what the mask names of a variation."""
        record = self._own_model(call)
        instance, key = self._find_instance(call, record)
        changed = _masked_fields(call.body, (*_ABOUT_INSTANCE, "licenseName"))
        licence = changed.pop("licenseName", instance["license"])
        self.store.write_record({**instance, **changed, "license": licence}, *key)
        return {**_accepted_answer(record), "id": instance["id"]}

    def create_instance(self, call: RpcCall) -> Mapping[str, Any]:
        """Make a variation with its first version; one that exists is 409 inside of a 200."""
        record = self._own_model(call)
        body = call.body.get("body") or {}
        key = _instance_key(record, wire.text_field(body, "framework"), wire.text_field(body, "instanceSlug"))
        with self.store.lock:
            if self.store.read(*key):
                return _refused_answer(
                    "The requested slug is already used: this model instance already exists", 409
                )
            uploads = self.collect_uploads(call, body)
            instance: Record = {
                "id": self.store.next_serial("instance"),
                "framework": wire.text_field(body, "framework"),
                "slug": key[5],
            }
            instance |= {
                "license": wire.text_field(body, "licenseName"),
                **_pick_fields(body, _ABOUT_INSTANCE),
            }
            self.store.write_record(instance, *key)
            self.versions.add_version(key, uploads, notes="Initial release", stuck=call.stuck)
        return _accepted_answer(record)

    def new_version(self, call: RpcCall) -> Mapping[str, Any]:
        """Make a new version of a variation, a whole snapshot."""
        record = self._own_model(call)
        _, key = self._find_instance(call, record)
        body = call.body.get("body") or {}
        notes = wire.text_field(body, "versionNotes")
        self.versions.add_version(key, self.collect_uploads(call, body), notes=notes, stuck=call.stuck)
        return _accepted_answer(record)

    def get_instance(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell about a variation and its newest version."""
        record = self._open_model(call)
        return self._describe_instance(record, self._find_instance(call, record)[1])

    def list_version_files(self, call: RpcCall) -> Mapping[str, Any]:
        """List the files of a version."""
        key, version = self._find_version(call)
        created = wire.format_time(version["created"])
        listing = self.versions.list_files(key, version)
        files = [{"name": name, "size": size, "creationDate": created} for name, size in listing]
        page, following = wire.slice_page(files, call.body)
        return {"files": page, "nextPageToken": following}

    def download_version(self, call: RpcCall) -> HttpAnswer:
        """Send to the link of one file, or of an archive of all."""
        key, version = self._find_version(call)
        return self.send_version(call, key, version, call.text_field("path"))

    def delete_model(self, call: RpcCall) -> Mapping[str, Any]:
        """Remove a model with all that it has."""
        record = self._own_model(call)
        self.versions.wait_for_processing()
        self.store.delete_record("models", record["owner"], record["slug"])
        return {}

    def delete_instance(self, call: RpcCall) -> Mapping[str, Any]:
        """Remove a variation with all of its versions."""
        _, key = self._find_instance(call, self._own_model(call))
        self.versions.wait_for_processing()
        self.store.delete_record(*key)
        return {}

    def delete_version(self, call: RpcCall) -> Mapping[str, Any]:
        """Remove one version; its number is not given again."""
        _, key = self._find_instance(call, self._own_model(call))
        number = int(self.versions.get_version(key, call.int_field("versionNumber"))["number"])
        self.versions.wait_for_processing()
        self.versions.delete_version(key, number)
        return {}

    def list_models(self, call: RpcCall) -> Mapping[str, Any]:
        """List the models that one may see."""
        visible = [
            record
            for owner in self.store.key_names("models")
            for record in self.store.iter_records("models", owner)
            if not record["private"] or record["owner"] == call.user
        ]
        page, following = _LISTING.page_of_things(visible, call.body)
        return {"models": [_instance_name(record) for record in page], "nextPageToken": following}

    def list_instances(self, call: RpcCall) -> Mapping[str, Any]:
        """List the variations of a model."""
        page, following = wire.slice_page(list(self._list_instances(self._open_model(call))), call.body)
        return {"instances": page, "nextPageToken": following}

    def list_versions(self, call: RpcCall) -> Mapping[str, Any]:
        """List the versions of a variation that show, the latest first."""
        record = self._open_model(call)
        instance, key = self._find_instance(call, record)
        visible = [
            {
                "id": _version_id(instance, number),
                "framework": instance["framework"],
                "url": _model_url(record),
                "variationSlug": instance["slug"],
                "versionNumber": number,
                "modelTitle": record["title"],
                "isPrivate": record["private"],
                "ownerSlug": record["owner"],
                "modelSlug": record["slug"],
            }
            for number in reversed(self.versions.version_numbers(key))
            if self.versions.is_shown(key, number)
        ]
        page, following = wire.slice_page(visible, call.body)
        return {"versionList": {"versions": page}, "nextPageToken": following}

    def mounted_version(self, ref: str, user: str) -> tuple[str, Path] | None:
        """Return place and folder of "owner/model/framework/variation[/version]"; None if there is none."""
        words = ref.split("/")
        if len(words) not in (4, 5) or (len(words) == 5 and not words[4].isdecimal()):
            return None
        record = self.store.read("models", *words[:2])
        if record is None or (record["private"] and record["owner"] != user):
            return None
        key = _instance_key(record, words[2], words[3])
        try:
            version = (
                self.versions.get_version(key, int(words[4]))
                if words[4:]
                else self.versions.newest_version(key, ready=True)
            )
        except ServiceRefusal:
            return None
        if version is None or self.versions.version_state(version) != "READY":
            return None
        location = "/".join(
            ("models", record["owner"], record["slug"], key[4], key[5], str(version["number"]))
        )
        return location, self.versions.version_folder(key, version)

    def resume_processing(self) -> None:
        """Go on with what was being processed when the server ended."""
        for owner in self.store.key_names("models"):
            for record in self.store.iter_records("models", owner):
                for key in self._instance_keys(record):
                    self.versions.resume_processing(key)

    def _find_version(self, call: RpcCall) -> tuple[Key, Record]:
        _, key = self._find_instance(call, self._open_model(call))
        if number := call.int_field("versionNumber"):
            return key, self.versions.get_version(key, number)
        version = self.versions.newest_version(key, ready=True)
        if version is None:
            raise ServiceRefusal(404, "Model instance version not found")
        return key, version

    def _find_instance(self, call: RpcCall, record: Record) -> tuple[Record, Key]:
        """Return the variation that a call names; 404 if the model has none such."""
        key = _instance_key(record, call.text_field("framework"), call.text_field("instanceSlug"))
        instance = self.store.read(*key)
        if instance is None:
            raise ServiceRefusal(404, "Model instance not found")
        return instance, key

    def _open_model(self, call: RpcCall) -> Record:
        owner, slug = call.text_field("ownerSlug"), call.text_field("modelSlug")
        record = self.store.read("models", owner, slug) if owner and slug else None
        if record is None or (record["private"] and record["owner"] != call.user):
            raise ServiceRefusal(403, "Permission 'models.get' was denied")
        return record

    def _own_model(self, call: RpcCall) -> Record:
        record = self._open_model(call)
        if record["owner"] != call.user:
            raise ServiceRefusal(403, "Permission 'models.update' was denied")
        return record

    def _instance_keys(self, record: Record) -> Iterator[Key]:
        base = ("models", record["owner"], record["slug"], "instances")
        for framework in self.store.key_names(*base):
            for slug in self.store.key_names(*base, framework):
                yield (*base, framework, slug)

    def _list_instances(self, record: Record) -> Iterator[dict[str, Any]]:
        for key in self._instance_keys(record):
            if self.versions.newest_version(key):
                yield self._describe_instance(record, key)

    def _describe_instance(self, record: Record, key: Key) -> dict[str, Any]:
        instance = self.store.read(*key)
        version = self.versions.newest_version(key, ready=True) or self.versions.newest_version(key)
        if instance is None or version is None:
            raise ServiceRefusal(404, "Model instance not found")
        return {
            "id": instance["id"],
            "slug": instance["slug"],
            "framework": instance["framework"],
            "licenseName": instance["license"],
            **_pick_fields(instance, _ABOUT_INSTANCE),
            **_base_instance(instance),
            "versionId": _version_id(instance, version["number"]),
            "versionNumber": version["number"],
            "url": _model_url(record),
            "totalUncompressedBytes": sum(size for _, size in self.versions.list_files(key, version)),
        }


_LISTING = wire.ListingRules[Record](
    filters={
        "owner": lambda record, name: bool(record["owner"] == name.lower()),
        "search": lambda record, words: wire.matches_search(
            words, *(record.get(name) for name in ("slug", "title", "subtitle", "owner"))
        ),
    },
    orders={
        "_CREATE_TIME": lambda record: -record["id"],
        "_PUBLISH_TIME": lambda record: -record["id"],
        "_UPDATE_TIME": lambda record: -float(record.get("updated") or record.get("created") or 0),
    },
)


def _pick_fields(body: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return what is told about a thing under these names, kept as it came."""
    return {name: body[name] for name in names if body.get(name) is not None}


def _masked_fields(body: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the new values of the fields that `updateMask` names; a field that is left out is empty."""
    mask = wire.text_field(body, "updateMask").split(",")
    empty: Mapping[str, Any] = {"isPrivate": False, "fineTunable": False, "trainingData": []}
    return {name: body.get(name, empty.get(name, "")) for name in names if name in mask}


def _base_instance(instance: Record) -> dict[str, Any]:
    """Return which variation one was made from, "owner/model/framework/variation", as the service tells it."""
    words = str(instance.get("baseModelInstance", "")).split("/")
    if len(words) < 4:
        return {}
    owner, model, framework, variation = words[:4]
    description = {
        "owner": {"slug": owner},
        "modelSlug": model,
        "framework": framework,
        "instanceSlug": variation,
    }
    return {"baseModelInstanceInformation": description}


def _instance_key(record: Record, framework: str, slug: str) -> Key:
    """Return the key of a variation; the framework in lower case without what stands between its words."""
    word = framework.upper().removeprefix(_PREFIX).replace("_", "").lower()
    if not word or not slug:
        raise ServiceRefusal(400, "Framework and instance slug are needed")
    return ("models", record["owner"], record["slug"], "instances", word, slug.lower())


def _version_id(instance: Record, number: int) -> int:
    return int(instance["id"]) * 1000 + number


def _model_url(record: Record) -> str:
    return f"{wire.HERE}/models/{record['owner']}/{record['slug']}"


def _instance_name(record: Record) -> dict[str, Any]:
    ref = f"{record['owner']}/{record['slug']}"
    own = {"id": record["id"], "ref": ref, "title": record["title"], "slug": record["slug"]}
    description = {
        **own,
        "author": record["owner"],
        "isPrivate": record["private"],
        "url": _model_url(record),
    }
    return {**description, **_pick_fields(record, _ABOUT_MODEL)}


def _accepted_answer(record: Record) -> dict[str, Any]:
    ref = f"/{record['owner']}/{record['slug']}"
    return {"id": record["id"], "ref": ref, "url": _model_url(record), "error": ""}


def _refused_answer(why: str, code: int) -> dict[str, Any]:
    return {"error": why, "errorCode": code}
