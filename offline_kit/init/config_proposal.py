"""Propose a first configuration from what is found in a project, and write it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.init import (
    config_toml,
    file_tree,
    project_code,
    project_facts,
    recorded_settings,
    template_choice,
    trained_files,
)
from offline_kit.init.config_toml import ConfigFile, DetectedSettings, Setting
from offline_kit.init.recorded_settings import Event, RecordedProject
from offline_kit.project import images
from offline_kit.project.config import find_own_table, find_project_folder
from offline_kit.project.kaggle_names import check_slug, make_dataset_slug

SETTING_ORDER = (
    *("competition", "competition_data", "dataset", "image", "requirements", "locks", "packages", "modules"),
    *("checkpoints", "preprocessing", "parts", "template", "task", "models", "transform", "model", "data"),
    "function",
)
"""Order of the settings in the file."""


@dataclass(frozen=True, kw_only=True)
class ConfigProposal:
    """The configuration that would be written."""

    file: Path
    text: str  # the whole new text of the file
    block: str  # the added lines; empty if there are none
    settings: tuple[Setting, ...]  # the added ones, including those without a value
    existing_keys: tuple[str, ...]
    notes: tuple[str, ...]
    files: Mapping[Path, str]  # text of the other files that would be written
    links: Mapping[Path, Path]  # targets of the links that would be made

    @property
    def missing_settings(self) -> tuple[Setting, ...]:
        """The needed settings that were not found."""
        return tuple(setting for setting in self.settings if setting.value is None and setting.needed_for)


def propose_config(
    project: Path,
    *,
    competition: str = "",
    dataset: str = "",
    force: bool = False,
    record: str = "",
    report: Reporter = SILENT,
) -> ConfigProposal:
    """Inspect a project and return its first configuration; write nothing, and run only the command to record.

    It goes into pyproject.toml if there is one, else into a new offline-kit.toml. With `force`, an existing
    configuration keeps its keys and gets the missing ones that were detected. An empty `competition` is detected, an
    empty `dataset` derived from the project's name.

    Raises:
        UsageError: There is a configuration and no `force`, Kaggle would refuse a name, or a file is not valid TOML.
        ProjectError: The recorded command failed.
    """
    root = find_project_folder(project)
    target = config_toml.locate_config(root)
    table = target.table or {}
    if target.table is not None and not force:
        raise UsageError(
            f"'{target.path}' already has a configuration of offline-kit",
            hint="edit it, or add missing keys with --force, which keeps the existing ones",
            code="configuration-exists",
        )
    options = {"competition": competition, "dataset": dataset}
    for key, option in options.items():
        if option and table.get(key, option) != option:
            raise UsageError(
                f"'{target.path}' says {key} = {table[key]!r}, and --{key} says '{option}'",
                hint="change it in the file: --force only adds missing keys",
                code="option-contradicts-configuration",
            )
    report.step(f"Inspecting '{root}'")
    events = recorded_settings.watch_script(record, root, report) if record else []
    detected = _detect_settings(root, target, competition, events)
    for key, option in options.items():
        if option:
            detected.settings[key] = Setting(key=key, value=option)
    settings = [detected.settings[key] for key in SETTING_ORDER if key in detected.settings]
    _check_names(settings)
    if events:
        detected.notes += _list_unconfigured(settings, target)
    existing_keys = [setting.key for setting in settings if setting.key in target.table_of(setting)]
    if target.table is not None:
        # settings without a value are comments, which the file got when it was created
        stated = [setting for setting in settings if setting.value is not None]
        fresh = [setting for setting in stated if setting.key not in target.table_of(setting)]
        settings = [setting for setting in fresh if not _changes_meaning(setting, table)]
    named = str([setting.value for setting in settings] + [table])
    return ConfigProposal(
        file=target.path,
        text=target.add(settings),
        block=config_toml.format_tables(settings, nested=target.nested),
        settings=tuple(settings),
        existing_keys=tuple(existing_keys),
        notes=tuple(detected.notes),
        files={root / name: text for name, text in detected.files.items() if name in named},
        links={root / name: folder for name, folder in detected.links.items() if name in named},
    )


def write_config(proposal: ConfigProposal) -> None:
    """Write the proposal; raise OutsideError if a file cannot be written."""
    for path, folder in proposal.links.items():
        try:
            files.make_folder(path.parent)
            path.symlink_to(folder, target_is_directory=True)
        except OSError as error:  # on Windows links need the developer mode
            raise OutsideError(
                f"cannot make the link '{path}' to '{folder}': {error.strerror}",
                hint="copy what `preprocessing` names there yourself, then run the command again",
                code="link-not-made",
            ) from error
    for path, text in proposal.files.items():
        files.write_atomic(path, text)
    if proposal.block:
        # Follow a link to the file itself; write bytes to keep the line ends on Windows.
        files.write_atomic(proposal.file.resolve(), proposal.text.encode("utf-8"))


def _detect_settings(
    root: Path, target: ConfigFile, wanted_competition: str, events: list[Event]
) -> DetectedSettings:
    pyproject, *_ = find_own_table(root)
    table = target.table or {}
    name = str(pyproject.get("project", {}).get("name") or "")
    tree = file_tree.scan_tree(root)
    contest = project_facts.propose_competition(tree)
    slug = wanted_competition or table.get("competition") or contest[0].value or ""
    recorded = RecordedProject(events, tree, pyproject, table) if events else None
    trained = trained_files.choose_checkpoints(tree)
    if recorded:
        used = recorded.list_read_files()
        trained = trained_files.choose_used_checkpoints(tree, used, recorded.is_named, trained)
    hints = (str(slug), " ".join(trained.models), f"{root.name} {name}")
    code = project_code.find_code(tree, hints)
    packaged = project_facts.is_buildable(tree, pyproject)
    header = "[tool.offline-kit.notebook]" if target.nested else "[notebook]"
    refer = template_choice.ReferenceWriter(tree, packaged=packaged, table=header)
    dataset = make_dataset_slug(name or root.name)
    image_reason = 'the newest known image; for a GPU use accelerator = "NvidiaTeslaT4" instead'
    detected = DetectedSettings(notes=list(tree.notes))
    detected.add(
        Setting(key="dataset", value=dataset, reason="private; its owner is whoever pushes"),
        Setting(key="image", value=images.choose_default_image("none"), reason=image_reason),
        *contest,
        *project_facts.propose_packages(tree, pyproject),
    )
    trained_files.propose_checkpoints(tree, trained, detected)
    template_choice.choose_template(code, trained, refer, detected)
    if recorded:
        recorded.add_settings(detected)
    return detected


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


def _list_unconfigured(settings: Iterable[Setting], target: ConfigFile) -> list[str]:
    """Return a note on each existing key that lacks what the recorded run used."""
    notes = []
    for setting in settings:
        existing = target.table_of(setting).get(setting.key)
        if isinstance(existing, list) and isinstance(setting.value, list) and setting.key != "locks":
            patterns = list(map(str, existing))
            names = map(str, setting.value)
            missing = [name for name in names if not any(files.matches_glob(name, each) for each in patterns)]
            if missing:
                notes.append(f"`{setting.key}` lacks what the recorded run used: {', '.join(missing)}")
    return notes


def _changes_meaning(setting: Setting, table: Mapping[str, Any]) -> bool:
    """Whether adding a key would change the meaning of existing ones."""
    if setting.notebook:
        choices = {"template", "task", "models", "source", "model", "data", "function"}
        return bool(choices & set(table.get("notebook", {})))
    # an accelerator chooses its own image; splitting would move a pushed dataset into three
    rivals = {
        "packages": ("packages", "modules"),
        "modules": ("packages", "modules"),
        "image": ("accelerator",),
        "preprocessing": ("checkpoints",),
    }
    return setting.key == "parts" or any(key in table for key in rivals.get(setting.key, ()))
