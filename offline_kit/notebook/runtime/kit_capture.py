"""Capture the running image: Python, platform, and the version of every installed package.

This file is part of offline-kit and is pasted into the notebooks that it renders. It needs no network; it
writes an image file for `offline-kit build --image`.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROVENANCE_VARIABLES = ("BUILD_DATE", "GIT_COMMIT", "KAGGLE_DOCKER_IMAGE", "COLAB_RELEASE_TAG", "CUDA_VERSION")  # fmt: skip
"""Variables that identify the image; no other is read, because others may contain keys."""
PROVENANCE_FILES = ("/etc/git_commit", "/etc/build_date", "/etc/kaggle_image")
"""Files of Kaggle's image that identify it."""


def capture_image(name: str) -> dict[str, Any]:
    """Return the content of an image file as plain values."""
    library, version = platform.libc_ver()
    return {
        "name": name,
        "python": platform.python_version(),
        "accelerator": "gpu" if shutil.which("nvidia-smi") else "none",
        "machine": platform.machine(),
        "glibc": version if library == "glibc" else "",
        "system": system_name(),
        "tags": wheel_tags(),
        "told": read_provenance(),
        "packages": installed_packages(),
    }


def installed_packages() -> dict[str, str]:
    """Return the version of every package by its normalized name, as `pip list` does."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] if distribution.metadata else None
        if name and distribution.version:  # the first one found is the one that imports
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return dict(sorted(versions.items()))


def system_name() -> str:
    """Return the name of the system, such as "Ubuntu 24.04.1 LTS"."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return platform.platform()


def wheel_tags() -> list[str]:
    """Return the most specific wheel tags of this Python; empty without pip."""
    try:
        from pip._vendor.packaging.tags import sys_tags
    except ImportError:
        return []
    return [str(tag) for tag, _ in zip(sys_tags(), range(5), strict=False)]


def read_provenance() -> dict[str, str]:
    """Return what identifies the image, from variables and files."""
    provenance = {name: os.environ[name] for name in PROVENANCE_VARIABLES if os.environ.get(name)}
    for path in map(Path, PROVENANCE_FILES):
        if path.is_file():
            provenance[str(path)] = path.read_text(encoding="utf-8", errors="replace").strip()[:200]
    return provenance


def format_image_file(facts: Mapping[str, Any], digest: str = "", platform_name: str = "Kaggle") -> str:
    """Return the image file: TOML that `--image` takes."""
    provenance_notes = [f"{name}: {value}" for name, value in facts["told"].items()]
    provenance = [
        f"captured in a run on {platform_name}, on {facts['system']}",
        *provenance_notes,
        *facts["tags"][:1],
    ]
    kind = "GPU" if facts["accelerator"] == "gpu" else "CPU"
    head = {
        "name": facts["name"],
        "title": f"{platform_name}: Python {facts['python']}, {kind}, {len(facts['packages'])} packages (captured)",
        "accelerator": facts["accelerator"],
        "python": facts["python"],
        "machine": facts["machine"],
        **({"glibc": facts["glibc"]} if facts["glibc"] else {}),
        "digest": digest,
        "provenance": "; ".join(provenance),
        "confidence": "captured: exact for the image of that run",
    }
    # JSON's strings are TOML's, too.
    lines = ["format = 1", *(f"{key} = {json.dumps(value)}" for key, value in head.items()), "", "[packages]"]
    lines += [f"{json.dumps(name)} = {json.dumps(version)}" for name, version in facts["packages"].items()]
    return "\n".join(lines) + "\n"


def write_image_files(facts: Mapping[str, Any], folder: Path, platform_name: str = "Kaggle") -> Path:
    """Write image.toml, and the facts as image.json, into a folder; return the former."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    path = folder / "image.toml"
    path.write_text(format_image_file(facts, platform_name=platform_name), encoding="utf-8")
    return path
