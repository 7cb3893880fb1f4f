"""Keras: models of model.save (.keras, .h5), weights alone (.weights.h5), and SavedModel folders."""

import json
import mmap
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework, newer_than_reader
from offline_kit.project.types import CheckpointKind, Finding, Member, Severity

_SAVED_MODEL = "saved_model.pb"
_H5_VERSION = re.compile(rb"(?<![\w.])([23]\.\d{1,2}\.\d{1,2})(?:-tf)?(?=\x00|tensorflow|jax|torch)")
_TF_VERSION = re.compile(rb"\x2a([\x05-\x09])(\d\.\d{1,2}\.\d{1,3})")
"""Field 5 of the file's head, with its length."""
_INPUTS = re.compile(rb'("InputLayer".+?"InputLayer")', re.DOTALL)
_LOOKED_AT = 64 << 20
"""Bytes of an HDF5 file: its attributes are written before the weights."""
_OWN_MODULES = ("keras", "builtins", "tensorflow", "numpy")


def claims(path: Path, sniffed: Sniffed) -> float:
    """Claim .keras archives, SavedModel folders, and HDF5 files that Keras wrote."""
    if path.is_dir():
        return SURE if (path / _SAVED_MODEL).is_file() else 0.0
    if sniffed.kind is CheckpointKind.HDF5:
        own = (
            path.name.endswith(".weights.h5")
            or _in_h5(path, b"keras_version")
            or _in_h5(path, b"layer_names")
        )
        return SURE if own else 0.0
    return SURE if sniffed.kind is CheckpointKind.KERAS else 0.0


def version(member: Member) -> str:
    """Return the version of Keras that a file states; a SavedModel states TensorFlow's alone: empty."""
    if member.path.is_dir():
        return ""
    if zipfile.is_zipfile(member.path):
        said = _json(member.path, "metadata.json").get("keras_version", "")
        return str(said).removesuffix("-tf")
    found = _h5_search(member.path, _H5_VERSION)
    return found.decode() if found else ""


def judge(trained: Version, reads: Version) -> Severity | None:
    """Warn of files of a newer Keras 3; those of Keras 2 have words of their own."""
    return newer_than_reader(trained, reads) if trained.major > 2 else None


def fits(member: Member, versions: Mapping[str, str]) -> tuple[Finding, ...]:
    """Return what it means that a file is Keras 2's, or a SavedModel a newer TensorFlow's."""
    here = versions.get("keras", "")
    if (
        member.version_said
        and file_probe.release(member.version)[:1] == (2,)
        and file_probe.release(here)[:1] == (3,)
    ):
        what = f"is of Keras {member.version}, and the notebook has {here}, which does not know all that Keras 2 wrote"
        remedy = (
            "load it once with tf_keras and save it again with Keras 3 as .keras, or name the function that builds "
            'it: model = "src/model.py:build"'
        )
        return (file_probe.warn(member, what, remedy),)
    saved, there = tensorflow_version(member), versions.get("tensorflow", "")
    if file_probe.release(saved) <= file_probe.release(there) or not there:
        return ()
    what = f"is a SavedModel of TensorFlow {saved}, and the notebook has {there}"
    return (
        file_probe.warn(member, what, f"export it with tensorflow=={there}, or save the model as .keras"),
    )


def tensorflow_version(member: Member) -> str:
    """Return the version of TensorFlow that wrote a SavedModel; empty for other files."""
    if not member.path.is_dir():
        return ""
    found = _TF_VERSION.search((member.path / _SAVED_MODEL).read_bytes())
    return found[2][: found[1][0]].decode() if found else ""


def by_position(member: Member) -> bool:
    """Whether it has one input for all columns; several take one each, by their names."""
    if member.path.is_file() and zipfile.is_zipfile(member.path):
        return json.dumps(_json(member.path, "config.json")).count('"InputLayer"') < 2
    return not (member.path.is_file() and _h5_search(member.path, _INPUTS))


def findings(member: Member) -> tuple[Finding, ...]:
    """Return what a model needs besides its file: the code that builds it, classes of yours, trust in lambdas."""
    if member.path.is_dir():
        whole = (member.path / "variables" / "variables.index").is_file()
        remedy = "ship the whole folder: saved_model.pb, variables/ and assets/"
        return () if whole else (file_probe.stop(member, "is a SavedModel without its variables", remedy),)
    if zipfile.is_zipfile(member.path):
        return _of_config(member, _json(member.path, "config.json"))
    if member.model:
        return ()  # the user's code builds it; nothing but the weights is read
    if _in_h5(member.path, b'"__lambda__"'):
        return _refused(member)
    if not _in_h5(member.path, b"model_config"):
        remedy = 'name the function that builds the model: model = "src/model.py:build", or save it whole'
        return (file_probe.stop(member, "holds weights alone", f"{remedy}: model.save('model.keras')"),)
    return ()


def _of_config(member: Member, config: dict[str, Any]) -> tuple[Finding, ...]:
    if member.model:
        return ()  # the user's code builds it; the configuration in the file is not read
    found = []
    classes, lambdas = _foreign(config)
    if classes:
        what = f"holds classes that are not Keras' own: {', '.join(sorted(classes))}"
        remedy = (
            'name the function that builds the model, and its weights are read: model = "src/model.py:build"'
        )
        found.append(file_probe.warn(member, what, remedy))
    return (*found, *_refused(member)) if lambdas else tuple(found)


def _refused(member: Member) -> tuple[Finding, ...]:
    if member.params.get("safe_mode") is False:
        return ()
    what = "has a Lambda layer, whose code lies in the file: Keras refuses to run it"
    remedy = "if you made the file yourself, set safe_mode = false in the `params` of its `models` entry"
    return (file_probe.stop(member, what, remedy),)


def _foreign(node: Any) -> tuple[set[str], bool]:
    classes: set[str] = set()
    lambdas = False
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            name, module = each.get("class_name"), each.get("module")
            lambdas |= name == "__lambda__"
            registered = each.get("registered_name")
            strange = isinstance(module, str) and not module.startswith(_OWN_MODULES)
            # A class of the training script itself has a registered name and no module.
            if isinstance(name, str) and (strange or (module is None and registered)):
                classes.add(name)
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return classes, lambdas


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(name))
    except (KeyError, ValueError, zipfile.BadZipFile, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _in_h5(path: Path, word: bytes) -> bool:
    return _h5_search(path, re.compile(b"(" + re.escape(word) + b")")) is not None


def _h5_search(path: Path, pattern: re.Pattern[bytes]) -> bytes | None:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = pattern.search(content, 0, min(len(content), _LOOKED_AT))
        return bytes(found[1]) if found else None


def _builds(member: Member) -> bool:
    return bool(member.model)


KERAS = Framework(
    name="keras",
    title="Keras",
    packages=("keras",),
    library="keras",
    claims=claims,
    by_position=by_position,
    findings=findings,
    fits=fits,
    judge=judge,
    version=version,
    params=("activation", "safe_mode"),
    takes_model=True,
    arguments=_builds,
)
