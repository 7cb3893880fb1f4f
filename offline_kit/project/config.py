"""Read the configuration: a TOML table and command-line flags, merged into one frozen `Config`.

Flags override the file, and the file overrides what is detected in the project. All problems of the file are reported
in one error. Paths in a file are relative to that file.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from offline_kit.core.errors import UsageError
from offline_kit.project import images as image
from offline_kit.project.config_keys import KEYS as KEYS
from offline_kit.project.config_keys import NOTEBOOK_KEYS as NOTEBOOK_KEYS
from offline_kit.project.config_keys import find_key_problems
from offline_kit.project.kaggle_names import make_dataset_slug
from offline_kit.project.types import ModelSpec, NotebookSettings

DEFAULT_OUT = Path("dist") / "offline-kit"
LOCK_NAME = "offline-kit.lock.txt"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a project; `config_keys.KEYS` explains the keys. Paths are absolute."""

    project: Path
    """The project's folder."""
    name: str
    """[project].name, else the folder's name."""
    version: str
    """[project].version, or empty."""
    competition: str = ""
    competition_data: Path | None = None
    dataset: str = ""
    image: str = ""
    accelerator: str = "none"
    requirements: tuple[Path, ...] = ()
    project_dependencies: bool = False
    """Whether [project].dependencies are among the requirements."""
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    locks: tuple[Path, ...] = ()
    packages: tuple[Path, ...] = ()
    modules: tuple[Path, ...] = ()
    checkpoints: tuple[str, ...] = ()
    main_from: Path | None = None
    preprocessing: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    copies: Mapping[str, Path] = field(default_factory=dict)
    """Folder by "dataset:owner/slug", "notebook:..." or "model:..."."""
    slim: bool = False
    precision: str = "keep"
    weights_format: str = "keep"
    publish_model: str = ""
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    pins: str = "image"
    engine: str = "auto"
    sdists: str = "both"
    allow_unbuilt: tuple[str, ...] = ()
    parts: str = ""
    """"one" or "split"; empty: depends on the size of the checkpoints."""
    out: Path = DEFAULT_OUT
    sample_submission: Path | None = None
    rows: int | None = None
    time_limit: int = 9 * 3600
    """Seconds."""
    notebook: NotebookSettings = field(default_factory=NotebookSettings)
    source: Path | None = None
    """The file that was read; None if only flags were given."""
    from_flags: frozenset[str] = frozenset()
    """Keys set on the command line."""

    @property
    def lock(self) -> Path:
        """The lock file in the project's folder."""
        return self.project / LOCK_NAME

    def describe_origin(self, key: str) -> str:
        """Return what set a key: a flag, or the key and its file."""
        if self.source is None or key in self.from_flags:
            return f"--{key.replace('_', '-')}"
        return f"`{key}` in '{self.source}'"


PATHS = {"competition_data", "sample_submission", "out", "main_from"}
PATH_LISTS = {"requirements", "locks", "packages", "modules"}


def load_config(project: Path, flags: Mapping[str, Any]) -> Config:
    """Read the project's configuration and override it with `flags`.

    `flags` has keys of `Config`, and a mapping as "notebook"; None and empty tuples are ignored. Its paths are relative
    to the current folder.

    Raises:
        UsageError: the configuration has problems; its details list all of them.

    """
    root = project.expanduser().absolute()
    if not root.is_dir():
        raise UsageError(
            f"there is no folder '{project}'",
            hint="pass the project's folder, or nothing for the current one",
            code="project-not-found",
        )
    pyproject = _read_toml(root / "pyproject.toml")
    table, source = _find_own_table(root, pyproject)
    _check_keys(table, source, root)
    given_flags = {key: value for key, value in flags.items() if value not in (None, (), {})}
    values = _read_values(table, root) | given_flags | {"from_flags": frozenset(given_flags) - {"notebook"}}
    values["notebook"] = _read_notebook_settings(table.get("notebook", {}), flags.get("notebook") or {})
    return _apply_defaults(root, pyproject, values, source)


def read_local_copies(project: Path) -> Mapping[str, Path]:
    """Return the `copies` of a project's configuration, without reading its other keys.

    Raises:
        UsageError: the file cannot be read.

    """
    root = project.expanduser().absolute()
    table, source = _find_own_table(root, _read_toml(root / "pyproject.toml"))
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


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"'{path}' is not valid TOML: {error}", hint="fix that line", code="toml-invalid"
        ) from error


def _check_tables(data: dict[str, Any], path: Path, *names: str) -> None:
    """Raise UsageError if one of these keys is set, but not to a table."""
    for name in names:
        value: Any = data
        for step in name.split("."):
            value = value.get(step, {})
            if not isinstance(value, dict):
                raise UsageError(
                    f"'{path}': {name} must be a table, not {value!r}",
                    hint="fix the file",
                    code="config-invalid",
                )


