"""Plan the adoption of a notebook that needs the internet: the keys that go into the configuration, and why."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from offline_kit.adopt import adopted_notebook, cell_edits, inspection, notebook_metadata
from offline_kit.adopt.findings import Adoption, ExternalNeed, NeedKind, Outcome
from offline_kit.core import files, processes
from offline_kit.core.errors import OfflineKitError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.init import competition as contest
from offline_kit.init import config_toml, file_tree
from offline_kit.init.config_toml import Setting
from offline_kit.project import config
from offline_kit.project import images as image
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.config import Config
from offline_kit.project.config_keys import KEYS
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import make_dataset_slug

_HEADER = "# What {} installs and imports; written by `offline-kit adopt`, and yours to change.\n"

_REQUIRED_KEYS = frozenset({"checkpoints", "modules"})
"""Keys without which the build or the notebook fails; so are the requirements files that it installs."""


@dataclass(frozen=True, kw_only=True)
class _MissingEntries:
    """The entries that an existing key lacks."""

    key: str
    missing: tuple[str, ...]
    message: str
    corrected_line: str


@dataclass(frozen=True, kw_only=True)
class AdoptionPlan:
    """What adopting a notebook would write."""

    adoption: Adoption
    image: Image
    config_file: Path
    old_text: str
    """Text of the configuration file; empty if there is none."""
    new_text: str
    requirements_file: Path
    requirements_text: str
    """New text of the requirements file; empty if none is needed."""
    manual_steps: tuple[str, ...] = ()
    """What to add to existing keys, which are not changed."""
    lines_to_add: tuple[str, ...] = ()
    """The corrected line of each of these keys."""
    is_blocking: bool = False
    """Whether the build or the notebook fails without the manual steps."""

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to write."""
        old_requirements = _read_text(self.requirements_file)
        return self.new_text != self.old_text or self.requirements_text not in ("", old_requirements)

    @property
    def unified_diff(self) -> str:
        """One diff of the configuration, the requirements and the notebook's percent script."""
        old = _read_text(self.requirements_file)
        new = self.requirements_text or old
        parts = (
            cell_edits.diff_lines(
                self.old_text.splitlines(), self.new_text.splitlines(), self.config_file.name
            ),
            cell_edits.diff_lines(old.splitlines(), new.splitlines(), self.requirements_file.name),
            cell_edits.diff_cells(self.adoption.cells, self.adoption.changed, self.adoption.notebook.name),
        )
        return "".join(parts)


def plan_adoption(
    notebook: Path, project: Path, report: Reporter = SILENT, imports: Mapping[str, str] | None = None
) -> AdoptionPlan:
    """Inspect a notebook and return what adopting it would write; write, run and download nothing.

    Args:
        imports: Distribution by import name, for imports that no table names.

    Raises:
        UsageError: The notebook does not exist or is outside the project, or the configuration is invalid.
        ProjectError: The file is not a Python notebook.
    """
    root = project.expanduser().absolute()
    source = _relative_source(notebook, root)
    report.step(f"Inspecting '{source}'")
    current = config.load_config(root, {})
    tree = file_tree.scan_tree(root)
    accelerator, metadata_accelerator = _choose_accelerator(current, root / source)
    chosen_image = image.load_image(current.image, accelerator=accelerator or "none", project=root)
    settings = {setting.key: setting for setting in contest.propose_competition(tree).settings}
    competition = current.competition or str(settings["competition"].value or "")
    attached = adopted_notebook.list_attached(current.notebook, competition)
    stated_imports = [f"{distribution}  # import {name}" for name, distribution in (imports or {}).items()]
    lines = (*stated_imports, *adopted_notebook.read_requirement_comments(root, source))
    adoption = replace(
        inspection.inspect_notebook(root / source, root, chosen_image, attached, lines),
        accelerator=metadata_accelerator,
    )
    adoption = replace(adoption, requirements=(*adoption.requirements, *stated_imports))
    return _build_plan(current, source, adoption, chosen_image, settings)


def write_adoption(plan: AdoptionPlan) -> tuple[Path, ...]:
    """Write the plan and return the changed files; raise OutsideError if one cannot be written."""
    written = []
    for path, old, new in (
        (plan.requirements_file, _read_text(plan.requirements_file), plan.requirements_text),
        (plan.config_file, plan.old_text, plan.new_text),
    ):
        if new and new != old:
            files.write_atomic(path.resolve(), new.encode("utf-8"))
            written.append(path)
    return tuple(written)


def _relative_source(notebook: Path, root: Path) -> str:
    path = notebook.expanduser().absolute()
    if not path.is_file():
        raise UsageError(
            f"there is no notebook '{notebook}'",
            hint="name the .ipynb file to adopt",
            code="notebook-not-found",
        )
    if not path.is_relative_to(root):
        raise UsageError(
            f"'{notebook}' is outside the project '{root}'",
            hint="pass the project's folder after the notebook, or copy the notebook into the project",
            code="notebook-outside-project",
        )
    return path.relative_to(root).as_posix()


