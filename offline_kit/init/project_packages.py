"""Detect a project's requirements, lock files, own package and modules."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from offline_kit.init.config_toml import Setting
from offline_kit.init.file_tree import FileTree, top_folder
from offline_kit.packages.freeze.lock_files import find_lock_names, looks_like_pip_freeze
from offline_kit.packages.freeze.requirement_files import decode_text, is_compiled_output

_FOR_PREDICTING = re.compile(r"infer|predict|submi|kaggle|offline|deploy|prod", re.IGNORECASE)
_FOR_DEVELOPERS = re.compile(r"dev|test|doc|lint|ci|build|train|colab|notebook", re.IGNORECASE)
_NO_CODE = frozenset({"tests", "test", "docs", "doc", "examples", "notebooks", "scripts", "bench", "tools"})


def is_buildable(tree: FileTree, pyproject: Mapping[str, Any]) -> bool:
    """Whether a wheel can be built from the project: it has a build backend or a setup.py."""
    if pyproject.get("tool", {}).get("uv", {}).get("package") is False:
        return False
    return "build-system" in pyproject or "setup.py" in tree.files_at("")


def propose_packages(tree: FileTree, pyproject: Mapping[str, Any]) -> tuple[Setting, ...]:
    """Return the settings `requirements`, `locks`, `packages` and `modules`."""
    files, frozen = _find_requirement_files(tree)
    requirements = _requirements_setting(tree, pyproject, files)
    locks = _locks_setting(tree, frozen if not requirements.value else [])
    return (requirements, locks, *_code_settings(tree, pyproject))


def _requirements_setting(tree: FileTree, pyproject: Mapping[str, Any], files: list[str]) -> Setting:
    # preferably a file for predicting
    predicting = [name for name in files if _FOR_PREDICTING.search(PurePosixPath(name).stem)]
    plain = [name for name in ("requirements.in", "requirements.txt") if name in files]
    others = [name for name in files if not _FOR_DEVELOPERS.search(PurePosixPath(name).stem)]
    chosen = [name for name in (*predicting, *plain, *others) if tree.file_size(name)][:1]
    reason = "needed for predicting"
    metadata = pyproject.get("project", {})
    if metadata.get("dependencies") or "dependencies" in metadata.get("dynamic", ()):
        files, chosen = [*chosen, *(name for name in files if name not in chosen)], []
        reason = "without it, [project].dependencies are used; a file here replaces them"
    elif not chosen:
        has_package = is_buildable(tree, pyproject)
        packed = "; the package's dependencies are packed" if has_package else ": only own code is packed"
        reason = f"no requirements file was found{packed}"
    left_out = ", ".join(name for name in files if name not in chosen)
    value, comments = chosen or None, (f"left out: {left_out}",) if left_out else ()
    example = ["requirements.in"]
    return Setting(key="requirements", value=value, example=example, reason=reason, comments=comments)


def _find_requirement_files(tree: FileTree) -> tuple[list[str], list[str]]:
    """Return the requirements files at the top, else one folder down: those to use, and outputs of `pip freeze`.

    The versions of a freeze are only preferences. Outputs of pip-compile are left out next to their source.
    """
    near = [*tree.files_at(""), *tree.files_at("requirements")]
    if not any("requirement" in name for name in near):
        folders = [name for name in tree.folders if "/" not in name and name != "requirements"]
        near += [name for folder in folders for name in tree.files_at(folder)]
    texts = [name for name in near if name.endswith((".in", ".txt"))]
    named = [name for name in texts if "requirement" in name or PurePosixPath(name).name.startswith("reqs")]
    files, frozen = list[str](), list[str]()
    for name in named:
        text = ""
        if name.endswith(".txt"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                text = decode_text((tree.root / name).read_bytes())
        if is_compiled_output(text):
            files += [] if f"{name.removesuffix('.txt')}.in" in named else [name]
        else:
            (frozen if looks_like_pip_freeze(text) else files).append(name)
    return files, frozen


def _locks_setting(tree: FileTree, frozen: list[str]) -> Setting:
    top = tree.files_at("")
    locks = [name for name in top if name == "uv.lock" or re.fullmatch(r"pylock\.([\w-]+\.)?toml", name)]
    # the first file that pins a package wins, so one of each kind is enough
    locks += find_lock_names(top) + frozen[:1]
    if locks:
        return Setting(key="locks", value=locks, reason="preferred versions; the image's versions win")
    kinds = "uv.lock, pylock.toml, poetry.lock, Pipfile.lock, pdm.lock, environment.yml or pip freeze files"
    return Setting(key="locks", example=["uv.lock"], reason=kinds)


def _code_settings(tree: FileTree, pyproject: Mapping[str, Any]) -> tuple[Setting, Setting]:
    example = "folders of modules and .py files, shipped unchanged"
    modules = Setting(key="modules", example=["src"], reason=example)
    if is_buildable(tree, pyproject):
        return Setting(key="packages", value=["."], reason="built into a wheel"), modules
    packages = Setting(
        key="packages",
        # with a project name but no build backend, a build would package the whole folder
        value=[] if "name" in pyproject.get("project", {}) else None,
        example=["."],
        reason="for a project with a build backend: built into a wheel",
    )
    if folders := _module_folders(tree):
        modules = Setting(key="modules", value=folders, reason="shipped unchanged")
    return packages, modules


def _module_folders(tree: FileTree) -> list[str]:
    if any(name.endswith(".py") for name in tree.files_below("src")):
        return ["src"]
    tops = {top_folder(name) for name in tree.files if name.count("/") == 1 and name.endswith("/__init__.py")}
    return sorted(tops - _NO_CODE)
