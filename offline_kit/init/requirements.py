"""What a project asks for and what it is itself: requirements, locks, an own package or loose modules."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from offline_kit.init.file_tree import Tree, top_of
from offline_kit.init.proposal import Findings, Setting
from offline_kit.packages.freeze.lock_formats import decode_text, find_lock_names, looks_like_pip_freeze
from offline_kit.packages.freeze.requirement_inputs import is_compiled_output

_FOR_PREDICTING = re.compile(r"infer|predict|submi|kaggle|offline|deploy|prod", re.IGNORECASE)
_FOR_DEVELOPERS = re.compile(r"dev|test|doc|lint|ci|build|train|colab|notebook", re.IGNORECASE)
_NO_CODE = frozenset({"tests", "test", "docs", "doc", "examples", "notebooks", "scripts", "bench", "tools"})


def is_package(tree: Tree, pyproject: Mapping[str, Any]) -> bool:
    """Whether the project can be built to a wheel: it names a build backend, or has a setup.py."""
    if pyproject.get("tool", {}).get("uv", {}).get("package") is False:
        return False
    return "build-system" in pyproject or "setup.py" in tree.at("")


def find(tree: Tree, pyproject: Mapping[str, Any]) -> Findings:
    """Return `requirements`, `locks`, `packages` and `modules`."""
    own, loose = _code(tree, pyproject)
    files = _files(tree)
    frozen = [name for name in files if name.endswith(".txt") and _is_frozen(name, tree)]
    wanted = _requirements(tree, pyproject, [name for name in files if name not in frozen])
    lock = _locks(tree, frozen if not wanted.value else [])
    return Findings(settings=(wanted, lock, own, loose))


def _is_frozen(name: str, tree: Tree) -> bool:
    """Whether a requirements file is what `pip freeze` or conda wrote: its versions are wishes."""
    try:
        text = decode_text((tree.root / name).read_bytes())
    except (OSError, UnicodeDecodeError):
        return False
    return not is_compiled_output(text) and looks_like_pip_freeze(text)


def _requirements(tree: Tree, pyproject: Mapping[str, Any], files: list[str]) -> Setting:
    chosen, left = _chosen(files, tree)
    example = ["requirements.in"]
    about = pyproject.get("project", {})
    if about.get("dependencies") or "dependencies" in about.get("dynamic", ()):
        more = _left_out([*chosen, *left])
        return Setting(
            key="requirements",
            example=example,
            why="unsaid, [project].dependencies count; a file here is read in their place",
            more=more,
        )
    if not chosen:
        return Setting(
            key="requirements",
            example=example,
            why="no requirements file was found"
            + (
                "; what the package asks for is packed"
                if is_package(tree, pyproject)
                else ": own code alone is packed"
            ),
            more=_left_out(left),
        )
    return Setting(key="requirements", value=chosen, why="what predicting needs", more=_left_out(left))


def _left_out(names: list[str]) -> tuple[str, ...]:
    return (f"left out: {', '.join(names)}",) if names else ()


def _files(tree: Tree) -> list[str]:
    """Return requirements files: at the top, else one folder down, without those that another one compiles to."""
    near = [*tree.at(""), *tree.at("requirements")]
    if not any("requirement" in name for name in near):
        near += [
            name for folder in tree.folders_at("") for name in tree.at(folder) if folder != "requirements"
        ]
    named = [
        name
        for name in near
        if PurePosixPath(name).suffix in (".in", ".txt")
        and ("requirement" in name or PurePosixPath(name).name.startswith("reqs"))
    ]
    return [name for name in named if not _is_result(name, named, tree)]


def _is_result(name: str, named: list[str], tree: Tree) -> bool:
    source = f"{name.removesuffix('.txt')}.in"
    if not name.endswith(".txt") or source not in named:
        return False
    try:
        return is_compiled_output((tree.root / name).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def _chosen(names: list[str], tree: Tree) -> tuple[list[str], list[str]]:
    """Return the one file to read, those for predicting before the plain ones, and the others."""
    predicting = [name for name in names if _FOR_PREDICTING.search(PurePosixPath(name).stem)]
    plain = [name for name in ("requirements.in", "requirements.txt") if name in names]
    rest = [name for name in names if not _FOR_DEVELOPERS.search(PurePosixPath(name).stem)]
    readable = [name for name in (*predicting, *plain, *rest) if tree.size(name)]
    taken = readable[:1]
    return taken, [name for name in names if name not in taken]


def _locks(tree: Tree, frozen: list[str]) -> Setting:
    top = tree.at("")
    found = [name for name in top if name == "uv.lock" or re.fullmatch(r"pylock\.([\w-]+\.)?toml", name)]
    # The first file that names a package wins; one of each kind is enough.
    found += find_lock_names(top) + frozen[:1]
    if found:
        return Setting(key="locks", value=found, why="preferred versions; where they differ, the image wins")
    return Setting(
        key="locks",
        example=["uv.lock"],
        why="uv.lock, pylock.toml, poetry.lock, Pipfile.lock, pdm.lock, environment.yml or pip freeze files",
    )


def _code(tree: Tree, pyproject: Mapping[str, Any]) -> tuple[Setting, Setting]:
    modules = [*_module_folders(tree)]
    example = Setting(
        key="modules", example=["src"], why="folders of modules and .py files, shipped as they are"
    )
    if is_package(tree, pyproject):
        return Setting(key="packages", value=["."], why="built to a wheel"), example
    # a name alone, without a build backend, would have the whole folder built
    nothing: list[str] | None = [] if "name" in pyproject.get("project", {}) else None
    own = Setting(
        key="packages",
        value=nothing,
        example=["."],
        why="for a project with a build backend: built to a wheel",
    )
    if not modules:
        return own, example
    return own, Setting(key="modules", value=modules, why="shipped as they are")


def _module_folders(tree: Tree) -> list[str]:
    if any(name.endswith(".py") for name in tree.below("src")):
        return ["src"]
    tops = {top_of(name) for name in tree.files if name.count("/") == 1 and name.endswith("/__init__.py")}
    return sorted(tops - _NO_CODE)
