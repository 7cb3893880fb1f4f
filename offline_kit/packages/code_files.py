"""Tell which files of a project are code: the sources of a package, and loose modules."""

import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core import files, processes
from offline_kit.core.errors import OfflineKitError, ProjectError

_LARGEST_SOURCE = 20_000_000  # bytes; a larger file is not a source of a package
_LARGEST_COMPANION = 1_000_000  # bytes; a larger file beside modules is data, not part of the code
# Folders that never hold sources; hidden ones do not either.
_EXCLUDED_FOLDERS = "__pycache__ node_modules venv env.bak wandb lightning_logs mlruns site-packages"
# At the top of a package: what builds write, and files of offline-kit.
_OWN_NAMES = ("build", "dist", "offline-kit.lock.txt", "offline-kit.toml", "offline-kit-crash.log")
_SETTINGS_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_CODE_SUFFIXES = (".py", ".pyi", ".pyx", ".pxd", ".c", ".cc", ".cpp", ".cu", ".h", ".hpp", ".rs", ".f90")
# These build systems read files that no Python configuration names.
_OTHER_BUILD_FILES = ("meson.build", "CMakeLists.txt", "Cargo.toml")
# Files beside modules that are not shipped with them: data, weights (those are checkpoints), archives.
_DATA_SUFFIXES = (
    ".7z .avi .bin .bmp .bz2 .ckpt .flac .gif .gz .h5 .hdf5 .ico .ipynb .jpeg .jpg .joblib .log .mov .mp3 .mp4 "
    ".npy .npz .ogg .onnx .parquet .pickle .pkl .png .pt .pth .pyc .pyo .safetensors .tar .tgz .tif .tiff .wav "
    ".webp .whl .xz .zip"
)
_VCS = re.compile(
    r"setuptools[-_.]scm|setuptools[-_.]git|hatch[-_.]vcs|versioningit|versioneer|\bpbr\b|dunamai|dynamic[-_.]versioning"
    r"|tool\.pdm\.version|flit[-_.]scm",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class SourceTree:
    """The sources of one package."""

    root: Path
    names: tuple[str, ...]  # posix paths of its files below `root`, sorted
    oversized: tuple[str, ...]  # files that are left out as too large
    digest: str  # of names, modes and contents, and of the commit if the version comes from git
    wants_git: bool  # whether its version comes from git


def read_source_tree(root: Path) -> SourceTree:
    """Return the sources of a package, without data, build outputs, caches and what git ignores.

    Raises ProjectError for a folder that is not a package.
    """
    if not any((root / name).is_file() for name in _SETTINGS_FILES):
        raise ProjectError(
            f"'{root}' is not a package: it has neither pyproject.toml nor setup.py",
            code="package-invalid",
            hint="remove it from `packages`; list folders of plain modules under `modules`",
        )
    build_settings = _read_build_settings(root)
    wants_git = bool(_VCS.search(build_settings)) and (root / ".git").exists()
    names = sorted(_list_git_files(root, everything=wants_git) or _list_disk_files(root))
    oversized: list[str] = []
    digest = hashlib.sha256()
    if wants_git:
        # setuptools-scm and its like derive the version from the last tag and the distance to it.
        for words in (["rev-parse", "HEAD"], ["describe", "--tags", "--long", "--always"]):
            result = processes.run_command(["git", "-C", root, *words], check=False)
            digest.update(result.out.encode())
    else:
        data = _find_data_folders(root, names, build_settings)
        names = [name for name in names if name.partition("/")[0] not in data or "/" not in name]
        oversized = [name for name in names if (root / name).stat().st_size > _LARGEST_SOURCE]
        names = [name for name in names if name not in oversized]
    for name in names:
        mode = "x" if _is_executable(root / name) else "-"
        digest.update(f"{name}\0{mode}\0{files.sha256_of(root / name)}\n".encode())
    return SourceTree(
        root=root,
        names=tuple(names),
        oversized=tuple(oversized),
        digest=digest.hexdigest(),
        wants_git=wants_git,
    )


def copy_tree(tree: SourceTree, folder: Path) -> Path:
    """Copy a package's sources into a new folder with fixed modes, and return it.

    If the version comes from git, the copy is a working tree of the same repository, which is only read.
    """
    for name in tree.names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        shutil.copyfile(tree.root / name, target)
        # git, too, tracks only the execute bit.
        target.chmod(0o755 if _is_executable(tree.root / name) else 0o644)
    if tree.wants_git:
        # A .git file instead of a folder: git-scm.com/docs/gitrepository-layout
        result = processes.run_command(["git", "-C", tree.root, "rev-parse", "--absolute-git-dir"])
        (folder / ".git").write_text(f"gitdir: {result.out.strip()}\n")
    return folder


def list_module_files(path: Path) -> tuple[Path, ...]:
    """Return the files to ship for a module or a folder of modules: code, and other small files unless they are data."""
    if path.is_file():
        return (path,)
    shipped = []
    for file in sorted(_walk_files(path)):
        is_visible = not file.name.startswith(".") and file.is_file()
        is_companion = (
            is_visible
            and file.suffix.lower() not in _DATA_SUFFIXES.split()
            and file.stat().st_size <= _LARGEST_COMPANION
        )
        if is_companion or (is_visible and file.suffix in _CODE_SUFFIXES):
            shipped.append(file)
    return tuple(shipped)


def _walk_files(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, without hidden folders, caches and environments."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not _is_excluded_folder(Path(folder) / name))
        for name in names:
            yield Path(folder) / name


def _is_excluded_folder(folder: Path) -> bool:
    return (
        folder.name.startswith(".")
        or folder.name in _EXCLUDED_FOLDERS.split()
        or folder.name.endswith((".egg-info", ".dist-info"))
        or (folder / "pyvenv.cfg").exists()  # a virtual environment (PEP 405)
        or (folder / "dataset" / "offline-kit.json").exists()  # a kit
    )


def _list_disk_files(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in _walk_files(root) if _is_source_file(path, root)]


def _is_source_file(path: Path, root: Path) -> bool:
    top = path.relative_to(root).parts[0]
    return path.is_file() and path.suffix not in (".pyc", ".pyo") and top not in _OWN_NAMES


def _list_git_files(root: Path, *, everything: bool) -> list[str]:
    """Return the sources that git tracks or would track; nothing if the folder is not in a repository."""
    # -z: git quotes unusual names otherwise. --others --exclude-standard: untracked, but not ignored.
    words = ["ls-files", "-z", "--cached", *([] if everything else ["--others", "--exclude-standard"])]
    try:
        result = processes.run_command(["git", "-C", root, *words], check=False, timeout=60)
    except OfflineKitError:
        return []
    names = [name for name in result.out.split("\0") if name] if result.succeeded else []
    if everything:
        return [name for name in names if (root / name).is_file()]
    if not set(_SETTINGS_FILES) & set(names):
        return []
    tracked = {
        name
        for name in names
        if _is_source_file(root / name, root)
        and not any(_is_excluded_folder(folder) for folder in (root / name).parents if root in folder.parents)
    }
    # "data/" in .gitignore also matches the package plants/data, which most build backends include anyway.
    return [*(tracked | {name for name in _list_disk_files(root) if name.endswith(".py") and "/" in name})]


def _find_data_folders(root: Path, names: Iterable[str], build_settings: str) -> set[str]:
    """Return folders at the top that hold no code and are not mentioned in the build configuration."""
    if any((root / name).is_file() for name in _OTHER_BUILD_FILES):
        return set()
    coded = {name.partition("/")[0] for name in names if "/" in name and name.endswith(_CODE_SUFFIXES)}
    tops = {name.partition("/")[0] for name in names if "/" in name} - coded
    return {top for top in tops if not re.search(rf"(?<![\w-]){re.escape(top)}(?![\w-])", build_settings)}


def _read_build_settings(root: Path) -> str:
    """Return the build configuration as text, without our own table."""
    texts = [
        (root / name).read_text(encoding="utf-8", errors="replace")
        for name in ("setup.py", "setup.cfg", "MANIFEST.in", "hatch.toml")
        if (root / name).is_file()
    ]
    path = root / "pyproject.toml"
    if path.is_file():
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ProjectError(
                f"'{path}' is not valid TOML: {error}", code="toml-invalid", hint="fix its syntax"
            ) from error
        tools = data.get("tool", {})
        tools.pop("offline-kit", None)
        texts.append(json.dumps(data, default=str))
        texts += [f"tool.{name}.{key}" for name, table in tools.items() for key in table]
    return "\n".join(texts)


def _is_executable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o100)
