"""Plan the adoption of a notebook that needs the internet: the keys that go into the configuration, and why."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from offline_kit.adopt import adopted_notebook, inspection, notebook_metadata
from offline_kit.adopt.findings import Adoption, NeedKind, NotebookCell
from offline_kit.core import files, processes
from offline_kit.core.errors import UsageError
from offline_kit.core.redaction import redact_secrets
from offline_kit.core.report import SILENT, Reporter
from offline_kit.init import config_toml, file_tree, project_facts
from offline_kit.init.config_toml import ConfigFile, Setting
from offline_kit.project import config, images
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import make_dataset_slug

_HEADER = "# What {} installs and imports; written by `offline-kit adopt`, and yours to change.\n"

_REQUIRED_KEYS = frozenset({"checkpoints", "modules"})
"""Keys without which the build or the notebook fails; so are the requirements files that it installs."""


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A text file before and after; the same text if nothing changes, empty before if there is none."""

    path: Path
    old: str
    new: str

    @property
    def has_changed(self) -> bool:
        """Whether there is anything to write."""
        return self.new != self.old


@dataclass(frozen=True, kw_only=True)
class AdoptionPlan:
    """What adopting a notebook would write."""

    adoption: Adoption
    image: Image
    requirements: FileChange
    config: FileChange
    manual_steps: tuple[tuple[str, str], ...]
    """What to add to existing keys, which are not changed, and the corrected line of each."""
    settings: tuple[Setting, ...]  # that the configuration lacks
    is_blocking: bool  # whether the build or the notebook fails without the manual steps

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to write."""
        return self.config.has_changed or self.requirements.has_changed

    @property
    def unified_diff(self) -> str:
        """One diff of the configuration, the requirements and the notebook's percent script."""
        parts = [
            _diff_lines(change.old.splitlines(), change.new.splitlines(), change.path.name)
            for change in (self.config, self.requirements)
        ]
        return "".join([*parts, diff_cells(self.adoption)])


def plan_adoption(
    notebook: Path,
    project: Path,
    report: Reporter = SILENT,
    imports: Mapping[str, str] | None = None,
    *,
    recorded: bool = False,
) -> AdoptionPlan:
    """Inspect a notebook and return what adopting it would write; write, run and download nothing.

    Args:
        imports: Distribution by import name, for imports that no table names.
        recorded: Whether a recording gives the kit's contents; the configuration then gets none, and no cell is changed.

    Raises:
        UsageError: The notebook does not exist or is outside the project, or the configuration is invalid.
        ProjectError: The file is not a Python notebook.
    """
    root = project.expanduser().absolute()
    source = _relative_source(notebook, root)
    report.step(f"Inspecting '{source}'")
    current = config.load_config(root, {})
    config_file = config_toml.locate_config(root)
    own_accelerator = ""  # to write into the configuration
    if current.accelerator in ("", "none"):
        own_accelerator = notebook_metadata.read_metadata(root / source).known_accelerator
    image = images.load_image(
        current.image, accelerator=own_accelerator or current.accelerator or "none", project=root
    )

    detected = project_facts.propose_competition(file_tree.scan_tree(root))
    competition = current.competition or str(detected[0].value or "")
    attached = adopted_notebook.list_attached(current.notebook, competition)
    stated_imports = [f"{distribution}  # import {name}" for name, distribution in (imports or {}).items()]
    lines = (*stated_imports, *adopted_notebook.read_requirement_comments(root, source))
    adoption = inspection.inspect_notebook(root / source, root, image, attached, lines)
    adoption = replace(
        adoption, accelerator=own_accelerator, requirements=(*adoption.requirements, *stated_imports)
    )
    if "accelerator" in (config_file.table or {}):  # which settles what the metadata left open
        open_settings = [need for need in adoption.unresolved if need.kind is NeedKind.SETTING]
        settled = tuple(need for need in adoption.resolved if need not in open_settings)
        adoption = replace(adoption, resolved=settled)

    if recorded:
        unchanged = tuple(cell.source for cell in adoption.cells)
        adoption = replace(adoption, requirements=(), changed=unchanged)
    requirements = _plan_requirements(root, source, adoption)
    settings = list(_list_settings(current, source, adoption, image, detected))
    settings += [] if recorded else _list_contents(requirements.path.name, adoption, root)
    fresh, incomplete = _compare_settings(config_file, settings)
    steps, is_blocking = list[tuple[str, str]](), False
    for setting, missing in incomplete:
        lacks = f"`{setting.key}` in '{config_file.path.name}' lacks {', '.join(map(repr, missing))}"
        line = _merge_line(setting, missing, config_file.table_of(setting)[setting.key])
        steps.append((f"{lacks}: add it ({setting.reason})", line))
        # the generated requirements may be in another file
        is_blocking |= setting.key in _REQUIRED_KEYS or bool({*missing} & {*adoption.requirement_files})
    new_text = config_file.add(fresh) if fresh else config_file.text
    return AdoptionPlan(
        adoption=adoption,
        image=image,
        requirements=requirements,
        config=FileChange(path=config_file.path, old=config_file.text, new=new_text),
        manual_steps=tuple(steps),
        settings=tuple(fresh),
        is_blocking=is_blocking,
    )


