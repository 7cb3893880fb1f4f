"""Run a resolver: uv for any target, or pip-tools on the target's own Python, with the same input."""

import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from offline_kit.core import files, interpreters, processes
from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.packages.builds import confined_build, uv_tool
from offline_kit.packages.builds.build_environment import WITH_FRAMEWORK, find_framework
from offline_kit.packages.freeze.requirement_files import get_exact_version, iter_logical_lines
from offline_kit.packages.pip_settings import IndexSettings, redact_urls
from offline_kit.project.images import Image

_NETWORK_FAILURE = re.compile(
    r"failed to fetch|error sending request|dns error|resolving dns|name resolution|connection (refused|error)|"
    r"timed out|max retries|certificate|status code 5\d\d|http status server error|\b40[13]\b",
    re.IGNORECASE,
)
_NOISE_LINE = re.compile(
    r"^\s*(The above exception|During handling of)\b|^(warning|hint: While|WARNING|DEPRECATION|INFO)\b|^\s*$|Resolving dependencies"
)
_CONFLICT = re.compile(r"requirement=\w+\('([^']+)'\), parent=(?:None|\w+\('([^' ]+))")
"""One of two conflicting requirements in the output of pip's resolver (resolvelib)."""
_FAILED_BUILD = re.compile(
    r"Failed to (?:download and )?build `([^`]+)`|(?:Failed to build|Getting requirements to build wheel).*?'([\w.-]+)'"
    r"|metadata-generation-failed"
)
_VERDICT_LINE = re.compile(r"(Could not find|Cannot install|No matching)")
_LONG_VERSION_LIST = re.compile(r"(from versions: )(?:[^,()]+, ){6,}((?:[^,()]+, ){2}[^,()]+\))")
_FILE_URL = re.compile(r"file://([^\s#;]+)")
_HTTP_URL = re.compile(r"https?://[^\s`'\")]+")


@dataclass(frozen=True, kw_only=True)
class ResolverInput:
    """The input of a resolver, the same for both."""

    requirements: tuple[str, ...] = ()
    """PEP 508 lines; direct references name local wheels."""
    constraints: tuple[str, ...] = ()
    """The image's protected versions and the user's constraints."""
    preferences: Mapping[str, str] = field(default_factory=dict)
    """Versions that are used unless something rules them out."""
    stub_folder: Path = Path()
    image: Image
    settings: IndexSettings
    cutoff: str
    """Files uploaded after this moment (ISO 8601, UTC) do not count."""
    undated: frozenset[str]
    """Indexes without upload times: the cut-off does not apply to them."""
    exclude: frozenset[str] = frozenset()
    """Packages that are removed from all requirements."""
    wheels_only: frozenset[str] = frozenset()
    """Packages of which only versions with a wheel count."""
    cache: Path
    """For the pip-tools environment and its downloads."""


class NoSolutionError(Exception):
    """No set of versions meets the requirements."""

    def __init__(self, words: tuple[str, ...]) -> None:
        super().__init__("\n".join(words))
        self.explanation = words
        """The resolver's own, without paths and credentials."""


class MetadataBuildError(ProjectError):
    """The metadata of a version without a wheel could not be built."""

    default_code = "metadata-build-failed"

    def __init__(self, package: str, details: Sequence[str]) -> None:
        super().__init__(
            f"the metadata of {package or 'a package'} could not be built",
            hint="choose a version that has a wheel, or exclude the package if predicting does not need it",
            details=details,
        )
        self.package = package.partition(" ")[0]
        """Normalized name; empty if the resolver does not tell it."""


def resolve_versions(problem: ResolverInput, engine: str) -> dict[str, str]:
    """Return the version of every package that the requirements need.

    Raises NoSolutionError, MetadataBuildError, and OutsideError if an index cannot be reached.
    """
    if not problem.requirements:
        return {}
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as name:
        folder = Path(name)
        (folder / "requirements.in").write_text("".join(f"{line}\n" for line in problem.requirements))
        (folder / "constraints.txt").write_text("".join(f"{line}\n" for line in problem.constraints))
        preferred_pins = "".join(
            f"{name}=={version}\n" for name, version in sorted(problem.preferences.items())
        )
        (folder / "requirements.txt").write_text(preferred_pins)
        process = (_run_uv if engine == "uv" else _run_pip_tools)(problem, folder)
        if not process.succeeded:
            raise _translate_failure(process, folder)
        return parse_pins((folder / "requirements.txt").read_text())


