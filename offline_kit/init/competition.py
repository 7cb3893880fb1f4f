"""Which competition a project is for, and where its data lies, as far as names tell."""

import json
import re
import struct
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from offline_kit.init.file_tree import DATA, Tree, top_of
from offline_kit.init.proposal import Findings, Setting
from offline_kit.project.kaggle_names import slug_of, slug_problems

MANY_IN_ZIP = 0xFFFF
"""A zip with so many entries is not opened: such a one holds pictures, as competitions' do."""
_TABLES = frozenset({".csv", ".parquet", ".json", ".jsonl", ".tsv"})


def find(tree: Tree) -> Findings:
    """Return `competition` and `competition_data`.

    Looked for, in this order: competition.toml, kernel-metadata.json of an earlier notebook, folders of
    data that are called like a competition, zips as Kaggle's client downloads them.
    """
    sources: dict[str, str] = {}
    for slug, source in _slugs(tree):
        sources.setdefault(slug, source)
    return Findings(settings=(_competition(sources), _data(tree, list(sources))))


def _competition(sources: dict[str, str]) -> Setting:
    ordered = list(sources)
    if not ordered:
        return Setting(
            key="competition",
            example="plant-pathology-2021-fgvc8",
            why="slug of the competition: the last part of its address",
            needed="to attach the competition's data and to submit",
        )
    others = [f"{slug} ({sources[slug]})" for slug in ordered[1:]]
    return Setting(
        key="competition",
        value=ordered[0],
        why=sources[ordered[0]],
        more=(f"also found: {', '.join(others)}",) if others else (),
    )


def _data(tree: Tree, slugs: list[str]) -> Setting:
    for place in _data_folders(tree, slugs):
        return Setting(key="competition_data", value=place, why="a local copy, or part of it, for rehearsals")
    return Setting(
        key="competition_data",
        example="input",
        why="a local copy of its data, or part of it",
        needed="to rehearse on the competition's data",
    )


def _slugs(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield slugs, each with where it comes from; the likeliest first."""
    if (slug := _of_toml(tree)) and not slug_problems(slug):
        yield slug, "from competition.toml"
    for name in tree.files:
        if PurePosixPath(name).name == "kernel-metadata.json":
            yield from ((slug, f"from {name}") for slug in _of_metadata(tree.root / name))
    for folder in _named_like_slugs(tree):
        if _looks_like_data(tree, folder):
            yield PurePosixPath(folder).name, f"from the folder {folder}"
    for name in tree.files:
        slug = PurePosixPath(name).stem
        if name.endswith(".zip") and _is_near(name) and _is_slug(slug) and _is_download(tree.root / name):
            yield slug, f"from the name of {name}: check that it is the one"


def _of_toml(tree: Tree) -> str:
    told = _toml_of(tree)
    if not told:
        return ""
    return str(told.get("slug") or slug_of(tree.root.name))


def _toml_of(tree: Tree) -> dict[str, object]:
    if "competition.toml" not in tree.at(""):
        return {}
    try:
        return tomllib.loads((tree.root / "competition.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _of_metadata(path: Path) -> list[str]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    sources = told.get("competition_sources") if isinstance(told, dict) else None
    return [each for each in sources if isinstance(each, str) and not slug_problems(each)] if sources else []


def _named_like_slugs(tree: Tree) -> list[str]:
    near = [name for name in tree.folders if top_of(f"{name}/") in DATA and name.count("/") in (1, 2)]
    return [name for name in near if _is_slug(PurePosixPath(name).name)]


def _is_slug(name: str) -> bool:
    """Whether a name is one that competitions have: of several words, or long; "raw" is none."""
    return not slug_problems(name) and ("-" in name or len(name) > 12)


def _is_near(name: str) -> bool:
    return not top_of(name) or top_of(name) in DATA


def _is_download(path: Path) -> bool:
    """Whether a zip holds a sample submission; one of very many entries is not looked through."""
    try:
        if _entries(path) >= MANY_IN_ZIP:
            return True
        with zipfile.ZipFile(path) as archive:
            return any(_is_sample(PurePosixPath(name).name) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        return False


def _entries(path: Path) -> int:
    """Return the number of entries that a zip's last record tells, 65535 for more."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 66_000))
        tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    return struct.unpack_from("<H", tail, at + 10)[0] if 0 <= at <= len(tail) - 12 else 0


def _data_folders(tree: Tree, slugs: list[str]) -> Iterator[str]:
    public = _toml_of(tree).get("public", "public")
    if _of_toml(tree) and isinstance(public, str) and (tree.root / public).is_dir():
        yield public
    folders = [name for name in tree.folders if top_of(f"{name}/") in DATA - {"hidden", "labels"}]
    yield from (name for name in folders if PurePosixPath(name).name in slugs and tree.below(name))
    yield from (name for name in folders if any(_is_sample(_last(one)) for one in tree.at(name)))
    yield from (name for name in folders if _looks_like_data(tree, name))


def _looks_like_data(tree: Tree, folder: str) -> bool:
    inside = [_last(name) for name in tree.at(folder)]
    beside = [_last(name) for name in tree.folders_at(folder)]
    tested = [name for name in inside if PurePosixPath(name).suffix in _TABLES] + beside
    return any(_is_sample(name) for name in inside) or any(name.startswith("test") for name in tested)


def _is_sample(name: str) -> bool:
    return bool(re.search(r"sample.*sub|sub.*sample", name.lower())) and name.lower().endswith(".csv")


def _last(name: str) -> str:
    return name.rpartition("/")[2]