def write_adoption(plan: AdoptionPlan) -> tuple[Path, ...]:
    """Write the plan and return the changed files; raise OutsideError if one cannot be written."""
    changes = [change for change in (plan.requirements, plan.config) if change.has_changed]
    for change in changes:
        files.write_atomic(change.path.resolve(), change.new.encode("utf-8"))
    return tuple(change.path for change in changes)


def _relative_source(notebook: Path, root: Path) -> str:
    path = notebook.expanduser().absolute()
    if not path.is_file():
        raise UsageError(
            f"there is no notebook '{notebook}'",
            hint="name the .ipynb or .py file to adopt",
            code="notebook-not-found",
        )
    if not path.is_relative_to(root):
        raise UsageError(
            f"'{notebook}' is outside the project '{root}'",
            hint="pass the project's folder after the notebook, or copy the notebook into the project",
            code="notebook-outside-project",
        )
    return path.relative_to(root).as_posix()


def _compare_settings(
    config_file: ConfigFile, settings: Sequence[Setting]
) -> tuple[list[Setting], list[tuple[Setting, list[str]]]]:
    """Return the settings that the configuration lacks, and those of which it lacks some entries."""
    if config_file.table is None:
        return list(settings), []
    fresh, incomplete = list[Setting](), list[tuple[Setting, list[str]]]()
    for setting in settings:
        stated = config_file.table_of(setting)
        if setting.value is None or (setting.key == "image" and "accelerator" in config_file.table):
            continue
        if setting.key not in stated:
            fresh.append(setting)
        elif missing := _find_missing(stated[setting.key], setting.value):
            incomplete.append((setting, missing))
    return fresh, incomplete


def _find_missing(stated: object, wanted: object) -> list[str]:
    """Return the wanted entries that a stated value lacks; a folder or pattern stands for the files below it."""
    if isinstance(stated, list) and isinstance(wanted, list):
        folders = tuple(f"{own.rstrip('/')}/" for own in stated)
        rest = [entry for entry in wanted if entry not in stated and not entry.startswith(folders)]
        return [entry for entry in rest if not any(fnmatchcase(entry, own) for own in stated)]
    if isinstance(stated, dict) and isinstance(wanted, dict):
        return [entry for entry in wanted if entry not in stated]
    return [str(wanted)] if stated != wanted and stated == "" else []


def _merge_line(setting: Setting, missing: Sequence[str], stated: object) -> str:
    merged: object = setting.value
    if isinstance(stated, list):
        merged = [*stated, *missing]
    elif isinstance(stated, dict) and isinstance(setting.value, dict):
        merged = {**stated, **{name: setting.value[name] for name in missing}}
    return config_toml.format_tables([Setting(key=setting.key, value=merged)], nested=False).strip()


def _plan_requirements(root: Path, source: str, adoption: Adoption) -> FileChange:
    """Return the notebook's requirements file; it changes only if the notebook has requirements."""
    path, own_file = root / "requirements.in", root / f"{Path(source).stem}-requirements.in"
    is_ours = not path.is_file() or _read_text(path).startswith(_HEADER.partition("{")[0])
    if own_file.is_file() or (root / "requirements.txt").is_file() or not is_ours:
        path = own_file
    old_text = _read_text(path)
    if not adoption.requirements:
        return FileChange(path=path, old=old_text, new=old_text)
    lines = old_text.splitlines()
    stated = {line.partition(" #")[0].strip() for line in lines}
    lines += [line for line in adoption.requirements if line.partition(" #")[0].strip() not in stated]
    head = "" if old_text else _HEADER.format(source)
    return FileChange(path=path, old=old_text, new=head + "".join(f"{line}\n" for line in lines))


