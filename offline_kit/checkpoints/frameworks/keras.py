"""Keras: models of model.save (.keras, .h5), weights alone (.weights.h5), and SavedModel folders."""

import json
import mmap
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework, judge_newer
from offline_kit.project.types import CheckpointKind, Finding, Member, Severity

_SAVED_MODEL = "saved_model.pb"
_H5_VERSION = re.compile(rb"(?<![\w.])([23]\.\d{1,2}\.\d{1,2})(?:-tf)?(?=\x00|tensorflow|jax|torch)")
_TF_VERSION = re.compile(rb"\x2a([\x05-\x09])(\d\.\d{1,2}\.\d{1,3})")
"""Field 5 of the file's head, with its length."""
_INPUTS = re.compile(rb'("InputLayer".+?"InputLayer")', re.DOTALL)
_MAX_SEARCHED = 64 << 20
"""Bytes of an HDF5 file: its attributes precede the weights."""
_OWN_MODULES = ("keras", "builtins", "tensorflow", "numpy")


def score_match(path: Path, sniffed: ClassifiedFile) -> float:
    """Match .keras archives, SavedModel folders, and HDF5 files that Keras wrote."""
    if path.is_dir():
        return SURE if (path / _SAVED_MODEL).is_file() else 0.0
    if sniffed.kind is CheckpointKind.HDF5:
        own = (
            path.name.endswith(".weights.h5")
            or _is_in_h5(path, b"keras_version")
            or _is_in_h5(path, b"layer_names")
        )
        return SURE if own else 0.0
    return SURE if sniffed.kind is CheckpointKind.KERAS else 0.0


def read_version(member: Member) -> str:
    """Return the version of Keras in a file; empty for a SavedModel, which states TensorFlow's alone."""
    if member.path.is_dir():
        return ""
    if zipfile.is_zipfile(member.path):
        stated = _read_json(member.path, "metadata.json").get("keras_version", "")
        return str(stated).removesuffix("-tf")
    match = _search_h5(member.path, _H5_VERSION)
    return match.decode() if match else ""


def judge_version(trained: Version, reads: Version) -> Severity | None:
    """Warn of files of a newer Keras 3; `check_versions` handles those of Keras 2."""
    return judge_newer(trained, reads) if trained.major > 2 else None


def check_versions(member: Member, versions: Mapping[str, str]) -> tuple[Finding, ...]:
    """Warn of a file of Keras 2, and of a SavedModel of a newer TensorFlow.

    https://keras.io/keras_3/: Keras 3 does not load everything that Keras 2 saved.
    """
    keras_version = versions.get("keras", "")
    if (
        member.version_said
        and file_probe.parse_release(member.version)[:1] == (2,)
        and file_probe.parse_release(keras_version)[:1] == (3,)
    ):
        problem = f"is of Keras {member.version}, and the notebook has {keras_version}, which does not load everything that Keras 2 saved"
        remedy = (
            "load it once with tf_keras and save it again with Keras 3 as .keras, or name the function that builds "
            'it: model = "src/model.py:build"'
        )
        return (file_probe.make_warning(member, problem, remedy),)
    saved, tensorflow = read_tensorflow_version(member), versions.get("tensorflow", "")
    if file_probe.parse_release(saved) <= file_probe.parse_release(tensorflow) or not tensorflow:
        return ()
    problem = f"is a SavedModel of TensorFlow {saved}, and the notebook has {tensorflow}"
    return (
        file_probe.make_warning(
            member, problem, f"export it with tensorflow=={tensorflow}, or save the model as .keras"
        ),
    )


def read_tensorflow_version(member: Member) -> str:
    """Return the version of TensorFlow that saved a SavedModel; empty for other files."""
    if not member.path.is_dir():
        return ""
    match = _TF_VERSION.search((member.path / _SAVED_MODEL).read_bytes())
    return match[2][: match[1][0]].decode() if match else ""


