"""Propose a first configuration from what is found in a project, and write it."""

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
"""Order of the settings in the file."""


@dataclass(frozen=True, kw_only=True)
class InitRequest:
    """The options of `offline-kit init`."""

    project: Path
    competition: str = ""
    """Slug of the competition; empty to detect it."""
    dataset: str = ""
    """Slug of the dataset; empty to derive it from the project's name."""
    force: bool = False
    """Whether to add missing keys to an existing configuration."""


@dataclass(frozen=True, kw_only=True)
class ConfigProposal:
    """The configuration that would be written."""

    file: Path
    text: str
    """The whole new text of the file."""
    block: str
    """The added lines; empty if there are none."""
    settings: tuple[Setting, ...]
    """The added settings, including those without a value."""
    existing_keys: tuple[str, ...]
    """Keys that the configuration already has."""
    notes: tuple[str, ...]

    @property
    def missing_settings(self) -> tuple[Setting, ...]:
        """The needed settings that were not found."""
        return tuple(setting for setting in self.settings if setting.value is None and setting.needed_for)


@dataclass(frozen=True, kw_only=True)
class _ConfigFile:
    """The file with the configuration, existing or new."""

    file: Path
    old: str
    """Its text; empty if it is new."""
    table: Mapping[str, Any] | None
    """The existing configuration; None if there is none."""
    nested: bool
    """Whether the configuration is [tool.offline-kit] instead of the whole file."""


def propose_config(request: InitRequest, report: Reporter = SILENT) -> ConfigProposal:
    """Inspect a project and return its first configuration; write and run nothing.

    It goes into pyproject.toml if there is one, else into a new offline-kit.toml. With `force`, an existing
    configuration keeps its keys and gets the missing ones that were detected.

    Raises:
        UsageError: There is a configuration and no `force`, Kaggle would refuse a name, or a file is not valid TOML.
    """
    root = request.project.expanduser().absolute()
    if not root.is_dir():
        raise UsageError(
            f"there is no folder '{request.project}'",
            hint="pass the project's folder, or none for the current one",
            code="project-not-found",
        )
    pyproject = _read_toml(root / "pyproject.toml")
    target = _locate_config(root, pyproject)
    if target.table is not None and not request.force:
        raise UsageError(
            f"'{target.file}' already has a configuration of offline-kit",
            hint="edit it, or add missing keys with --force, which keeps the existing ones",
            code="configuration-exists",
        )
    _check_options(request, target)
    report.step(f"Inspecting '{root}'")
    detected = _apply_options(
        _detect_settings(root, tomllib.loads(pyproject or ""), target, request), request
    )
    _check_names(detected.settings)
    return _build_proposal(target, detected)


def write_config(proposal: ConfigProposal) -> None:
    """Write the proposal; raise OutsideError if the file cannot be written."""
    if proposal.block:
        # Follow a link to the file itself; write bytes to keep the line ends on Windows.
        files.write_atomic(proposal.file.resolve(), proposal.text.encode("utf-8"))


def _read_toml(path: Path) -> str | None:
    """Return the text of a TOML file with its line ends; None if there is no such file."""
    try:
        content = path.read_bytes().decode("utf-8")
        tomllib.loads(content)
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"'{path}' is not valid TOML: {error}", hint="fix the line in this message", code="toml-invalid"
        ) from error
    return content


def _locate_config(root: Path, pyproject: str | None) -> _ConfigFile:
    """Return the file of the configuration; raise UsageError if there are two."""
    own_file = root / "offline-kit.toml"
    own_text = _read_toml(own_file)
    document = tomllib.loads(own_text or "")
    nested_table = tomllib.loads(pyproject or "").get("tool", {}).get("offline-kit")
    if document and nested_table is not None:
        raise UsageError(
            f"'{root}' has both offline-kit.toml and [tool.offline-kit] in pyproject.toml",
            hint="keep one of the two",
            code="two-configurations",
        )
    if pyproject is None or document:
        nested = "offline-kit" in document.get("tool", {})
        table = document["tool"]["offline-kit"] if nested else document or None
        return _ConfigFile(file=own_file, old=own_text or "", table=table, nested=nested)
    return _ConfigFile(file=root / "pyproject.toml", old=pyproject, table=nested_table, nested=True)


def _check_options(request: InitRequest, target: _ConfigFile) -> None:
    """Raise UsageError if an option contradicts the file, which keeps its values."""
    for key, option in (("competition", request.competition), ("dataset", request.dataset)):
        stated = (target.table or {}).get(key, option)
        if option and stated != option:
            raise UsageError(
                f"'{target.file}' says {key} = {stated!r}, and --{key} says '{option}'",
                hint="change it in the file: --force only adds missing keys",
                code="option-contradicts-configuration",
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
            reason="private; its owner is whoever pushes",
        ),
        Setting(
            key="image",
            value=images.choose_default_image("none"),
            reason='the newest known image; for a GPU use accelerator = "NvidiaTeslaT4" instead',
        ),
    )


def _apply_options(detected: DetectedSettings, request: InitRequest) -> DetectedSettings:
    """Replace detected settings by the options."""
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
            hint="pass a slug, the last part of a URL on Kaggle, to --competition or --dataset",
            code="slug-invalid",
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
    # settings without a value are comments, which the file got when it was created
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
    """Whether adding a key would change the meaning of existing ones."""
    if setting.key in ("image", "parts"):
        # an accelerator chooses its own image; splitting would move a pushed dataset into three
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
