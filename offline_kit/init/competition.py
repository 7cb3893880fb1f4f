"""Detect a project's competition and its data from the names of files and folders."""

import json
import re
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from offline_kit.init.config_toml import Setting
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.project.kaggle_names import check_slug, make_slug

_TABLES = frozenset({".csv", ".parquet", ".json", ".jsonl", ".tsv"})


def propose_competition(tree: FileTree) -> tuple[Setting, Setting]:
    """Return the settings `competition` and `competition_data`.

    Sources, in this order: competition.toml, kernel-metadata.json of an earlier notebook, data folders named like
    a competition, zips as Kaggle's client downloads them.
    """
    sources: dict[str, str] = {}
    for slug, source in _find_slugs(tree):
        sources.setdefault(slug, source)
    slugs = list(sources)
    competition = Setting(
        key="competition",
        example="plant-pathology-2021-fgvc8",
        reason="slug of the competition: the last part of its URL",
        needed_for="to attach the competition's data and to submit",
    )
    if slugs:
        others = ", ".join(f"{slug} ({sources[slug]})" for slug in slugs[1:])
        comments = (f"also found: {others}",) if others else ()
        competition = Setting(key="competition", value=slugs[0], reason=sources[slugs[0]], comments=comments)
    key, reason = "competition_data", "a local copy of its data, or part of it"
    if folder := next(_find_data_folders(tree, slugs), ""):
        reason = "a local copy, or part of it, for rehearsals"
        return competition, Setting(key=key, value=folder, reason=reason)
    needed_for = "to rehearse on the competition's data"
    return competition, Setting(key=key, example="input", reason=reason, needed_for=needed_for)


def _find_slugs(tree: FileTree) -> Iterator[tuple[str, str]]:
    """Yield slugs with their source, the likeliest first."""
    table = _read_competition_toml(tree)
    slug = str(table.get("slug") or make_slug(tree.root.name)) if table else ""
    if slug and not check_slug(slug):
        yield slug, "from competition.toml"
    for name in tree.files:
        if PurePosixPath(name).name == "kernel-metadata.json":
            yield from ((slug, f"from {name}") for slug in _read_metadata_slugs(tree.root / name))
    for folder in tree.folders:
        slug = _last_part(folder)
        is_near = top_folder(f"{folder}/") in DATA_FOLDERS and folder.count("/") in (1, 2)
        if is_near and _is_slug(slug) and _looks_like_data(tree, folder):
            yield slug, f"from the folder {folder}"
    for name in tree.files:
        slug = PurePosixPath(name).stem
        is_near = top_folder(name) in DATA_FOLDERS | {""}
        if name.endswith(".zip") and is_near and _is_slug(slug) and _is_download(tree.root / name):
            yield slug, f"from the name of {name}: check it"


def _read_competition_toml(tree: FileTree) -> dict[str, object]:
    try:
        return tomllib.loads((tree.root / "competition.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _read_metadata_slugs(path: Path) -> list[str]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    sources = document.get("competition_sources") if isinstance(document, dict) else None
    return [slug for slug in sources or () if isinstance(slug, str) and not check_slug(slug)]


def _is_slug(name: str) -> bool:
    """Whether a name looks like a competition's slug: several words, or long; not "raw"."""
    return not check_slug(name) and ("-" in name or len(name) > 12)


def _is_download(path: Path) -> bool:
    """Whether a zip contains a sample submission, as those of competitions do."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_is_sample(_last_part(name)) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        return False


def _find_data_folders(tree: FileTree, slugs: list[str]) -> Iterator[str]:
    table = _read_competition_toml(tree)
    public = table.get("public", "public") if table else None
    if isinstance(public, str) and (tree.root / public).is_dir():
        yield public
    folders = [name for name in tree.folders if top_folder(f"{name}/") in DATA_FOLDERS - {"hidden", "labels"}]
    yield from (name for name in folders if _last_part(name) in slugs and tree.files_below(name))
    yield from (name for name in folders if any(_is_sample(_last_part(file)) for file in tree.files_at(name)))
    yield from (name for name in folders if _looks_like_data(tree, name))


def _looks_like_data(tree: FileTree, folder: str) -> bool:
    inside = list(map(_last_part, tree.files_at(folder)))
    tables = [name for name in inside if PurePosixPath(name).suffix in _TABLES]
    tested = [*tables, *map(_last_part, tree.folders_at(folder))]
    return any(map(_is_sample, inside)) or any(name.startswith("test") for name in tested)


def _is_sample(name: str) -> bool:
    return bool(re.search(r"sample.*sub|sub.*sample", name.lower())) and name.lower().endswith(".csv")


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]
