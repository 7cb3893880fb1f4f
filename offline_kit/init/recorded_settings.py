"""Propose requirements, modules and files from what one run of a script used."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from offline_kit.init import project_packages
from offline_kit.init.config_toml import DetectedSettings
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.init.script_run import ImportedDistribution, ScriptRun
from offline_kit.init.trained_files import PICTURES, TABLES
from offline_kit.notebook.runtime.kit_recording import redact
from offline_kit.notebook.runtime.kit_runtime import CACHES
from offline_kit.project import images, import_names, references
from offline_kit.project.package_lists import normalize_name

REQUIREMENTS, VERSIONS = "requirements-recorded.in", "requirements-recorded.txt"
_NOT_SHIPPED = PICTURES | TABLES | {".cfg", ".ipynb", ".lock", ".py", ".pyc", ".pyd", ".so", ".toml"}
_NAME = re.compile(r"(?m)^\s*([A-Za-z0-9][\w.-]*)")
_TEXTS = frozenset({".cfg", ".ini", ".json", ".py", ".toml", ".yaml", ".yml"})
_NO_MODELS = frozenset(
    {"fontconfig", "matplotlib", "mesa_shader_cache", "offline-kit", "pip", "pypoetry", "uv"}
)
"""Folders of ~/.cache that hold nothing that a model needs."""


def list_used_files(tree: FileTree, run: ScriptRun) -> list[str]:
    """Return the project's files that a run read, without code, inputs and outputs."""
    opened = {_name_file(path, tree.root) for path in run.opened}
    return [
        name
        for name in tree.files
        if name in opened
        and top_folder(name) not in DATA_FOLDERS
        and PurePosixPath(name).suffix.lower() not in _NOT_SHIPPED
    ]


class NamedFiles:
    """What the code and the settings that a run read say about files, and the folders that it listed."""

    def __init__(self, tree: FileTree, run: ScriptRun) -> None:
        texts = [path for path in run.opened if path.suffix in _TEXTS and _name_file(path, tree.root)]
        self._texts = [path.read_text(encoding="utf-8", errors="replace") for path in texts]
        self._folders = {_name_file(path, tree.root) for path in run.listed}

    def is_named(self, name: str) -> bool:
        """Whether a file's folder was listed, or its name is in a text, perhaps with what fills in its number."""
        folder, _, base = name.rpartition("/")
        # "fold0.onnx" may be written as "fold{n}.onnx", "fold%d.onnx" or "fold*.onnx".
        filled = r"[{%*][^'\"\n]*?".join(map(re.escape, re.split(r"\d+", base)))
        return folder in self._folders or any(base in text or re.search(filled, text) for text in self._texts)


def add_recorded(
    detected: DetectedSettings,
    run: ScriptRun,
    tree: FileTree,
    pyproject: Mapping[str, Any],
    table: Mapping[str, Any],
) -> None:
    """Add to detected settings what a run imported, and the caches of hubs that it read.

    `table` is the existing configuration.
    """
    _add_requirements(detected, run, tree, pyproject, table)
    packaged = project_packages.is_buildable(tree, pyproject)
    if modules := _list_module_paths(run, tree, packaged=packaged):
        detected.change("modules", modules, "imported by the recorded run; shipped unchanged")
    if caches := _find_caches(run):
        values = [*_value_of(detected, "preprocessing"), *caches]
        detected.change("preprocessing", values, "loaded by name; caches/ has what hubs sent")
    for pattern, folder in caches.items():
        link = "/".join(pattern.split("/")[:2])
        if not (tree.root / link).exists():
            detected.links[link] = folder


def _add_requirements(
    detected: DetectedSettings,
    run: ScriptRun,
    tree: FileTree,
    pyproject: Mapping[str, Any],
    table: Mapping[str, Any],
) -> None:
    metadata = pyproject.get("project", {})
    own_names = {"offline-kit", normalize_name(str(metadata.get("name", "")))}
    used = [distribution for distribution in run.distributions if distribution.name not in own_names]
    own_files = [name for name in _value_of(detected, "requirements") if name != REQUIREMENTS]
    files = [tree.root / name for name in table.get("requirements", own_files)]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()]
    stated = {
        normalize_name(name) for name in _NAME.findall("\n".join([*texts, *metadata.get("dependencies", ())]))
    }
    required = {distribution.name: [*_list_required(distribution)] for distribution in used}
    covered = [*stated]
    for name in covered:  # grows while it is walked
        covered += [other for other in required.get(name, ()) if other not in covered]
    lines = []
    for distribution in _list_needed(used, run, tree):
        line = _format_requirement(distribution)
        if not line:
            detected.notes.append(f"'{distribution.name}' is installed from a folder: add that to `packages`")
        elif not _list_twins(distribution) & {*covered}:
            lines.append(line)
    if used:
        pins = [f"{distribution.name}=={distribution.version}\n" for distribution in used]
        detected.files[VERSIONS] = "# The versions that a recorded run imported\n" + "".join(pins)
        locks = dict.fromkeys([VERSIONS, *_value_of(detected, "locks")])
        detected.change("locks", [*locks], "the recorded run's versions are preferred; the image's win")
    if lines and ("requirements" in table or "dependencies" in {*metadata, *metadata.get("dynamic", ())}):
        detected.notes.append(f"imported, but not among the requirements: {', '.join(lines)}")
    elif lines:
        detected.files[REQUIREMENTS] = "# Imported by a recorded run\n" + "".join(
            f"{line}\n" for line in lines
        )
        detected.change("requirements", [*own_files, REQUIREMENTS], "with what the recorded run imported")


