"""Shared by tests: boosters, ONNX, Keras and skops: told from their bytes, with findings and remedies; what loads them in the notebook."""

import dataclasses
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

from offline_kit.checkpoints.file_kinds import classify_file
from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.core.files import sha256_of
from offline_kit.project.types import Checkpoint, Finding, Member

LIGHTGBM = b"tree\nversion=v4\nnum_class=1\nfeature_names=a b\n\nTree=0\nnum_leaves=1\n\nend of trees\n\npandas_categorical:null\n"


HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(500)


WHOLE_H5 = HDF5 + b"keras_version\0backend\0model_config\0GCOL" + bytes(12) + b"3.13.2\0\0tensorflow\0"


def as_checkpoint(path: Path, original: str = "") -> Checkpoint:
    """Return a file as the collecting of checkpoints would give it."""
    file, size, digest = classify_file(path), path.stat().st_size, sha256_of(path)
    name = original or path.name
    return Checkpoint(
        original=name, path=path, size=size, sha256=digest, kind=file.kind, refused=file.refused
    )


def long_key(word: bytes) -> bytes:
    return b"L" + struct.pack(">q", len(word)) + word


def ubj(*version: int) -> bytes:
    numbers = b"".join(b"i" + bytes([each]) for each in version)
    listed = b"[#L" + struct.pack(">q", len(version)) + numbers
    return (
        b"{"
        + long_key(b"learner")
        + b"{"
        + long_key(b"attributes")
        + b"{}}"
        + long_key(b"version")
        + listed
        + b"}"
    )


def part(number: int, content: bytes | int) -> bytes:
    """Return one field of a protobuf message."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    low = value & 0x7F
    return bytes([low | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([low])


def onnx(
    opset: int = 21,
    form: int = 10,
    rows: int | None = None,
    domain: bytes = b"",
    beside: str = "",
    names: str = "x",
) -> bytes:
    first = part(1, rows) if rows else part(2, b"N")
    shape = part(2, part(1, first) + part(1, part(1, 4)))
    told = part(2, part(1, part(1, 1) + shape))
    graph = b"".join(part(11, part(1, name.encode()) + told) for name in names)
    if beside:
        location = part(1, b"location") + part(2, beside.encode())
        graph = part(5, part(8, b"w") + part(13, location) + part(14, 1)) + graph
    graph += part(1, part(1, b"x") + part(2, b"y") + part(4, b"Abs")) + part(12, part(1, b"y"))
    sets = part(8, part(1, b"") + part(2, opset))
    if domain:
        sets += part(8, part(1, domain) + part(2, 1))
    return part(1, form) + part(2, b"pytorch") + part(3, b"2.11.0") + part(7, graph) + sets


def archive(**members: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as writing:
        for name, text in members.items():
            writing.writestr(name.replace("__", "."), text)
    return made.getvalue()


def keras(config: Any = None, version: str = "3.13.2") -> bytes:
    about = json.dumps({"keras_version": version})
    return archive(metadata__json=about, config__json=json.dumps(config or {}), model__weights__h5="")


def member(folder: Path, name: str, content: bytes, **more: Any) -> Member:
    """Write a file and return it as the build would see it."""
    path = folder / name
    path.write_bytes(content)
    return seen(path, **more)


def seen(path: Path, **more: Any) -> Member:
    framework = framework_table.match_framework(path)
    assert framework is not None
    made = Member(name=path.name, framework=framework.name, path=path, kit_path=path.name, **more)
    version = framework.read_version(made.path)
    return dataclasses.replace(made, version=version, version_said=bool(version))


def findings(made: Member) -> tuple[Finding, ...]:
    framework = framework_table.BY_NAME.get(made.framework)
    assert framework is not None
    return tuple(framework.check_member(made))
