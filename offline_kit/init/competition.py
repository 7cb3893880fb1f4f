"""Detect a project's competition and its data from the names of files and folders."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from offline_kit.init.config_toml import Setting
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.project.kaggle_names import check_slug, make_slug

_TABLES = frozenset({".csv", ".parquet", ".json", ".jsonl", ".tsv"})


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