def parse_pins(text: str) -> dict[str, str]:
    """Read a resolver's output: versions by normalized name, direct references by their wheel's name."""
    pins = {}
    for _, line in iter_logical_lines(text, {}):
        try:
            requirement = Requirement(line.split(" --hash")[0])
        except InvalidRequirement:
            continue
        version = get_exact_version(requirement)
        if requirement.url:
            version = requirement.url.rsplit("/", 1)[-1].split("-")[1].replace("%2B", "+")
        pins[str(canonicalize_name(requirement.name))] = version
    return pins


def _run_uv(problem: ResolverInput, folder: Path) -> processes.CompletedCommand:
    image = problem.image
    settings = replace(problem.settings, find_links=(str(problem.stub_folder), *problem.settings.find_links))
    arguments: list[str | Path] = ["pip", "compile", "requirements.in", "-o", "requirements.txt"]
    arguments += [
        "-c",
        "constraints.txt",
        "--python-version",
        image.python,
        "--exclude-newer",
        problem.cutoff,
    ]
    arguments += ["--python-platform", image.platform_for_uv] if image.platform_for_uv else []
    arguments += ["--no-header", "--no-annotate", "--quiet"]
    build_python = image.interpreter or find_builder_python(image.python_minor)
    arguments += ["--python", build_python or sys.executable]
    arguments += [word for name in sorted(problem.wheels_only) for word in ("--only-binary", name)]
    if problem.exclude:
        # An override replaces every requirement on its name, and this marker never holds. Newer versions of uv
        # have --excludes for this: https://docs.astral.sh/uv/concepts/resolution/#dependency-overrides
        never = "".join(f"{name} ; python_version < '0'\n" for name in sorted(problem.exclude))
        (folder / "overrides.txt").write_text(never)
        arguments += ["--override", "overrides.txt"]
    visible_paths = [
        *_find_local_wheels(problem),
        *confined_build.list_python_folders(build_python or Path(sys.executable)),
    ]
    for constraint_file in uv_tool.write_build_constraints(image.packages, folder):
        bound_arguments = [*arguments, "--build-constraints", constraint_file]
        process = uv_tool.run_uv_builds(
            bound_arguments,
            settings,
            undated=problem.undated,
            cwd=folder,
            cache=problem.cache,
            shown=visible_paths,
        )
        if not uv_tool.refuses_versions(process):
            break
    return process


def _find_local_wheels(problem: ResolverInput) -> list[Path]:
    """Return the folders and files of this disk that the resolver reads."""
    wheels = [Path(unquote(path)) for line in problem.requirements for path in _FILE_URL.findall(line)]
    return [problem.stub_folder.absolute(), *wheels]


@cache
def find_builder_python(minor: str) -> Path | None:
    """Return this machine's Python of a minor version, which builds the metadata of sdists."""
    return interpreters.find_interpreter(minor, processes.copy_environment())