def uses_column_order(member: Member) -> bool:
    """Whether it has one input for all columns; several take one each, by their names."""
    if member.path.is_file() and zipfile.is_zipfile(member.path):
        return json.dumps(_read_json(member.path, "config.json")).count('"InputLayer"') < 2
    return not (member.path.is_file() and _search_h5(member.path, _INPUTS))


def check_member(member: Member) -> tuple[Finding, ...]:
    """Report what a model needs besides its file: the code that builds it, own classes, trust in lambdas."""
    if member.path.is_dir():
        has_variables = (member.path / "variables" / "variables.index").is_file()
        remedy = "ship the whole folder: saved_model.pb, variables/ and assets/"
        return (
            ()
            if has_variables
            else (file_probe.make_stop(member, "is a SavedModel without its variables", remedy),)
        )
    if zipfile.is_zipfile(member.path):
        return _check_config(member, _read_json(member.path, "config.json"))
    if member.model:
        return ()  # the user's code builds it; only the weights are read
    if _is_in_h5(member.path, b'"__lambda__"'):
        return _check_lambda(member)
    if not _is_in_h5(member.path, b"model_config"):
        remedy = 'name the function that builds the model: model = "src/model.py:build", or save it whole'
        return (file_probe.make_stop(member, "holds weights alone", f"{remedy}: model.save('model.keras')"),)
    return ()


def _check_config(member: Member, config: dict[str, Any]) -> tuple[Finding, ...]:
    if member.model:
        return ()  # the user's code builds it; the configuration in the file is not read
    findings = []
    classes, lambdas = _find_foreign(config)
    if classes:
        problem = f"holds classes that are not Keras' own: {', '.join(sorted(classes))}"
        remedy = (
            'name the function that builds the model, and its weights are read: model = "src/model.py:build"'
        )
        findings.append(file_probe.make_warning(member, problem, remedy))
    return (*findings, *_check_lambda(member)) if lambdas else tuple(findings)


def _check_lambda(member: Member) -> tuple[Finding, ...]:
    # https://keras.io/api/models/model_saving_apis/model_saving_and_loading/: safe_mode is on by default.
    if member.params.get("safe_mode") is False:
        return ()
    problem = "has a Lambda layer with code in the file, which Keras refuses to run"
    remedy = "if you made the file yourself, set safe_mode = false in the `params` of its `models` entry"
    return (file_probe.make_stop(member, problem, remedy),)


def _find_foreign(node: Any) -> tuple[set[str], bool]:
    classes: set[str] = set()
    lambdas = False
    pending = [node]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            name, module = value.get("class_name"), value.get("module")
            lambdas |= name == "__lambda__"
            registered = value.get("registered_name")
            is_foreign = isinstance(module, str) and not module.startswith(_OWN_MODULES)
            # A class of the training script itself has a registered name and no module.
            if isinstance(name, str) and (is_foreign or (module is None and registered)):
                classes.add(name)
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return classes, lambdas


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read(name))
    except (KeyError, ValueError, zipfile.BadZipFile, OSError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_in_h5(path: Path, word: bytes) -> bool:
    return _search_h5(path, re.compile(b"(" + re.escape(word) + b")")) is not None


def _search_h5(path: Path, pattern: re.Pattern[bytes]) -> bytes | None:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = pattern.search(content, 0, min(len(content), _MAX_SEARCHED))
        return bytes(match[1]) if match else None


def _has_builder(member: Member) -> bool:
    return bool(member.model)


KERAS = Framework(
    name="keras",
    title="Keras",
    packages=("keras",),
    library="keras",
    score_match=score_match,
    uses_column_order=uses_column_order,
    check_member=check_member,
    check_versions=check_versions,
    judge_version=judge_version,
    read_version=read_version,
    param_names=("activation", "safe_mode"),
    takes_model=True,
    takes_arguments=_has_builder,
)
