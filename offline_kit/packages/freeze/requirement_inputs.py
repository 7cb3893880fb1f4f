"""What the user asks for: requirements files, the project's tables, and the index options in them."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from offline_kit.core.errors import ProjectError
from offline_kit.packages.freeze.lock_formats import decode_text
from offline_kit.packages.freeze.requirement_lines import (
    InvalidLineError,
    RequirementLine,
    iter_logical_lines,
    parse_option,
    parse_requirement,
    split_options,
)
from offline_kit.packages.pip_settings import redact_urls

IGNORED_OPTIONS = (
    "--prefer-binary",
    "--no-binary",
    "--only-binary",
    "--require-hashes",
    "--use-feature",
    "--pre",
)
_OPTIONS_WITH_VALUE = (
    "--requirement",
    "--constraint",
    "--editable",
    "--index-url",
    "--extra-index-url",
    "--find-links",
)


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Index lines found inside requirements files; they are laid over pip's configuration."""

    index_url: str = ""
    """The last --index-url; empty when none was given."""
    extra_index_urls: tuple[str, ...] = ()
    """Every --extra-index-url, in order."""
    find_links: tuple[str, ...] = ()
    """Every --find-links; paths are absolute."""
    no_index: bool = False
    """--no-index was given."""
    trusted_hosts: tuple[str, ...] = ()
    """Every --trusted-host."""


@dataclass(frozen=True, kw_only=True)
class RequirementInputs:
    """Everything that was read, in the order of the files."""

    requirements: tuple[RequirementLine, ...] = ()
    """Requirements."""
    constraints: tuple[RequirementLine, ...] = ()
    """Constraints: they bind only what something else asks for."""
    index_options: IndexOptions = IndexOptions()
    """Index lines of the files."""
    compiled_files: tuple[Path, ...] = ()
    """Files among them that a tool compiled: their exact pins are preferences."""
    ignored_options: tuple[str, ...] = ()
    """Options that were understood and have no meaning here, as "file:line --pre"."""
    error: ProjectError | None = None
    """What cannot be read, if that was not raised."""


@dataclass
class _ReadState:
    """What grows while files include each other."""

    root: Path
    env: Mapping[str, str]
    requirements: list[RequirementLine] = field(default_factory=list)
    constraints: list[RequirementLine] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    compiled_files: list[Path] = field(default_factory=list)
    ignored_options: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    visited_files: set[tuple[Path, bool]] = field(default_factory=set)


def read_requirement_files(
    files: Iterable[Path],
    inline: Iterable[str],
    *,
    project: Path,
    env: Mapping[str, str],
    origins: Mapping[str, str] = MappingProxyType({}),
    strict: bool = True,
) -> RequirementInputs:
    """Read requirements files with all that they include, and `inline` lines.

    These are from pyproject.toml, unless `origins` says of a line who else asks. `env` fills in ${VARIABLES}. Raises one ProjectError with file and line of everything that cannot be
    followed; without `strict` it is returned beside what can.
    """
    state = _ReadState(root=project.absolute(), env=env)
    for path in files:
        _read_file(state, path.absolute(), constraint=False, includer="the configuration")
    for number, line in enumerate(inline, 1):
        origin = origins.get(line, "pyproject.toml")
        position = origin if line in origins else f"{origin} (requirement {number})"
        _add_requirement(state, line, position, origin, project.absolute(), constraint=False)
    error = None
    if state.problems:
        count = len(state.problems)
        error = ProjectError(
            "a line of the requirements cannot be read"
            if count == 1
            else f"{count} lines of the requirements cannot be read",
            hint="correct the lines named above",
            details=state.problems,
        )
    if error and strict:
        raise error
    options = state.options
    return RequirementInputs(
        error=error,
        requirements=tuple(state.requirements),
        constraints=tuple(state.constraints),
        compiled_files=tuple(state.compiled_files),
        ignored_options=tuple(state.ignored_options),
        index_options=IndexOptions(
            index_url=options.get("--index-url", [""])[-1],
            extra_index_urls=tuple(options.get("--extra-index-url", ())),
            find_links=tuple(options.get("--find-links", ())),
            no_index="--no-index" in options,
            trusted_hosts=tuple(options.get("--trusted-host", ())),
        ),
    )


def is_compiled_output(text: str) -> bool:
    """Whether a requirements file is the output of pip-compile, uv, or this tool."""
    head = text[:600].lower()
    return "autogenerated by" in head or "made by offline-kit" in head