def _list_settings(
    current: Config, source: str, adoption: Adoption, image: Image, detected: tuple[Setting, Setting]
) -> Iterator[Setting]:
    """Yield the settings of the competition, the kit's dataset, the machine and what is attached."""
    root, sources, (competition, data) = current.project, adoption.sources, detected
    if slug := next(iter(sources.competitions), ""):
        competition = Setting(key="competition", value=slug, reason="the notebook reads its data")
        if (root / "input" / slug).is_dir():
            reason = "a local copy, or part of it, for rehearsals"
            data = Setting(key="competition_data", value=f"input/{slug}", reason=reason)
    yield from (competition, data)
    yield Setting(key="dataset", value=make_dataset_slug(current.name), reason="private, and yours")
    if adoption.accelerator:
        origin = f"from {adoption.accelerator_source}"
        yield Setting(key="accelerator", value=adoption.accelerator, reason=origin)
    else:
        yield Setting(key="image", value=image.name, reason="the image that the notebook was checked against")
    attached = {"dataset": sources.datasets, "notebook": sources.notebooks, "model": sources.models}
    named = [(kind, name) for kind, names in attached.items() for name in names]
    copies = {f"{kind}:{name}": folder for kind, name in named if (folder := _find_copy(root, kind, name))}
    if copies:
        yield Setting(key="copies", value=copies, reason="local copies of what is attached, for rehearsals")
    unit = "lines" if adoption.is_script else "cells"
    yield Setting(key="source", value=source, reason=f"adopted; its {unit} are kept", notebook=True)
    for key, names in (
        ("competition_sources", sources.competitions[1:]),
        ("dataset_sources", sources.datasets),
        ("kernel_sources", sources.notebooks),
        ("model_sources", sources.models),
    ):
        if names:
            yield Setting(key=key, value=list(names), reason="attached, as before", notebook=True)


def _list_contents(own_requirements: str, adoption: Adoption, root: Path) -> Iterator[Setting]:
    """Yield the settings of the kit's contents; an empty list keeps a build from detecting unneeded ones."""
    requirement_files = [own_requirements] if adoption.requirements else []
    requirement_files += adoption.requirement_files
    pyproject = root / "pyproject.toml"
    has_metadata = pyproject.is_file() and tomllib.loads(_read_text(pyproject)).get("project")
    own_files = [name for name in ("requirements.in", "requirements.txt") if (root / name).is_file()]
    if adoption.needs_own_requirements:
        requirement_files = list(dict.fromkeys([*own_files[:1], *requirement_files]))
    if requirement_files:
        reason = "what the notebook installs and imports"
        yield Setting(key="requirements", value=requirement_files, reason=reason)
    elif has_metadata or own_files:
        reason = "the image has everything that the notebook needs"
        yield Setting(key="requirements", value=[], reason=reason)
    if adoption.packages or has_metadata:
        reason = "built to wheels" if adoption.packages else "the notebook installs nothing of the project"
        yield Setting(key="packages", value=list(adoption.packages), reason=reason)
    for key, names, reason in (
        ("modules", adoption.modules, "imported by the notebook"),
        ("checkpoints", adoption.checkpoints, "read by the notebook"),
    ):
        if names:
            yield Setting(key=key, value=list(names), reason=reason)


def _find_copy(root: Path, kind: str, name: str) -> str:
    """Return a local copy of an attached source: in the project, or in kagglehub's cache; "" for none."""
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
    numbers = [int(version.name) for version in versions.glob("*") if version.name.isdigit()]
    return str(versions / str(max(numbers))) if numbers else ""


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read '{path}': {error}", hint="fix the file, or move it away", code="file-unreadable"
        ) from error


def diff_cells(adoption: Adoption) -> str:
    """Return a unified diff of a script, or of a notebook's percent script, without secrets; empty if nothing changes."""
    cells, changed = adoption.cells, adoption.changed
    if adoption.is_script:
        before, after = cells[0].source.splitlines(), changed[0].splitlines()
    else:
        before = list(_script_lines(cells, [cell.source for cell in cells]))
        after = list(_script_lines(cells, changed))
    diff = _diff_lines(before, after, adoption.notebook.name)
    return "\n".join(redact_secrets(line) for line in diff.split("\n"))


def _diff_lines(before: Sequence[str], after: Sequence[str], name: str) -> str:
    lines = difflib.unified_diff(before, after, f"{name} (as it is)", f"{name} (adopted)", lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _script_lines(cells: Sequence[NotebookCell], sources: Sequence[str]) -> Iterator[str]:
    for cell, source in zip(cells, sources, strict=True):
        kind = "" if cell.kind == "code" else f" [{cell.kind}]"
        yield f"# %%{kind} cell {cell.number}"
        yield from (line if cell.kind == "code" else f"# {line}".rstrip() for line in source.split("\n"))
        yield ""
