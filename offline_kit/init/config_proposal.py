"""A first configuration: what is found in a project, written where configurations are read."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.init import competition as contest
from offline_kit.init import (
    config_toml,
    file_tree,
    project_code,
    project_packages,
    template_choice,
    trained_files,
)
from offline_kit.init.config_toml import DetectedSettings, Setting
from offline_kit.project import images
from offline_kit.project.kaggle_names import check_slug, make_dataset_slug

SETTING_ORDER = (
    *("competition", "competition_data", "dataset", "image", "requirements", "locks", "packages", "modules"),
    *(
        "checkpoints",
        "preprocessing",
        "parts",
        "template",
        "task",
        "models",
        "transform",
        "model",
        "data",
        "function",
    ),
)
"""In which the settings are written: a person reads them from what it is about to how it is done."""


@dataclass(frozen=True, kw_only=True)
class InitRequest:
    """What a person said about the first configuration."""

    project: Path
    """The project's folder."""
    competition: str = ""
    """Slug of the competition; empty looks for it."""
    dataset: str = ""
    """Slug of the dataset; empty makes one of the project's name."""
    force: bool = False
    """Whether keys may be added to a configuration that is there."""


@dataclass(frozen=True, kw_only=True)
class ConfigProposal:
    """What would be written, and why."""

    file: Path
    """The file that gets it."""
    text: str
    """That file's whole new text."""
    block: str
    """What is new in it; empty where nothing is to be added."""
    settings: tuple[Setting, ...]
    """The new settings, those that were not found included."""
    existing_keys: tuple[str, ...]
    """Keys that were there already and stay as they are."""
    notes: tuple[str, ...]
    """What the person should know besides."""

    @property
    def missing_settings(self) -> tuple[Setting, ...]:
        """What was not found and the person has to say."""
        return tuple(setting for setting in self.settings if setting.value is None and setting.needed_for)


@dataclass(frozen=True, kw_only=True)
class _ConfigFile:
    """Where the configuration is, or is to be."""

    file: Path
    """The file."""
    old: str
    """Its text; empty where there is none."""
    table: Mapping[str, Any] | None
    """The configuration in it; None where there is none."""
    nested: bool
    """Whether it is [tool.offline-kit], else the file's top."""


def propose_config(request: InitRequest, report: Reporter = SILENT) -> ConfigProposal:
    """Look at a project and return its first configuration; nothing is written and nothing of it is run.

    It goes into pyproject.toml where there is one, else into a new offline-kit.toml. With `force`, a
    configuration that is there keeps all that it says, and gets what it does not say and was found. Raises
    UsageError for a configuration without `force`, for names that Kaggle refuses, and for files that are no TOML.
    """
    root = request.project.expanduser().absolute()
    if not root.is_dir():
        raise UsageError(
            f"there is no folder '{request.project}'",
            hint="name the project's folder, or leave it out for this one",
        )
    pyproject = _read_toml(root / "pyproject.toml")
    target = _locate_config(root, pyproject)
    if target.table is not None and not request.force:
        raise UsageError(
            f"'{target.file}' has a configuration for offline-kit already",
            hint="edit it, or add what it does not say yet with --force, which changes nothing that it says",
        )
    _check_options(request, target)
    report.step(f"Looking at '{root}'")
    detected = _apply_options(
        _detect_settings(root, tomllib.loads(pyproject or ""), target, request), request
    )
    _check_names(detected.settings)
    return _build_proposal(target, detected)


def write_config(proposal: ConfigProposal) -> None:
    """Write what was proposed; OutsideError where the file cannot be written."""
    if proposal.block:
        # Through a link to the file itself; bytes, so that line ends stay as they are.
        files.write_atomic(proposal.file.resolve(), proposal.text.encode("utf-8"))


def _read_toml(path: Path) -> str | None:
    """Return the text of a TOML file with its line ends as they are; None where there is no such file."""
    try:
        content = path.read_bytes().decode("utf-8")
        tomllib.loads(content)
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is not valid TOML: {error}", hint="mend the line it names") from error
    return content


def _locate_config(root: Path, pyproject: str | None) -> _ConfigFile:
    """Return where the configuration is or goes; two of them are an error, as they are for every command."""
    own_file = root / "offline-kit.toml"
    own_text = _read_toml(own_file)
    document = tomllib.loads(own_text or "")
    nested_table = tomllib.loads(pyproject or "").get("tool", {}).get("offline-kit")
    if document and nested_table is not None:
        raise UsageError(
            f"'{root}' has both offline-kit.toml and [tool.offline-kit] in pyproject.toml",
            hint="keep one of the two, so that it is clear which one counts",
        )
    if pyproject is None or document:
        nested = "offline-kit" in document.get("tool", {})
        table = document["tool"]["offline-kit"] if nested else document or None
        return _ConfigFile(file=own_file, old=own_text or "", table=table, nested=nested)
    return _ConfigFile(file=root / "pyproject.toml", old=pyproject, table=nested_table, nested=True)


