"""Read the configuration: a TOML table and command-line flags, merged into one frozen `Config`.

Flags override the file, and the file overrides what is detected in the project. All problems of the file are reported
in one error. Paths in a file are relative to that file.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from offline_kit.core.errors import UsageError
from offline_kit.project import images
from offline_kit.project.config_keys import (
    DEFAULT_OUT,
    KEYS,
    NOTEBOOK_KEYS,
    ModelSpec,
    NotebookSettings,
    find_key_problems,
)
from offline_kit.project.config_keys import Config as Config
from offline_kit.project.kaggle_names import make_dataset_slug

_FIELD_TYPES = {item.name: item.type for item in fields(Config)}


def find_project_folder(project: Path) -> Path:
    """Return the absolute path of a project's folder; raise UsageError if there is none."""
    root = project.expanduser().absolute()
    if not root.is_dir():
        raise UsageError(
            f"there is no folder '{project}'",
            hint="pass the project's folder, or nothing for the current one",
            code="project-not-found",
        )
    return root


def load_config(project: Path, flags: Mapping[str, Any]) -> Config:
    """Read the project's configuration and override it with `flags`.

    `flags` has keys of `Config`, and a mapping as "notebook"; None and empty tuples are ignored. Its paths are relative
    to the current folder.

    Raises UsageError if the configuration has problems; its details list all of them.
    """
    root = find_project_folder(project)
    pyproject, table, source = find_own_table(root)
    _check_keys(table, source, root)
    given_flags = _drop_unset(flags)
    # Flags override the file.
    values = _read_values(table, root) | given_flags | {"from_flags": frozenset(given_flags) - {"notebook"}}
    values["notebook"] = _read_notebook_settings(table.get("notebook", {}), flags.get("notebook") or {})
    project_table = pyproject.get("project", {})
    _find_own_code(values, root, pyproject, project_table)
    if (values.get("extras") or values.get("groups")) and not pyproject:
        raise UsageError(
            f"extras or groups are set, but '{root}' has no pyproject.toml that defines them",
            hint="set `requirements` to requirements files instead",
            code="pyproject-not-found",
        )
    name = str(project_table.get("name") or root.name)
    values["dataset"] = values.get("dataset") or make_dataset_slug(name)
    values["out"] = (values.get("out") or root / DEFAULT_OUT).absolute()
    settings = {key: value for key, value in values.items() if key in _FIELD_TYPES}
    config = Config(
        project=root, name=name, version=str(project_table.get("version", "")), source=source, **settings
    )
    _require_paths(config)
    return config


def read_local_copies(project: Path) -> Mapping[str, Path]:
    """Return the `copies` of a project's configuration, without reading its other keys.

    Raises UsageError if the file cannot be read.
    """
    root = project.expanduser().absolute()
    _, table, source = find_own_table(root)
    alone = {"copies": table.get("copies", {})}
    _check_keys(alone, source, root)
    return dict(_read_values(alone, root)["copies"])


def has_top_level_tables(project: Path) -> bool:
    """Whether the project has an offline-kit.toml with keys at its top, not in [tool.offline-kit]."""
    try:
        text = (project / "offline-kit.toml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return "[tool.offline-kit" not in text


def _drop_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, (), {})}