def _run_pip_tools(problem: ResolverInput, folder: Path) -> processes.CompletedCommand:
    settings = replace(problem.settings, find_links=(str(problem.stub_folder), *problem.settings.find_links))
    build_settings, credentials = uv_tool.make_build_settings(settings)
    pip_variables = build_settings.make_pip_environment()
    if not problem.undated:
        # pip has this option since 26.0 (https://github.com/pypa/pip/pull/13625); older ones ignore the variable.
        pip_variables = pip_variables | {"PIP_UPLOADED_PRIOR_TO": problem.cutoff}
    arguments = ["compile", "requirements.in", "--output-file", "requirements.txt"]
    arguments += ["--constraint", "constraints.txt", "--no-config", "--quiet", "--no-header", "--no-annotate"]
    arguments += ["--allow-unsafe", "--strip-extras", "--no-emit-index-url", "--no-emit-find-links"]
    arguments += ["--no-emit-options", "--no-emit-trusted-host", "--resolver", "backtracking"]
    arguments += (
        [f"--pip-args=--only-binary={','.join(sorted(problem.wheels_only))}"] if problem.wheels_only else []
    )
    arguments += ["--cache-dir", str(problem.cache / "freeze" / "pip-tools")]
    python = find_pip_tools_python(problem)
    cache_folder = files.make_folder(problem.cache / "freeze" / "pip-tools")
    env = uv_tool.make_build_environment(build_settings, files.make_folder(folder / ".home"))
    env |= {name: value for name, value in pip_variables.items() if value is not None} | {"NO_COLOR": "1"}
    launcher = (
        ["-c", _PIP_TOOLS_WITHOUT, ",".join(sorted(problem.exclude))]
        if problem.exclude
        else ["-m", "piptools"]
    )
    for constraint_file in uv_tool.write_build_constraints(problem.image.packages, folder):
        # pip before 25.3 binds builds by PIP_CONSTRAINT alone, later ones by PIP_BUILD_CONSTRAINT alone; pip-tools
        # has its own constraints for the rest. Relative, since pip splits the value at spaces.
        env |= dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), constraint_file.name)
        limits = uv_tool.make_confinement(
            settings,
            credentials,
            env=env,
            cwd=folder,
            writable=(folder, cache_folder),
            shown=(*_find_local_wheels(problem), *confined_build.list_python_folders(python)),
        )
        process = confined_build.run_confined([python, *launcher, *arguments], limits, timeout=3600)
        if not uv_tool.refuses_versions(process):
            break
    return process


_PIP_TOOLS_WITHOUT = """\
import runpy, sys
from pip._internal.metadata import select_backend
from pip._vendor.packaging.utils import canonicalize_name
excluded = set(sys.argv.pop(1).split(","))
Distribution = select_backend().Distribution
requirements_of = Distribution.iter_dependencies
def without_excluded(self, *args):
    for one in requirements_of(self, *args):
        if canonicalize_name(one.name) not in excluded:
            yield one
Distribution.iter_dependencies = without_excluded
runpy.run_module("piptools", run_name="__main__", alter_sys=True)
"""
"""Runs pip-tools without some packages: pip has no --override (https://github.com/pypa/pip/issues/8076)."""


def matches_running_python(image: Image) -> bool:
    """Whether the running interpreter has the target's minor version and platform."""
    if image.local:
        return True
    import platform

    running_minor = "{}.{}".format(*sys.version_info)
    return (
        running_minor == image.python_minor
        and sys.platform == "linux"
        and platform.machine() == image.machine
        and sys.implementation.name == "cpython"
    )


def find_pip_tools_python(problem: ResolverInput) -> Path:
    """Return a Python of the target's version with pip-tools: the running one, else one of an own environment.

    Raises UsageError if this machine has no such Python or another platform.
    """
    image = problem.image
    if matches_running_python(image):
        return Path(sys.executable)
    import platform

    python = interpreters.find_interpreter(image.python_minor, processes.copy_environment())
    if python is None or sys.platform != "linux" or platform.machine() != image.machine:
        raise UsageError(
            f"pip-tools resolves for the Python that it runs on, and this machine has no Python {image.python_minor} for "
            f"{image.machine} Linux",
            hint=f"use the engine 'uv', or install Python {image.python_minor} ('uv python install {image.python_minor}')",
            code="python-not-found",
        )
    environment_folder = problem.cache / "freeze" / f"pip-tools-{image.python_minor}"
    environment_python = environment_folder / "bin" / "python"
    with files.hold_lock(environment_folder.with_suffix(".lock")):
        if not environment_python.is_file():
            _create_pip_tools_environment(environment_folder, python, problem.settings)
    return environment_python


