"""Watch one run of a script in the user's environment, and propose requirements, modules and files from what it used."""

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from offline_kit.core import files, processes, resources
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.init import project_facts
from offline_kit.init.config_toml import DetectedSettings
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.init.trained_files import PICTURES, TABLES
from offline_kit.kit.layout import RUNTIME_PACKAGE
from offline_kit.notebook.runtime import kit_hooking, kit_recording
from offline_kit.notebook.runtime.kit_recording import redact
from offline_kit.notebook.runtime.kit_runtime import CACHES
from offline_kit.project import images, import_names, references
from offline_kit.project.package_lists import normalize_name

REQUIREMENTS, VERSIONS = "requirements-recorded.in", "requirements-recorded.txt"
_NOT_SHIPPED = PICTURES | TABLES | {".cfg", ".ipynb", ".lock", ".py", ".pyc", ".pyd", ".so", ".toml"}
_TEXTS = frozenset({".cfg", ".ini", ".json", ".py", ".toml", ".yaml", ".yml"})
_NAME = re.compile(r"(?m)^\s*([A-Za-z0-9][\w.-]*)")
_NO_MODELS = frozenset(
    {"competitions", "datasets", "fontconfig", "matplotlib", "mesa_shader_cache", "offline-kit", "pip", "uv"}
)
"""Folders of caches that hold inputs, or what no model needs."""


@dataclass(frozen=True, kw_only=True)
class ImportedDistribution:
    """A distribution of which the script imported modules."""

    name: str  # normalized
    version: str
    requires: Sequence[str]  # as in its metadata
    imports: Sequence[str]  # its top-level names
    origin: str  # content of direct_url.json; empty for one of the index


Event = dict[str, Any]  # what a watched process opened, listed or had imported at its end