def _check_options(request: InitRequest, target: _ConfigFile) -> None:
    """Raise where the person says now what the file says otherwise: it is not changed."""
    for key, option in (("competition", request.competition), ("dataset", request.dataset)):
        stated = (target.table or {}).get(key, option)
        if option and stated != option:
            raise UsageError(
                f"'{target.file}' says {key} = {stated!r}, and --{key} says '{option}'",
                hint="change it in the file: --force only adds what is not there",
            )


def _detect_settings(
    root: Path, pyproject: Mapping[str, Any], target: _ConfigFile, request: InitRequest
) -> DetectedSettings:
    tree = file_tree.scan_tree(root)
    trained = trained_files.choose_checkpoints(tree)
    refer = template_choice.ReferenceWriter(
        tree,
        packaged=project_packages.is_buildable(tree, pyproject),
        table="[tool.offline-kit.notebook]" if target.nested else "[notebook]",
    )
    contest_settings = contest.propose_competition(tree)
    slugs = [setting.value for setting in contest_settings.settings if setting.key == "competition"]
    competition = request.competition or (target.table or {}).get("competition") or slugs[0] or ""
    project = pyproject.get("project", {}).get("name", "")
    hints = (str(competition), " ".join(trained.models), f"{root.name} {project}")
    parts = (
        DetectedSettings(settings=_name_settings(root, pyproject), notes=tree.notes),
        contest_settings,
        project_packages.propose_packages(tree, pyproject),
        trained_files.propose_checkpoints(tree, trained),
        template_choice.choose_template(project_code.find_code(tree, hints), trained.kinds, refer),
    )
    settings = sorted(
        (setting for part in parts for setting in part.settings),
        key=lambda setting: SETTING_ORDER.index(setting.key),
    )
    return DetectedSettings(
        settings=tuple(settings), notes=tuple(note for part in parts for note in part.notes)
    )


def _name_settings(root: Path, pyproject: Mapping[str, Any]) -> tuple[Setting, Setting]:
    name = str(pyproject.get("project", {}).get("name") or root.name)
    return (
        Setting(
            key="dataset",
            value=make_dataset_slug(name),
            reason="private, and yours: whoever pushes is its owner",
        ),
        Setting(
            key="image",
            value=images.choose_default_image("none"),
            reason='the newest that this version knows; for a GPU: accelerator = "NvidiaTeslaT4" in its place',
        ),
    )


def _apply_options(detected: DetectedSettings, request: InitRequest) -> DetectedSettings:
    """Lay what the person said over what was found."""
    flags = {"competition": request.competition, "dataset": request.dataset}
    settings = tuple(
        replace(setting, value=flags[setting.key], reason="", comments=())
        if flags.get(setting.key)
        else setting
        for setting in detected.settings
    )
    return replace(detected, settings=settings)


def _check_names(settings: Iterable[Setting]) -> None:
    values = {setting.key: str(setting.value) for setting in settings if setting.value is not None}
    dataset = values.get("dataset", "").rpartition("/")[2]
    split = [f"{dataset}-checkpoints"] if values.get("parts") == "split" else []
    slugs = [slug for slug in (values.get("competition"), dataset, *split) if slug]
    problems = [line for slug in slugs for line in check_slug(slug)]
    if problems:
        raise UsageError(
            problems[0],
            hint="a slug is the last part of an address on Kaggle; --competition and --dataset take one",
            details=problems[1:],
        )


def _build_proposal(target: _ConfigFile, detected: DetectedSettings) -> ConfigProposal:
    if target.table is None:
        return ConfigProposal(
            file=target.file,
            text=config_toml.add_configuration(
                target.old, detected.settings, nested=target.nested, where=str(target.file)
            ),
            block=config_toml.format_tables(detected.settings, nested=target.nested),
            settings=detected.settings,
            existing_keys=(),
            notes=detected.notes,
        )
    notebook = target.table.get("notebook", {})
    fresh = [
        setting
        for setting in detected.settings
        if setting.key not in (notebook if setting.notebook else target.table)
    ]
    # what is told in a comment only was told when the file was made
    fresh = [
        setting
        for setting in fresh
        if setting.value is not None and not _changes_meaning(setting, target.table)
    ]
    existing_keys = [
        setting.key
        for setting in detected.settings
        if setting.key in (notebook if setting.notebook else target.table)
    ]
    return ConfigProposal(
        file=target.file,
        text=config_toml.add_settings(target.old, fresh, nested=target.nested, where=str(target.file)),
        block=config_toml.format_tables(fresh, nested=target.nested),
        settings=tuple(fresh),
        existing_keys=tuple(existing_keys),
        notes=detected.notes,
    )


def _changes_meaning(setting: Setting, table: Mapping[str, Any]) -> bool:
    """Whether adding a key gives another meaning to what is said already."""
    if setting.key in ("image", "parts"):
        # an accelerator chooses its own image, and what was pushed as one dataset would become three
        return setting.key == "parts" or "accelerator" in table
    if setting.notebook:
        return bool(
            {"template", "task", "models", "source", "model", "data", "function"}
            & set(table.get("notebook", {}))
        )
    if setting.key == "preprocessing":
        return "checkpoints" in table
    if setting.key in ("packages", "modules"):
        return bool({"packages", "modules"} & set(table))
    return False