def _create_pip_tools_environment(environment_folder: Path, python: Path, settings: IndexSettings) -> None:
    with (
        files.stage_folder(environment_folder) as fresh,
        tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch,
    ):
        config = uv_tool.write_uv_config(settings, Path(scratch) / "uv.toml")
        # Scripts of a venv hold its absolute path, and the staged folder is renamed when it is complete.
        steps: tuple[list[str | Path], ...] = (
            ["venv", "--clear", "--relocatable", "--no-project", "--python", python, fresh],
            ["pip", "install", "--python", fresh, "pip-tools>=7.5", "pip>=25.1"],
        )
        for arguments in steps:
            process = uv_tool.run_uv([*arguments, "--quiet"], settings, config=config, cwd=Path(scratch))
            if not process.succeeded:
                raise OutsideError(
                    "the environment for pip-tools cannot be created",
                    hint="check the network and the index, or use the engine 'uv'",
                    code="environment-not-created",
                    details=[redact_urls(line) for line in process.last_lines(6)],
                )


def _translate_failure(process: processes.CompletedCommand, folder: Path) -> Exception:
    text = (
        redact_urls(f"{process.err}\n{process.out}").replace(f"{folder}{os.sep}", "").replace(str(folder), "")
    )
    lines = _select_readable_lines(text)
    failed_build = _FAILED_BUILD.search(text)
    name = next((group for group in failed_build.groups() if group), "") if failed_build else ""
    package, _, version = name.partition("==") if "==" in name else (name, "", "")
    if framework := find_framework(text):
        framework_hint = (
            f"its build asks for {framework}, which only the image has as it must be: {WITH_FRAMEWORK}"
        )
        return MetadataBuildError(
            f"{canonicalize_name(package)} {version}".strip(), [*lines[-6:], framework_hint]
        )
    if "No solution found" in text or "ResolutionImpossible" in text or "Could not find a version" in text:
        causes = _extract_conflicts(text)
        # pip prints the conflict in between the output of every build that it tried.
        verdict_lines = [line for line in lines if _VERDICT_LINE.match(line)] if causes else lines
        explanation = [
            _LONG_VERSION_LIST.sub(r"\1… \2", line)
            for line in verdict_lines
            if "No solution found" not in line
        ]
        return NoSolutionError(tuple((*explanation, *causes)[:40]))
    # The traceback of a build that needs the network is no failure of the index.
    text_outside_build = text if not failed_build else text.partition("[stderr]")[0]
    if _NETWORK_FAILURE.search(text_outside_build):
        url = _HTTP_URL.search(text)
        return OutsideError(
            f"the index cannot be reached{f': {url[0]}' if url else ''}",
            hint="check the network and pip's configuration ('pip config list')",
            code="index-unreachable",
            details=lines[-8:],
        )
    return MetadataBuildError(f"{canonicalize_name(package)} {version}".strip(), lines[-14:])


def _select_readable_lines(text: str) -> list[str]:
    """Return the readable lines of a resolver's output; of a traceback only its last."""
    lines: list[str] = []
    frames = -1
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if line.lstrip().startswith("Traceback (most recent call last)"):
            frames = depth
        elif frames >= 0 and (depth > frames or not line.strip()):
            continue
        else:
            ended = frames >= 0 and line.lstrip().startswith(("pip.", "piptools.", "raise ", "pip._"))
            frames = -1
            # pip-tools ends in a traceback of its own for expected failures, after a readable message.
            if not ended and not _NOISE_LINE.search(line):
                lines.append(_clean_line(line))
    return lines


def _extract_conflicts(text: str) -> list[str]:
    """Return the requirements that conflict in pip's resolver: "alpha-1.0 wants beta>=1"."""
    conflicts = []
    for requirement, parent in _CONFLICT.findall(text):
        stem = re.sub(r"-[^-]+-[^-]+-[^-]+\.whl$|\.tar\.gz$|\.zip$", "", parent.rsplit("/", 1)[-1])
        conflicts.append(f"{stem} wants {requirement}" if stem else f"your requirements want {requirement}")
    return list(dict.fromkeys(conflicts))


def _clean_line(line: str) -> str:
    line = re.sub(r"file://\S*/offline-kit-[^\s/]*/", "", line)
    line = re.sub(r"-r requirements\.in( \(line \d+\))?", "your requirements", line).replace(
        "(from -c constraints.txt)", "(the image)"
    )
    return re.sub(r"^\s*(cause:|error:|ERROR:|[×╰─▶]+)\s*", "", line).strip()