def watch_script(command: str, project: Path, report: Reporter = SILENT) -> list[Event]:
    """Run a command in the project's folder, unchanged, and return what its Python processes did.

    Its output goes to stderr. Raises UsageError if there is no such program, and ProjectError if it fails, with its exit
    code, or if no Python process of it could be watched.
    """
    words: list[str] = []
    with suppress(ValueError):  # a quote that is not closed
        words = shlex.split(command, posix=os.name != "nt")
    words = [word.strip('"') for word in words] if os.name == "nt" else words
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise UsageError(
            f"'{command}' names no program that can be run",
            hint='write the command as in a shell: --record "python predict.py"',
            code="command-not-found",
        )
    with tempfile.TemporaryDirectory(prefix="offline-kit-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        runtime = files.make_folder(folder / "hooks" / RUNTIME_PACKAGE)
        for name, content in resources.runtime_files().items():
            # The package's own __init__ imports what the script does not need.
            (runtime / name).write_bytes(b"" if name == "__init__.py" else content)
        shutil.copyfile(Path(__file__).with_name("watched_process.py"), runtime / "watched_process.py")
        kit_hooking.write_sitecustomize(folder / "hooks", "watched_process", "watch_process")
        search_path = [str(folder / "hooks"), *filter(None, [os.environ.get("PYTHONPATH")])]
        changes = {
            "PYTHONPATH": os.pathsep.join(search_path),
            "OFFLINE_KIT_WORKING": str(project.resolve()),
            kit_recording.RECORDER: scratch,
        }
        report.step(f"running '{command}'")
        environment = processes.copy_environment(**changes)
        code = processes.run_in_terminal([program, *words[1:]], cwd=project, env=environment)
        events = kit_recording.read_events(folder)
    if code:
        error = ProjectError(
            f"'{command}' ended with exit code {code}, and nothing was written",
            hint="make it run to its end first, then run the same command again",
            code="recorded-command-failed",
        )
        # As shells have it: a signal n becomes 128 + n.
        error.exit_code = code if code > 0 else 128 - code
        raise error
    if not any(event["event"] == "modules" for event in events):
        raise ProjectError(
            f"'{command}' started no Python process that can be watched",
            hint="start a script with Python 3.10 or newer, without -I, -E and -S, and let it end without os._exit",
            code="script-not-watched",
        )
    return events


class RecordedProject:
    """A project, and what a run of its script used."""

    def __init__(
        self, events: Sequence[Event], tree: FileTree, pyproject: Mapping[str, Any], table: Mapping[str, Any]
    ) -> None:
        """Take a run and the project's files; `table` is the existing configuration."""
        self._tree, self._pyproject, self._table = tree, pyproject, table
        self._root, known = tree.root.resolve(), frozenset(tree.files)
        opened = [event for event in events if event["event"] == "open"]
        written = {event["path"] for event in opened if event["mode"] == "w"}
        read = dict.fromkeys(event["path"] for event in opened if event["path"] not in written)
        self._read = [self._resolve(path) for path in read]  # in the order of their first use
        self._opened = {name: path for path in self._read if (name := self._name_file(path)) in known}
        listed = [self._resolve(event["path"]) for event in events if event["event"] == "list"]
        self._listed = set(map(self._name_file, listed))
        texts = [path for path in self._opened.values() if path.suffix in _TEXTS]
        self._texts = [path.read_text(encoding="utf-8", errors="replace") for path in texts]
        ended = [event for event in events if event["event"] == "modules"]
        # Modules below the project, by dotted name
        self._modules = {
            name: self._resolve(path) for event in ended for name, path in event["files"].items()
        }
        own_names = {"offline-kit", normalize_name(str(pyproject.get("project", {}).get("name", "")))}
        named = {normalize_name(facts["name"]): facts for event in ended for facts in event["distributions"]}
        self._distributions = [
            ImportedDistribution(**facts | {"name": name})
            for name, facts in sorted(named.items())
            if name not in own_names
        ]

    def _resolve(self, named: str) -> Path:
        """Return the path that the watched process named, in which the project was the working folder."""
        root, _, below = named.partition("/")
        return self._root / below if root == "{working}" else kit_recording.resolve_path(named)

    def _name_file(self, path: Path) -> str:
        """Return a file's name in the project, "" outside of it."""
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else ""

    def list_read_files(self) -> list[str]:
        """Return the project's files that the run read, without code, inputs and outputs."""
        return [
            name
            for name in self._tree.files
            if name in self._opened
            and top_folder(name) not in DATA_FOLDERS
            and PurePosixPath(name).suffix.lower() not in _NOT_SHIPPED
        ]

    def is_named(self, name: str) -> bool:
        """Whether a file's folder was listed, or its name is in a text, perhaps with what fills in its number."""
        folder, _, base = name.rpartition("/")
        # "fold0.onnx" may be written as "fold{n}.onnx", "fold%d.onnx" or "fold*.onnx".
        filled = r"[{%*][^'\"\n]*?".join(map(re.escape, re.split(r"\d+", base)))
        return folder in self._listed or any(base in text or re.search(filled, text) for text in self._texts)

    def add_settings(self, detected: DetectedSettings) -> None:
        """Add what the run imported, and the caches of hubs that it read."""
        if used := self._distributions:
            self._add_requirements(detected, used)
            pins = [f"{distribution.name}=={distribution.version}\n" for distribution in used]
            detected.files[VERSIONS] = "# The versions that a recorded run imported\n" + "".join(pins)
            locks = dict.fromkeys([VERSIONS, *detected.list_values("locks")])
            detected.change("locks", [*locks], "the recorded run's versions are preferred; the image's win")
        if modules := self._list_modules():
            detected.change("modules", modules, "imported by the recorded run; shipped unchanged")
        if caches := _find_caches(self._read):
            values = [*detected.list_values("preprocessing"), *caches]
            detected.change("preprocessing", values, "loaded by name; caches/ has what hubs sent")
        for pattern, folder in caches.items():
            link = "/".join(pattern.split("/")[:2])
            if not (self._root / link).exists():
                detected.links[link] = folder

    def _add_requirements(self, detected: DetectedSettings, used: Sequence[ImportedDistribution]) -> None:
        """Add a file with the requirements that the project's own ones do not cover, or a note if none can be added."""
        metadata = self._pyproject.get("project", {})
        own_files = [name for name in detected.list_values("requirements") if name != REQUIREMENTS]
        files = [self._root / name for name in self._table.get("requirements", own_files)]
        lines = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()]
        stated = _NAME.findall("\n".join([*lines, *metadata.get("dependencies", ())]))
        required = {distribution.name: _list_required(distribution) for distribution in used}
        covered = list(map(normalize_name, stated))
        for name in covered:  # grows while it is walked
            covered += [other for other in required.get(name, ()) if other not in covered]
        added = []
        for distribution in self._list_needed(used):
            line = _format_requirement(distribution)
            # Distributions with the same modules, such as opencv-python's four, are as good as one another.
            owners = map(import_names.find_distributions, distribution.imports)
            twins = {name for names in owners if distribution.name in names for name in names}
            if not line:
                note = f"'{distribution.name}' is installed from a folder: add that to `packages`"
                detected.notes.append(note)
            elif not {distribution.name, *twins} & {*covered}:
                added.append(line)
        is_fixed = "requirements" in self._table or "dependencies" in {
            *metadata,
            *metadata.get("dynamic", ()),
        }
        if added and is_fixed:
            detected.notes.append(f"imported, but not among the requirements: {', '.join(added)}")
        elif added:
            detected.files[REQUIREMENTS] = "\n".join(["# Imported by a recorded run", *added, ""])
            reason = "with what the recorded run imported"
            detected.change("requirements", [*own_files, REQUIREMENTS], reason)

    def _list_needed(self, used: Sequence[ImportedDistribution]) -> Iterator[ImportedDistribution]:
        """Yield the distributions that the project imports, and optional parts of others that the image lacks."""
        image = images.load_image(images.choose_default_image("none"), accelerator="none", project=self._root)
        code = [path for path in self._opened.values() if path.suffix == ".py"]
        imported = {names[0] for path in code for names in references.list_absolute_imports(path)}
        required = {name for distribution in used for name in _list_required(distribution)}
        for distribution in used:
            is_optional = distribution.name not in required and distribution.name not in image.packages
            if is_optional or imported & set(distribution.imports) or distribution.origin:
                yield distribution

    def _list_modules(self) -> list[str]:
        """Return the project's packages and single modules that were imported, without those of its wheel."""
        is_packaged = project_facts.is_buildable(self._tree, self._pyproject)
        paths = set()
        for name, path in self._modules.items():
            file = self._name_file(path)
            depth = len(name.split(".")) + (path.name == "__init__.py")
            parts = PurePosixPath(file).parts
            root = parts[: max(len(parts) - depth, 0)]
            top = "/".join(parts[: len(root) + 1])
            in_wheel = root == ("src",) or (not root and f"{top}/__init__.py" in self._tree.files)
            if file in self._tree.files and not (is_packaged and in_wheel):
                paths.add(top)
        return sorted(paths)


