"""Keras: models of model.save (.keras, .h5), weights alone (.weights.h5), and SavedModel folders."""

import json
import mmap
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import base
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.checkpoints.pickle_streams import read_archive_json
from offline_kit.project.types import CheckpointKind, Finding, Member, Severity

_SAVED_MODEL = "saved_model.pb"
_H5_VERSION = re.compile(rb"(?<![\w.])([23]\.\d{1,2}\.\d{1,2})(?:-tf)?(?=\x00|tensorflow|jax|torch)")
# Field 5 of the file's head, with its length
_TF_VERSION = re.compile(rb"\x2a([\x05-\x09])(\d\.\d{1,2}\.\d{1,3})")
_INPUTS = re.compile(rb'("InputLayer".+?"InputLayer")', re.DOTALL)
# Bytes of an HDF5 file: its attributes precede the weights
_MAX_SEARCHED = 64 << 20
_OWN_MODULES = ("keras", "builtins", "tensorflow", "numpy")


def _is_foreign(node: dict[str, Any]) -> bool:
    """Whether an object of the configuration is made from a class that is not Keras' own."""
    module = node.get("module")
    if module is None:
        # A class of the training script itself has a registered name and no module.
        return isinstance(node.get("class_name"), str) and bool(node.get("registered_name"))
    is_own = not isinstance(module, str) or module.startswith(_OWN_MODULES)
    return isinstance(node.get("class_name"), str) and not is_own


def _search_h5(path: Path, pattern: re.Pattern[bytes]) -> bytes:
    """Return the first group of a pattern; nothing for no match."""
    # HDF5 keeps attributes as plain bytes, so that no h5py is needed
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = pattern.search(content, 0, min(len(content), _MAX_SEARCHED))
        return bytes(match[1]) if match else b""


class _Keras(Framework):
    def score_match(self, path: Path, sniffed: ClassifiedFile) -> float:
        """Match .keras archives, SavedModel folders, and HDF5 files that Keras wrote."""
        is_own = (path / _SAVED_MODEL).is_file() or sniffed.kind is CheckpointKind.KERAS
        if sniffed.kind is CheckpointKind.HDF5:
            marks = re.compile(b"(keras_version|layer_names)")
            is_own = path.name.endswith(".weights.h5") or bool(_search_h5(path, marks))
        return SURE if is_own else 0.0

    def read_version(self, path: Path) -> str:
        """Return the version of Keras in a file; empty for a SavedModel, which states TensorFlow's alone."""
        if path.is_dir():
            return ""
        if zipfile.is_zipfile(path):
            return str(read_archive_json(path, "metadata.json").get("keras_version", "")).removesuffix("-tf")
        return _search_h5(path, _H5_VERSION).decode()

    def check_versions(self, member: Member, versions: Mapping[str, str]) -> Iterator[Finding]:
        """Warn of a file of Keras 2, and of a SavedModel of a newer TensorFlow.

        https://keras.io/keras_3/: Keras 3 does not load everything that Keras 2 saved.
        """
        keras, tensorflow = versions.get("keras", ""), versions.get("tensorflow", "")
        majors = (base.parse_release(member.version)[:1], base.parse_release(keras)[:1])
        if member.version_said and majors == ((2,), (3,)):
            problem = f"is of Keras {member.version}, and the notebook has {keras}, which does not load everything that Keras 2 saved"
            remedy = (
                "load it once with tf_keras and save it again with Keras 3 as .keras, or name the function that builds "
                'it: model = "src/model.py:build"'
            )
            yield base.make_warning(member, problem, remedy)
        elif tensorflow and member.path.is_dir():
            match = _TF_VERSION.search((member.path / _SAVED_MODEL).read_bytes())
            saved = match[2][: match[1][0]].decode() if match else ""
            if base.parse_release(saved) > base.parse_release(tensorflow):
                problem = f"is a SavedModel of TensorFlow {saved}, and the notebook has {tensorflow}"
                remedy = f"export it with tensorflow=={tensorflow}, or save the model as .keras"
                yield base.make_warning(member, problem, remedy)

    def uses_column_order(self, member: Member) -> bool:
        """Whether it has one input for all columns; several take one each, by their names."""
        if member.path.is_file() and zipfile.is_zipfile(member.path):
            return json.dumps(read_archive_json(member.path, "config.json")).count('"InputLayer"') < 2
        return not (member.path.is_file() and _search_h5(member.path, _INPUTS))

    def check_member(self, member: Member) -> Iterator[Finding]:
        """Report what a model needs besides its file: the code that builds it, own classes, trust in lambdas."""
        has_lambda = False
        if member.path.is_dir():
            if not (member.path / "variables" / "variables.index").is_file():
                remedy = "ship the whole folder: saved_model.pb, variables/ and assets/"
                yield base.make_stop(member, "is a SavedModel without its variables", remedy)
        elif member.model:
            pass  # the user's code builds it; only the weights are read
        elif zipfile.is_zipfile(member.path):
            objects = list(base.walk_objects(read_archive_json(member.path, "config.json")))
            has_lambda = any(node.get("class_name") == "__lambda__" for node in objects)
            if classes := {str(node["class_name"]) for node in objects if _is_foreign(node)}:
                problem = f"holds classes that are not Keras' own: {', '.join(sorted(classes))}"
                remedy = 'name the function that builds the model, and its weights are read: model = "src/model.py:build"'
                yield base.make_warning(member, problem, remedy)
        elif _search_h5(member.path, re.compile(b'("__lambda__")')):
            has_lambda = True
        elif not _search_h5(member.path, re.compile(b"(model_config)")):
            remedy = 'name the function that builds the model: model = "src/model.py:build", or save it whole'
            yield base.make_stop(member, "holds weights alone", f"{remedy}: model.save('model.keras')")
        # https://keras.io/api/models/model_saving_apis/model_saving_and_loading/: safe_mode is on by default.
        if has_lambda and member.params.get("safe_mode") is not False:
            problem = "has a Lambda layer with code in the file, which Keras refuses to run"
            remedy = (
                "if you made the file yourself, set safe_mode = false in the `params` of its `models` entry"
            )
            yield base.make_stop(member, problem, remedy)

    def judge_version(self, trained: Version, reads: Version) -> Severity | None:
        """Judge Keras 3 alone: `check_versions` handles files of Keras 2."""
        return super().judge_version(trained, reads) if trained.major > 2 else None

    def takes_arguments(self, member: Member) -> bool:
        return bool(member.model)


KERAS = _Keras("keras")
