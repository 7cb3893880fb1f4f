"""Dependencies, extras and dependency groups of a pyproject.toml."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from offline_kit.core.errors import ProjectError


def read_project_dependencies(
    pyproject: Path, *, extras: Iterable[str] = (), groups: Iterable[str] = (), dependencies: bool = True
) -> tuple[str, ...]:
    """Return [project].dependencies, these optional dependencies and these dependency groups.

    Groups may include groups (PEP 735); extras may refer to the project itself. Raises one ProjectError that
    lists every missing extra and group and every line that is no requirement.
    """
    try:
        data = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProjectError(
            f"cannot read '{pyproject}': {error}", hint="fix the file", code="pyproject-invalid"
        ) from error
    project = data.get("project", {})
    problems: list[str] = []
    lines: list[str] = []
    if dependencies:
        if "dependencies" in project.get("dynamic", []):
            # https://packaging.python.org/en/latest/specifications/pyproject-toml/#dynamic
            problems.append("[project].dependencies is dynamic: only its build backend knows it")
        lines += _check_string_list(project.get("dependencies", []), "[project].dependencies", problems)
    for extra in extras:
        lines += _expand_extra(project, extra, problems, ())
    for group in groups:
        lines += _expand_group(data.get("dependency-groups", {}), group, problems)
    for line in lines:
        try:
            Requirement(line)
        except InvalidRequirement as error:
            problems.append(f"'{line}': {str(error).splitlines()[0]}")
    if problems:
        raise ProjectError(
            f"the dependencies in '{pyproject.name}' cannot be read",
            hint="fix them, or set `requirements` to requirements files",
            code="project-dependencies-invalid",
            details=problems,
        )
    return tuple(dict.fromkeys(lines))


def _expand_group(table: dict[str, Any], group: str, problems: list[str]) -> list[str]:
    from packaging.dependency_groups import resolve_dependency_groups

    try:
        return list(resolve_dependency_groups(table, group))
    except Exception as error:  # noqa: BLE001 - an ExceptionGroup of several kinds, all about the table
        for inner in getattr(error, "exceptions", (error,)):
            problems.append(f"dependency group '{group}': {inner.args[0] if inner.args else inner}")
        return []


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
            requirements.append(line)  # the caller reports it
            continue
        # "name[a,b]" of the project itself stands for these extras.
        if canonicalize_name(inner.name) == canonicalize_name(project.get("name", "")) and not inner.url:
            for inner_extra in sorted(inner.extras - {extra, *outer_extras}):
                requirements += _expand_extra(project, inner_extra, problems, (*outer_extras, extra))
        else:
            requirements.append(line)
    return requirements
