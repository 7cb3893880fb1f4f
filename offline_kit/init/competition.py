"""Detect a project's competition and its data from the names of files and folders."""

import json
import re
import struct
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from offline_kit.init.config_toml import Setting
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.project.kaggle_names import check_slug, make_slug

MAX_ZIP_ENTRIES = 0xFFFF
"""A zip with this many entries is not opened: it contains images, as those of competitions do."""
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
    data = Setting(
        key="competition_data",
        example="input",
        reason="a local copy of its data, or part of it",
        needed_for="to rehearse on the competition's data",
    )
    if folder := next(_find_data_folders(tree, slugs), ""):
        reason = "a local copy, or part of it, for rehearsals"
        data = Setting(key="competition_data", value=folder, reason=reason)
    return competition, data


def _find_slugs(tree: FileTree) -> Iterator[tuple[str, str]]:
    """Yield slugs with their source, the likeliest first."""
    if (slug := _slug_of_toml(tree)) and not check_slug(slug):
        yield slug, "from competition.toml"
    for name in tree.files:
        if PurePosixPath(name).name == "kernel-metadata.json":
            yield from ((slug, f"from {name}") for slug in _slugs_of_metadata(tree.root / name))
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


def _slug_of_toml(tree: FileTree) -> str:
    document = _read_competition_toml(tree)
    return str(document.get("slug") or make_slug(tree.root.name)) if document else ""


def _read_competition_toml(tree: FileTree) -> dict[str, object]:
    if "competition.toml" not in tree.files_at(""):
        return {}
    try:
        return tomllib.loads((tree.root / "competition.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _slugs_of_metadata(path: Path) -> list[str]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    sources = document.get("competition_sources") if isinstance(document, dict) else None
    return [slug for slug in sources if isinstance(slug, str) and not check_slug(slug)] if sources else []


def _is_slug(name: str) -> bool:
    """Whether a name looks like a competition's slug: several words, or long; not "raw"."""
    return not check_slug(name) and ("-" in name or len(name) > 12)


def _is_download(path: Path) -> bool:
    """Whether a zip contains a sample submission, or too many entries to check."""
    try:
        if _count_entries(path) >= MAX_ZIP_ENTRIES:
            return True
        with zipfile.ZipFile(path) as archive:
            return any(_is_sample(PurePosixPath(name).name) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        return False


def _count_entries(path: Path) -> int:
    """Return the number of entries in a zip's end record, 65535 for more."""
    # 4.3.16 of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT: 22 bytes and a comment of up to 65,535
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 66_000))
        tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    return struct.unpack_from("<H", tail, at + 10)[0] if 0 <= at <= len(tail) - 12 else 0


def _find_data_folders(tree: FileTree, slugs: list[str]) -> Iterator[str]:
    public = _read_competition_toml(tree).get("public", "public")
    if _slug_of_toml(tree) and isinstance(public, str) and (tree.root / public).is_dir():
        yield public
    folders = [name for name in tree.folders if top_folder(f"{name}/") in DATA_FOLDERS - {"hidden", "labels"}]
    yield from (name for name in folders if PurePosixPath(name).name in slugs and tree.files_below(name))
    yield from (name for name in folders if any(_is_sample(_last_part(file)) for file in tree.files_at(name)))
    yield from (name for name in folders if _looks_like_data(tree, name))


def _looks_like_data(tree: FileTree, folder: str) -> bool:
    inside = [_last_part(name) for name in tree.files_at(folder)]
    subfolders = [_last_part(name) for name in tree.folders_at(folder)]
    tested = [name for name in inside if PurePosixPath(name).suffix in _TABLES] + subfolders
    return any(_is_sample(name) for name in inside) or any(name.startswith("test") for name in tested)


def _is_sample(name: str) -> bool:
    return bool(re.search(r"sample.*sub|sub.*sample", name.lower())) and name.lower().endswith(".csv")


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]