def _find_own_table(root: Path, pyproject: dict[str, Any]) -> tuple[dict[str, Any], Path | None]:
    _check_tables(
        pyproject, root / "pyproject.toml", "project", "tool", "tool.offline-kit", "dependency-groups"
    )
    own_table = pyproject.get("tool", {}).get("offline-kit")
    own_path = root / "offline-kit.toml"
    own_file = _read_toml(own_path)
    _check_tables(own_file, own_path, "tool", "tool.offline-kit")
    if own_table is not None and own_file:
        raise UsageError(
            f"'{root}' has both offline-kit.toml and [tool.offline-kit] in pyproject.toml",
            hint="keep one of the two",
            code="config-ambiguous",
        )
    if own_file:
        return own_file.get("tool", {}).get("offline-kit", own_file), own_path
    return (own_table, root / "pyproject.toml") if own_table is not None else ({}, None)


def _check_keys(table: Mapping[str, Any], source: Path | None, root: Path) -> None:
    problems = list(find_key_problems(table, KEYS, "[tool.offline-kit]"))
    if isinstance(table.get("notebook"), dict):
        problems += find_key_problems(table["notebook"], NOTEBOOK_KEYS, "[tool.offline-kit.notebook]")
    if (
        problems
        and isinstance(image_name := table.get("image"), str)
        and (image_problem := image.find_name_problem(image_name, root))
    ):
        problems.append(image_problem)  # if it is the only problem, loading the image reports it
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise UsageError(
            f"'{source}' has {count}",
            hint="fix the keys listed above; docs/configuration.md describes all of them",
            code="config-invalid",
            details=problems,
        )


def _read_values(table: Mapping[str, Any], root: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in PATHS:
            values[key] = root / Path(value).expanduser()
        elif key in PATH_LISTS:
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
    values |= {key: value for key, value in flags.items() if value not in (None, (), {})}
    values["automatic"] = "template" not in values
    values.setdefault("template", _choose_template(values))
    if values["template"] == "server":
        values.setdefault("submission", "submission.parquet")  # what gateways write
    values["models"] = tuple(map(_read_model_spec, values.get("models", ())))
    return NotebookSettings(**values)


def _read_model_spec(entry: Mapping[str, Any]) -> ModelSpec:
    values = dict(entry)
    return ModelSpec(origin=values.pop("from", ""), weight=float(values.pop("weight", 1.0)), **values)


def _choose_template(values: Mapping[str, Any]) -> str:
    if values.get("function"):
        return "function"
    if values.get("task") or values.get("models"):
        return "predict"
    return "lightning" if values.get("model") or values.get("data") else "plain"


def _apply_defaults(
    root: Path, pyproject: dict[str, Any], values: dict[str, Any], source: Path | None
) -> Config:
    project_table = pyproject.get("project", {})
    name = str(project_table.get("name") or root.name)
    if "packages" not in values and _is_package(root, pyproject):
        values["packages"] = (root,)
    if "requirements" not in values:
        # Lock files only give preferred versions; requirements come from the project, if it has any.
        values |= _find_requirements(root, project_table, locked=bool(values.get("locks")))
    if "dependencies" in project_table.get("dynamic", ()) and root in values.get("packages", ()):
        # Only the build backend knows dynamic dependencies; the freeze reads them from the wheel that it builds.
        values["project_dependencies"] = False
    if (values.get("extras") or values.get("groups")) and not pyproject:
        raise UsageError(
            f"extras or groups are set, but '{root}' has no pyproject.toml that defines them",
            hint="set `requirements` to requirements files instead",
            code="pyproject-not-found",
        )
    values["dataset"] = values.get("dataset") or make_dataset_slug(name)
    values["out"] = (values.get("out") or root / DEFAULT_OUT).absolute()
    field_names = {item.name for item in fields(Config)}
    settings = {key: value for key, value in values.items() if key in field_names}
    config = Config(
        project=root, name=name, version=str(project_table.get("version", "")), source=source, **settings
    )
    _require_paths(config)
    return config


def _find_requirements(root: Path, project_table: Mapping[str, Any], *, locked: bool) -> dict[str, Any]:
    if "dependencies" in project_table or "dependencies" in project_table.get("dynamic", ()):
        return {"project_dependencies": True}
    if locked:
        return {}
    for name in ("requirements.in", "requirements.txt"):
        if (root / name).is_file():
            return {"requirements": (root / name,)}
    return {}


def _is_package(root: Path, pyproject: Mapping[str, Any]) -> bool:
    return (
        "build-system" in pyproject or "name" in pyproject.get("project", {}) or (root / "setup.py").is_file()
    )


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
