"""Detect a project's competition, data, requirements, lock files and own code from the names of files and folders."""

import contextlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from offline_kit.init.config_toml import Setting
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.packages.freeze.lock_files import find_lock_names, looks_like_pip_freeze
from offline_kit.packages.freeze.requirement_files import decode_text, is_compiled_output
from offline_kit.project.kaggle_names import check_slug, make_slug

_TABLES = frozenset({".csv", ".parquet", ".json", ".jsonl", ".tsv"})
_FOR_PREDICTING = re.compile(r"infer|predict|submi|kaggle|offline|deploy|prod", re.IGNORECASE)
_FOR_DEVELOPERS = re.compile(r"dev|test|doc|lint|ci|build|train|colab|notebook", re.IGNORECASE)
_NO_CODE = frozenset({"tests", "test", "docs", "doc", "examples", "notebooks", "scripts", "bench", "tools"})


def propose_competition(tree: FileTree) -> tuple[Setting, Setting]:
    """Return the settings `competition` and `competition_data`.

    Sources, in this order: competition.toml, kernel-metadata.json of an earlier notebook, data folders named like
    a competition.
    """
    table = _read_object(tree, "competition.toml")
    sources: dict[str, str] = {}
    for slug, source in _find_slugs(tree, table):
        if not check_slug(slug):
            sources.setdefault(slug, source)
    competition = Setting(
        key="competition",
        example="plant-pathology-2021-fgvc8",
        reason="slug of the competition: the last part of its URL",
        needed_for="to attach the competition's data and to submit",
    )
    if sources:
        (slug, source), *rest = sources.items()
        others = ", ".join(f"{slug} ({source})" for slug, source in rest)
        comments = (f"also found: {others}",) if others else ()
        competition = Setting(key="competition", value=slug, reason=source, comments=comments)
    key, reason = "competition_data", "a local copy of its data, or part of it"
    if folder := next(_find_data_folders(tree, table, [*sources]), ""):
        reason = "a local copy, or part of it, for rehearsals"
        return competition, Setting(key=key, value=folder, reason=reason)
    needed_for = "to rehearse on the competition's data"
    return competition, Setting(key=key, example="input", reason=reason, needed_for=needed_for)


def _find_slugs(tree: FileTree, table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what may be slugs with their source, the likeliest first."""
    if table:
        yield str(table.get("slug") or make_slug(tree.root.name)), "from competition.toml"
    for name in tree.files:
        if PurePosixPath(name).name == "kernel-metadata.json":
            for slug in _read_object(tree, name).get("competition_sources") or ():
                yield str(slug), f"from {name}"
    for folder in tree.folders:
        name = PurePosixPath(folder).name
        is_near = top_folder(f"{folder}/") in DATA_FOLDERS and folder.count("/") in (1, 2)
        # Several words, or a long one; not "raw"
        if is_near and ("-" in name or len(name) > 12) and _looks_like_data(tree, folder):
            yield name, f"from the folder {folder}"


def _read_object(tree: FileTree, name: str) -> dict[str, Any]:
    """Return the content of a TOML or JSON file; empty if there is none."""
    try:
        text = (tree.root / name).read_text(encoding="utf-8")
        content = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _find_data_folders(tree: FileTree, table: dict[str, Any], slugs: list[str]) -> Iterator[str]:
    public = table.get("public", "public") if table else None
    if isinstance(public, str) and (tree.root / public).is_dir():
        yield public
    folders = [name for name in tree.folders if top_folder(f"{name}/") in DATA_FOLDERS - {"hidden", "labels"}]
    yield from (name for name in folders if PurePosixPath(name).name in slugs and tree.files_below(name))
    yield from (name for name in folders if any(map(_is_sample, tree.files_at(name))))
    yield from (name for name in folders if _looks_like_data(tree, name))


def _looks_like_data(tree: FileTree, folder: str) -> bool:
    inside = tree.files_at(folder)
    tested = [name for name in inside if PurePosixPath(name).suffix in _TABLES]
    tested += [name for name in tree.folders if name.rpartition("/")[0] == folder]
    is_tested = any(PurePosixPath(name).name.startswith("test") for name in tested)
    return is_tested or any(map(_is_sample, inside))


def _is_sample(path: str) -> bool:
    return bool(re.search(r"(sample[^/]*sub|sub[^/]*sample)[^/]*\.csv$", path.lower()))


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