def _value_of(detected: DetectedSettings, key: str) -> Sequence[Any]:
    values = [setting.value for setting in detected.settings if setting.key == key]
    return values[0] if values and isinstance(values[0], list) else ()


def _list_needed(
    used: Sequence[ImportedDistribution], run: ScriptRun, tree: FileTree
) -> Iterator[ImportedDistribution]:
    """Yield the distributions that the project imports, and optional parts of others that the image lacks."""
    image = images.load_image(images.choose_default_image("none"), accelerator="none", project=tree.root)
    files = [
        path for path in run.opened if path.suffix == ".py" and _name_file(path, tree.root) in tree.files
    ]
    imported = {names[0] for path in files for names in references.list_absolute_imports(path)}
    required = {name for distribution in used for name in _list_required(distribution)}
    for distribution in used:
        is_optional = distribution.name not in required and distribution.name not in image.packages
        if is_optional or imported & set(distribution.imports) or distribution.origin:
            yield distribution


def _list_required(distribution: ImportedDistribution) -> Iterator[str]:
    for line in distribution.requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield normalize_name(requirement.name)


def _list_twins(distribution: ImportedDistribution) -> set[str]:
    """Return the names of distributions with the same modules, such as opencv-python's four, itself included."""
    twins = [import_names.find_distributions(name) for name in distribution.imports]
    return {distribution.name, *(name for names in twins if distribution.name in names for name in names)}


def _format_requirement(distribution: ImportedDistribution) -> str:
    """Return a line for the requirements; "" for a distribution that was installed from a folder."""
    if not distribution.origin:
        return distribution.name
    origin = json.loads(distribution.origin)
    url = redact(str(origin["url"]))
    if source := origin.get("vcs_info"):
        return f"{distribution.name} @ {source['vcs']}+{url}@{source['commit_id']}"
    return f"{distribution.name} @ {url}" if "archive_info" in origin else ""


def _list_module_paths(run: ScriptRun, tree: FileTree, *, packaged: bool) -> list[str]:
    """Return the packages and single modules of the project that a run imported, without those of its wheel."""
    paths = set()
    for name, path in run.modules.items():
        file = _name_file(path, tree.root)
        if file not in tree.files:
            continue
        depth = len(name.split(".")) + (path.name == "__init__.py")
        parts = PurePosixPath(file).parts
        root = parts[: max(len(parts) - depth, 0)]
        top = "/".join(parts[: len(root) + 1])
        is_package = f"{top}/__init__.py" in tree.files
        if not (packaged and (root == ("src",) or (is_package and not root))):
            paths.add(top)
    return sorted(paths)


def _find_caches(run: ScriptRun) -> dict[str, Path]:
    """Return what a run read of hubs' caches: the folder of each cache by the pattern below `caches/`."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    usual = {
        "sentence_transformers": user_cache / "torch" / "sentence_transformers",
        "nltk_data": Path.home() / "nltk_data",
        "keras": Path.home() / ".keras",
        "tfhub": Path(tempfile.gettempdir()) / "tfhub_modules",
        "gensim-data": Path.home() / "gensim-data",
        "xdg": user_cache,
    }
    roots = {
        name: Path(os.environ.get(variable) or usual.get(name, user_cache / name))
        for name, variable in CACHES.items()
    }
    caches = {}
    for path in run.opened:
        name = next((name for name, root in roots.items() if path.is_relative_to(root)), "")
        parts = path.relative_to(roots[name]).parts if name else ()
        # At the top lie tokens and settings; a repository of Hugging Face is hub/models--owner--name.
        if (
            len(parts) < 2
            or parts[0] in _NO_MODELS
            or (parts[0] == "hub" and name == "huggingface" and "--" not in parts[1])
        ):
            continue
        depth = 3 if parts[1] in ("checkpoints", "transformers_modules") else 2
        caches["/".join(("caches", name, *parts[:depth]))] = roots[name]
    return caches


def _name_file(path: Path, root: Path) -> str:
    """Return a file's name in the project, "" outside of it."""
    for base in (root, root.resolve()):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return ""