def _list_required(distribution: ImportedDistribution) -> list[str]:
    required = []
    for line in distribution.requires:
        with suppress(InvalidRequirement):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                required.append(normalize_name(requirement.name))
    return required


def _format_requirement(distribution: ImportedDistribution) -> str:
    """Return a line for the requirements; "" for a distribution that was installed from a folder."""
    if not distribution.origin:
        return distribution.name
    origin = json.loads(distribution.origin)
    url = redact(str(origin["url"]))
    if source := origin.get("vcs_info"):
        return f"{distribution.name} @ {source['vcs']}+{url}@{source['commit_id']}"
    return f"{distribution.name} @ {url}" if "archive_info" in origin else ""


def _find_caches(read: Sequence[Path]) -> dict[str, Path]:
    """Return what a run read of hubs' caches: the folder of each cache by the pattern below `caches/`."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    usual = {
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
    for path in read:
        name = next((name for name, root in roots.items() if path.is_relative_to(root)), "")
        parts = path.relative_to(roots[name]).parts if name else ()
        # At the top lie tokens and settings; a repository of Hugging Face is hub/models--owner--name.
        is_setting = len(parts) < 2 or (name == "huggingface" and parts[0] == "hub" and "--" not in parts[1])
        if not is_setting and parts[0] not in _NO_MODELS:
            depth = 3 if parts[1] in ("checkpoints", "transformers_modules") else 2
            caches["/".join(("caches", name, *parts[:depth]))] = roots[name]
    return caches