def _read_toml(path: Path, *tables: str) -> dict[str, Any]:
    """Read a file, {} if there is none; each of these dotted keys must be a table if it is set."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"'{path}' is not valid TOML: {error}", hint="fix that line", code="toml-invalid"
        ) from error
    for name in tables:
        value: Any = data
        for step in name.split("."):
            value = value.get(step, {})
            if not isinstance(value, dict):
                raise UsageError(
                    f"'{path}': {name} must be a table, not {value!r}",
                    hint="fix the file",
                    code="config-invalid",
                )
    return data


def find_own_table(root: Path) -> tuple[dict[str, Any], dict[str, Any], Path | None]:
    """Return pyproject.toml, the table of offline-kit, and the file that has it."""
    pyproject_path, own_path = root / "pyproject.toml", root / "offline-kit.toml"
    pyproject = _read_toml(pyproject_path, "project", "tool", "tool.offline-kit", "dependency-groups")
    own_table = pyproject.get("tool", {}).get("offline-kit")
    # offline-kit.toml may leave the table's name out.
    own_file = _read_toml(own_path, "tool", "tool.offline-kit")
    if own_table is not None and own_file:
        raise UsageError(
            f"'{root}' has both offline-kit.toml and [tool.offline-kit] in pyproject.toml",
            hint="keep one of the two",
            code="config-ambiguous",
        )
    if own_file:
        return pyproject, own_file.get("tool", {}).get("offline-kit", own_file), own_path
    return pyproject, own_table or {}, None if own_table is None else pyproject_path


def _check_keys(table: Mapping[str, Any], source: Path | None, root: Path) -> None:
    problems = list(find_key_problems(table, KEYS, "[tool.offline-kit]"))
    if isinstance(table.get("notebook"), dict):
        problems += find_key_problems(table["notebook"], NOTEBOOK_KEYS, "[tool.offline-kit.notebook]")
    if problems and isinstance(table.get("image"), str):
        # If the image is the only problem, loading it reports that with the choices.
        image_problem = images.find_name_problem(table["image"], root)
        problems += [image_problem] if image_problem else []
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise UsageError(
            f"'{source}' has {count}",
            hint="fix the keys listed above; docs/configuration.md describes all of them",
            code="config-invalid",
            details=problems,
        )


def _read_values(table: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return the checked values of a table in the types of `Config`, without the notebook's."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if _FIELD_TYPES[key] in (Path, Path | None):
            values[key] = root / Path(value).expanduser()
        elif _FIELD_TYPES[key] == tuple[Path, ...]:
            values[key] = tuple(root / Path(item).expanduser() for item in value)
        elif key == "copies":
            values[key] = {source: root / Path(item).expanduser() for source, item in value.items()}
        elif key != "notebook":
            values[key] = tuple(value) if isinstance(value, list) else value
    return values


def _read_notebook_settings(table: Mapping[str, Any], flags: Mapping[str, Any]) -> NotebookSettings:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    values |= _drop_unset(flags)
    # The checkpoints may still change a template that follows from the keys.
    values["automatic"] = "template" not in values
    if values["automatic"]:
        if values.get("function"):
            values["template"] = "function"
        elif values.get("task") or values.get("models"):
            values["template"] = "predict"
        else:
            values["template"] = "lightning" if values.get("model") or values.get("data") else "plain"
    if values["template"] == "server":
        values.setdefault("submission", "submission.parquet")  # what gateways write
    source, kernel_type = values.get("source", ""), values.get("kernel_type", "")
    if source and kernel_type and source.endswith(".py") != (kernel_type == "script"):
        raise UsageError(
            f"`source` is '{source}', and `kernel_type` is '{kernel_type}'",
            hint="remove `kernel_type` from [tool.offline-kit.notebook]: it follows from the suffix of `source`",
            code="kernel-type-conflict",
        )
    models = []
    for entry in values.get("models", ()):
        settings = dict(entry)
        origin, weight = settings.pop("from", ""), float(settings.pop("weight", 1.0))
        models.append(ModelSpec(origin=origin, weight=weight, **settings))
    return NotebookSettings(**values | {"models": tuple(models)})


def _find_own_code(
    values: dict[str, Any], root: Path, pyproject: Mapping[str, Any], project_table: Mapping[str, Any]
) -> None:
    """Add the packages and requirements that the project has, unless they are set."""
    is_package = "build-system" in pyproject or "name" in project_table or (root / "setup.py").is_file()
    if "packages" not in values and is_package:  # pip would install the project, too
        values["packages"] = (root,)
    dynamic = "dependencies" in project_table.get("dynamic", ())
    if "requirements" not in values:
        if "dependencies" in project_table or dynamic:
            values["project_dependencies"] = True
        elif not values.get("locks"):  # lock files only give preferred versions
            names = [name for name in ("requirements.in", "requirements.txt") if (root / name).is_file()]
            values["requirements"] = tuple(root / name for name in names[:1])
    if dynamic and root in values.get("packages", ()):
        # Only the build backend knows dynamic dependencies; the freeze reads them from the wheel that it builds.
        values["project_dependencies"] = False


def _require_paths(config: Config) -> None:
    paths = [*config.requirements, *config.locks, *config.packages, *config.modules]
    paths += [path for path in (config.competition_data, config.sample_submission, config.main_from) if path]
    missing = [f"there is no '{path}'" for path in paths if not path.exists()]
    if missing:
        raise UsageError(
            missing[0] if len(missing) == 1 else f"{len(missing)} paths of the configuration do not exist",
            hint=f"fix them in '{config.source}'" if config.source else "fix the path on the command line",
            code="path-not-found",
            details=missing if len(missing) > 1 else (),
        )