def _choose_accelerator(current: Config, notebook: Path) -> tuple[str, str]:
    """Return the accelerator to choose an image for, and the one to write into the configuration."""
    accelerator = notebook_metadata.read_metadata(notebook).accelerator
    if current.accelerator not in ("", "none"):
        return current.accelerator, ""
    try:
        return (accelerator, accelerator) if find_machine_shape(accelerator) else ("", "")
    except OfflineKitError:
        return "", ""  # unknown to Kaggle: `inspection` reports it


def _build_plan(
    current: Config, source: str, adoption: Adoption, chosen: Image, detected: Mapping[str, Setting]
) -> AdoptionPlan:
    root = current.project
    config_file = current.source or _default_config_file(root)
    old = _read_text(config_file)
    document = tomllib.loads(old)
    nested = config_file.name == "pyproject.toml" or "offline-kit" in document.get("tool", {})
    table = document.get("tool", {}).get("offline-kit", {}) if nested else document
    if "accelerator" in table:
        adoption = replace(adoption, resolved=tuple(filter(_is_unsettled, adoption.resolved)))
    needed, lines = _plan_requirements(root, source, adoption)
    settings = [
        *_list_settings(current, source, adoption, chosen, detected),
        *_list_contents(needed, lines, adoption, root),
    ]
    lacks: tuple[_MissingEntries, ...] = ()
    if current.source is None:
        new = config_toml.add_configuration(old, settings, nested=nested, where=str(config_file))
    else:
        new, lacks = _extend_config(old, table, settings, nested=nested, where=str(config_file))
    return AdoptionPlan(
        adoption=adoption,
        image=chosen,
        config_file=config_file,
        old_text=old,
        new_text=new,
        requirements_file=needed,
        requirements_text=lines,
        manual_steps=tuple(entry.message for entry in lacks),
        lines_to_add=tuple(entry.corrected_line for entry in lacks),
        is_blocking=any(_is_required(entry, adoption) for entry in lacks),
    )


def _is_unsettled(need: ExternalNeed) -> bool:
    """Whether a need is still open if the configuration names an accelerator."""
    return need.kind is not NeedKind.SETTING or need.resolution is not Outcome.UNRESOLVED


def _default_config_file(root: Path) -> Path:
    pyproject = root / "pyproject.toml"
    return pyproject if pyproject.is_file() else root / "offline-kit.toml"


def _extend_config(
    old: str, table: Mapping[str, Any], settings: Iterable[Setting], *, nested: bool, where: str
) -> tuple[str, tuple[_MissingEntries, ...]]:
    """Return the text with the keys that it lacks, and the entries that its existing keys lack."""
    notebook = table.get("notebook", {})
    fresh, lacks = [], []
    for setting in settings:
        stated = notebook if setting.notebook else table
        if setting.value is None or (setting.key == "image" and "accelerator" in table):
            continue
        if setting.key not in stated:
            fresh.append(setting)
        elif missing := _find_missing(stated[setting.key], setting.value):
            lacks.append(_describe_missing(setting, stated[setting.key], missing, Path(where).name))
    return (config_toml.add_settings(old, fresh, nested=nested, where=where) if fresh else old), tuple(lacks)


def _describe_missing(setting: Setting, stated: object, missing: Sequence[str], file: str) -> _MissingEntries:
    merged: object = setting.value
    if isinstance(stated, list):
        merged = [*stated, *missing]
    elif isinstance(stated, dict) and isinstance(setting.value, dict):
        merged = {**stated, **{name: setting.value[name] for name in missing}}
    line = config_toml.format_tables(
        [Setting(key=setting.key, value=merged, reason="")], nested=False
    ).strip()
    names = ", ".join(repr(name) for name in missing)
    return _MissingEntries(
        key=setting.key,
        missing=tuple(missing),
        message=f"`{setting.key}` in '{file}' lacks {names}: add it ({setting.reason})",
        corrected_line=line,
    )


def _is_required(lack: _MissingEntries, adoption: Adoption) -> bool:
    """Whether the notebook fails without it; the generated requirements may be in another file, so they are not."""
    return lack.key in _REQUIRED_KEYS or bool({*lack.missing} & {*adoption.requirement_files})


def _find_missing(stated: object, wanted: object) -> list[str]:
    if isinstance(stated, list) and isinstance(wanted, list):
        return [entry for entry in wanted if not any(_covers_name(own, entry) for own in stated)]
    if isinstance(stated, dict) and isinstance(wanted, dict):
        return [entry for entry in wanted if entry not in stated]
    return [str(wanted)] if stated != wanted and isinstance(stated, str) and not stated else []


def _covers_name(own: str, name: str) -> bool:
    """Whether an entry of a list names this file: itself, a folder above it, or a pattern."""
    return own == name or name.startswith(f"{own.rstrip('/')}/") or fnmatchcase(name, own)