def display_path(path: Path, root: Path) -> str:
    """Return a path for a person: relative to the project where it lies inside or beside it."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        try:
            return path.relative_to(root.parent).as_posix().join(("../", ""))
        except ValueError:
            return path.name


def _read_file(state: _ReadState, path: Path, *, constraint: bool, includer: str) -> None:
    if (path, constraint) in state.visited_files:
        return
    state.visited_files.add((path, constraint))
    name = display_path(path, state.root)
    try:
        text = decode_text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        state.problems.append(f"{includer}: cannot read '{name}': {cause}")
        return
    if is_compiled_output(text):
        state.compiled_files.append(path)
    for number, line in iter_logical_lines(text, state.env):
        position = f"{name}:{number}"
        try:
            option_pair = parse_option(line)
        except InvalidLineError as error:
            state.problems.append(f"{position}: {error}")
            continue
        if option_pair is None:
            _add_requirement(state, line, position, f"-r {name}", path.parent, constraint=constraint)
        else:
            _apply_option(state, option_pair, position, path, constraint=constraint)


def _apply_option(
    state: _ReadState, option_pair: tuple[str, str], position: str, path: Path, *, constraint: bool
) -> None:
    name, value = option_pair
    if name in _OPTIONS_WITH_VALUE and not value:
        state.problems.append(f"{position}: '{name}' has no value")
    elif name in ("--requirement", "--constraint"):
        target = (path.parent / Path(value).expanduser()).absolute()
        _read_file(state, target, constraint=constraint or name == "--constraint", includer=position)
    elif name == "--editable":
        # A kit has no editable installs: the folder or checkout is built to a wheel like any other.
        line = value if "://" in value or value.startswith((".", "/", "~")) else f"./{value}"
        origin = f"-r {display_path(path, state.root)}"
        _add_requirement(state, line, position, origin, path.parent, constraint=constraint)
    elif name == "--find-links" and "://" not in value:
        state.options.setdefault(name, []).append(str((path.parent / Path(value).expanduser()).absolute()))
    elif name in ("--index-url", "--extra-index-url", "--find-links", "--no-index", "--trusted-host"):
        state.options.setdefault(name, []).append(value)
    elif name in IGNORED_OPTIONS:
        state.ignored_options.append(f"{position} {name}")
    else:
        state.problems.append(f"{position}: unknown option '{name}'")


def _add_requirement(
    state: _ReadState, line: str, position: str, origin: str, base: Path, *, constraint: bool
) -> None:
    try:
        text, hashes = split_options(line)
        requirement, direct = parse_requirement(text, base)
    except InvalidLineError as error:
        state.problems.append(f"{position}: {redact_urls(str(error))}")
        return
    if constraint and (direct or Requirement(requirement).extras):
        state.problems.append(f"{position}: a constraint is a name with versions, without extras or url")
        return
    target = state.constraints if constraint else state.requirements
    target.append(
        RequirementLine(
            requirement=requirement, origin=origin, position=position, hashes=hashes, direct=direct
        )
    )


def read_project_dependencies(
    pyproject: Path, *, extras: Iterable[str] = (), groups: Iterable[str] = (), dependencies: bool = True
) -> tuple[str, ...]:
    """Return [project].dependencies, these optional dependencies and these dependency groups.

    Groups may include groups (PEP 735), extras may name the project itself. Raises one ProjectError that
    names every missing extra and group and every line that is no requirement.
    """
    try:
        data = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProjectError(f"cannot read '{pyproject}': {error}", hint="correct the file") from error
    project = data.get("project", {})
    problems: list[str] = []
    if dependencies and "dependencies" in project.get("dynamic", []):
        problems.append("[project].dependencies is dynamic: only its build backend knows it")
    lines = (
        _check_string_list(project.get("dependencies", []), "[project].dependencies", problems)
        if dependencies
        else []
    )
    for extra in extras:
        lines += _expand_extra(project, extra, problems, ())
    lines += _expand_groups(data.get("dependency-groups", {}), tuple(groups), problems)
    for line in lines:
        try:
            Requirement(line)
        except InvalidRequirement as error:
            problems.append(f"'{line}': {str(error).splitlines()[0]}")
    if problems:
        raise ProjectError(
            f"the dependencies in '{pyproject.name}' cannot be read",
            hint="correct them, or name requirements files with `requirements`",
            details=problems,
        )
    return tuple(dict.fromkeys(lines))


def _check_string_list(value: Any, table_name: str, problems: list[str]) -> list[str]:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return value
    problems.append(f"{table_name} must be a list of strings, not {value!r}")
    return []


def _expand_extra(
    project: dict[str, Any], extra: str, problems: list[str], outer_extras: tuple[str, ...]
) -> list[str]:
    table = {
        canonicalize_name(name): value for name, value in project.get("optional-dependencies", {}).items()
    }
    if canonicalize_name(extra) not in table:
        problems.append(f"there is no extra '{extra}'; there are: {', '.join(sorted(table)) or 'none'}")
        return []
    requirements: list[str] = []
    table_name = f"[project.optional-dependencies].{extra}"
    for line in _check_string_list(table[canonicalize_name(extra)], table_name, problems):
        try:
            inner = Requirement(line)
        except InvalidRequirement:
            requirements.append(line)
            continue
        if canonicalize_name(inner.name) == canonicalize_name(project.get("name", "")) and not inner.url:
            for inner_extra in sorted(inner.extras - {extra, *outer_extras}):
                requirements += _expand_extra(project, inner_extra, problems, (*outer_extras, extra))
        else:
            requirements.append(line)
    return requirements


def _expand_groups(table: dict[str, Any], groups: tuple[str, ...], problems: list[str]) -> list[str]:
    from packaging.dependency_groups import resolve_dependency_groups

    requirements: list[str] = []
    for group in groups:
        try:
            requirements += resolve_dependency_groups(table, group)
        except Exception as error:  # noqa: BLE001 - an ExceptionGroup of several kinds, all about the table
            inner = getattr(error, "exceptions", (error,))
            problems += [
                f"dependency group '{group}': {_get_error_text(group_error)}" for group_error in inner
            ]
    return requirements


def _get_error_text(error: BaseException) -> str:
    return str(error.args[0] if error.args else error)