def _plan_requirements(root: Path, source: str, adoption: Adoption) -> tuple[Path, str]:
    """Return the notebook's requirements file and its new text."""
    notebook_file = root / f"{Path(source).stem}-requirements.in"
    common_file = root / "requirements.in"
    is_taken = (root / "requirements.txt").is_file() or (
        common_file.is_file() and not _is_own_file(common_file)
    )
    path = notebook_file if notebook_file.is_file() or is_taken else common_file
    old_text = _read_text(path)
    lines = old_text.splitlines()
    stated = {line.partition(" #")[0].strip() for line in lines}
    fresh = [line for line in adoption.requirements if line.partition(" #")[0].strip() not in stated]
    if not fresh and not (lines and adoption.requirements):
        return path, ""
    head = "" if old_text else _HEADER.format(source)
    return path, head + "".join(f"{line}\n" for line in [*lines, *fresh])


def _is_own_file(path: Path) -> bool:
    return _read_text(path).startswith(_HEADER.partition("{")[0])


def _list_settings(
    current: Config, source: str, adoption: Adoption, chosen: Image, detected: Mapping[str, Setting]
) -> list[Setting]:
    root, sources = current.project, adoption.sources
    competition = next(iter(sources.competitions), None)
    lists = (
        ("competition_sources", sources.competitions[1:]),
        ("dataset_sources", sources.datasets),
        ("kernel_sources", sources.notebooks),
        ("model_sources", sources.models),
    )
    machine = (
        Setting(key="accelerator", value=adoption.accelerator, reason=f"from {adoption.accelerator_source}")
        if adoption.accelerator
        else Setting(key="image", value=chosen.name, reason="the image that the notebook was checked against")
    )
    return [
        replace(
            detected["competition"],
            value=competition,
            reason="the notebook reads its data",
            comments=(),
        )
        if competition
        else detected["competition"],
        _place_data(root, competition, detected["competition_data"]),
        Setting(key="dataset", value=make_dataset_slug(current.name), reason="private, and yours"),
        machine,
        *_find_copies(root, adoption),
        Setting(key="source", value=source, reason="adopted; its cells are kept", notebook=True),
        *(
            Setting(key=key, value=list(names), reason="attached, as before", notebook=True)
            for key, names in lists
            if names
        ),
    ]


def _place_data(root: Path, competition: str | None, detected: Setting) -> Setting:
    if competition and (root / "input" / competition).is_dir():
        return replace(
            detected, value=f"input/{competition}", reason="a local copy, or part of it, for rehearsals"
        )
    return detected


def _list_contents(requirements_file: Path, lines: str, adoption: Adoption, root: Path) -> list[Setting]:
    """Return the settings of the kit's contents; an empty list keeps a build from detecting unneeded ones."""
    requirement_files = [*([requirements_file.name] if lines else []), *adoption.requirement_files]
    pyproject = root / "pyproject.toml"
    metadata = tomllib.loads(_read_text(pyproject)).get("project", {}) if pyproject.is_file() else {}
    settings = []
    if (
        requirement_files
        or metadata
        or any((root / name).is_file() for name in ("requirements.in", "requirements.txt"))
    ):
        reason = (
            "what the notebook installs and imports"
            if requirement_files
            else "the image has everything that the notebook needs"
        )
        settings.append(Setting(key="requirements", value=requirement_files, reason=reason))
    if adoption.packages or metadata:
        reason = "built to wheels" if adoption.packages else "the notebook installs nothing of the project"
        settings.append(Setting(key="packages", value=list(adoption.packages), reason=reason))
    if adoption.modules:
        settings.append(
            Setting(key="modules", value=list(adoption.modules), reason="imported by the notebook")
        )
    if adoption.checkpoints:
        settings.append(
            Setting(key="checkpoints", value=list(adoption.checkpoints), reason="read by the notebook")
        )
    return settings


def _find_copies(root: Path, adoption: Adoption) -> Iterable[Setting]:
    """Yield the setting with the local copies of the attached sources, for rehearsals."""
    by_kind = adoption.sources.by_kind()
    sources = [(kind, name) for kind in ("dataset", "notebook", "model") for name in by_kind[kind]]
    copies = {f"{kind}:{name}": folder for kind, name in sources if (folder := _find_copy(root, kind, name))}
    if copies and "copies" in KEYS:
        yield Setting(key="copies", value=copies, reason="local copies of what is attached, for rehearsals")


def _find_copy(root: Path, kind: str, name: str) -> str:
    path = name.partition("/")[2]
    for folder in (f"input/{kind}s/{name}", f"input/{path}", f"input/{path.partition('/')[0]}"):
        if (root / folder).is_dir():
            return folder
    environment = processes.copy_environment()
    # kagglehub's cache layout: https://github.com/Kaggle/kagglehub (src/kagglehub/cache.py)
    home = Path(environment.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
    if kind == "model":
        return str(home / "models" / name) if (home / "models" / name).is_dir() else ""
    versions = home / f"{kind}s" / name / ("versions" if kind == "dataset" else "output/versions")
    numbers = sorted(
        (int(version.name) for version in versions.glob("*") if version.name.isdigit()), reverse=True
    )
    return str(versions / str(numbers[0])) if numbers else ""


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read '{path}': {error}", hint="fix the file, or move it away", code="file-unreadable"
        ) from error
