"""Run a resolver: uv for any target, or pip-tools on the target's own Python, with the same input."""

import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.core import files, interpreters, processes
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.packages.builds import confined_build
from offline_kit.packages.builds.build_environment import (
    FRAMEWORKS,
    WITH_FRAMEWORK,
    clean_environment,
    find_framework,
)
from offline_kit.packages.builds.confined_build import Confinement
from offline_kit.packages.builds.index_server import INSIDE, NO_RETRIES, IndexServer
from offline_kit.packages.index import IndexFile, PackageIndex
from offline_kit.packages.pip_settings import redact_urls
from offline_kit.project.images import Image

_NOISE_LINE = re.compile(
    r"^\s*(The above exception|During handling of)\b|^(warning|hint: While|WARNING|DEPRECATION|INFO)\b|^\s*$|Resolving dependencies"
)
_FAILED_BUILD = re.compile(r"Failed to (?:download and )?build `([^`]+)`")
# Output of uv and pip if build requirements cannot be installed; the wording of pip before 25.3, and since.
_BUILD_REQUIRES_FAILED = re.compile(
    r"Failed to (?:resolve|install) requirements from"
    r"|pip subprocess to install (?:build|backend) dependencies|installing (?:build|backend) dependencies"
)
_FILE_URL = re.compile(r"file://([^\s#;]+)")
_find_python = cache(interpreters.find_interpreter)  # looking for it runs some
_Command = tuple[list[str | Path], dict[str, str], Path]
"""Words, variables, and the Python that runs or asks the builds; reads build constraints from "build.txt"."""


@dataclass(frozen=True, kw_only=True)
class ResolverInput:
    """The input of a resolver, the same for both."""

    requirements: tuple[str, ...] = ()  # PEP 508 lines; direct references name local wheels
    constraints: tuple[str, ...] = ()  # the image's protected versions and the user's constraints
    preferences: Mapping[str, str] = field(default_factory=dict)  # used unless something rules them out
    image: Image
    index: PackageIndex
    cutoff: str  # files uploaded after this moment (ISO 8601, UTC) do not count; empty for no cut-off
    exclude: frozenset[str] = frozenset()  # packages that are removed from all requirements
    list_files: Callable[[str], Sequence[IndexFile]] | None = None  # of a project, if not just the index's


class NoSolutionError(Exception):
    """No set of versions meets the requirements; `explanation` is the resolver's, without paths and credentials."""

    def __init__(self, explanation: tuple[str, ...]) -> None:
        super().__init__("\n".join(explanation))
        self.explanation = explanation


class MetadataBuildError(ProjectError):
    """The metadata of a version without a wheel could not be built."""

    default_code = "metadata-build-failed"

    def __init__(self, package: str, details: Sequence[str]) -> None:
        super().__init__(
            f"the metadata of {package or 'a package'} could not be built",
            hint="choose a version that has a wheel, or exclude the package if predicting does not need it",
            details=details,
        )
        self.package = package.partition(" ")[0]  # empty if the resolver does not tell it


def resolve_versions(problem: ResolverInput, engine: str) -> dict[str, str]:
    """Return the version of every package that the requirements need.

    Sdists that do not state their metadata are built, in a sandbox that reaches only the indexes. Raises
    NoSolutionError, MetadataBuildError, and OutsideError if an index cannot be reached.
    """
    if not problem.requirements:
        return {}
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as name:
        folder = Path(name)
        # An existing output file holds preferences, not constraints:
        # https://docs.astral.sh/uv/pip/compile/#upgrading-requirements
        preferred = [f"{key}=={version}" for key, version in sorted(problem.preferences.items())]
        _write_lines(folder / "requirements.in", problem.requirements)
        _write_lines(folder / "constraints.txt", problem.constraints)
        _write_lines(folder / "requirements.txt", preferred)
        process = _run_engine(problem, engine, folder)
        if process.succeeded:
            return _parse_pins((folder / "requirements.txt").read_text(encoding="utf-8"))
        if engine != "uv":
            # uv says what excludes what, and which build fails; pip prints it between the output of all builds.
            resolve_versions(problem, "uv")
        raise _translate_failure(process, folder)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _run_engine(problem: ResolverInput, engine: str, folder: Path) -> processes.CompletedCommand:
    """Run a resolver with the image's versions as build constraints, then, if a build refuses those, with any version."""
    server = IndexServer(problem.index, problem.cutoff, problem.list_files)
    argv, env, python = (_prepare_uv if engine == "uv" else _prepare_pip_tools)(problem, folder)
    # A cache of its own: what a third-party build writes there must not reach the user's.
    cache_folder = files.make_folder(problem.index.cache.root / "freeze" / f"{engine}-cache")
    wheels = [Path(unquote(path)) for line in problem.requirements for path in _FILE_URL.findall(line)]
    limits = Confinement(
        env={**env, "UV_CACHE_DIR": str(cache_folder), "PIP_TOOLS_CACHE_DIR": str(cache_folder)},
        cwd=folder,
        writable=(folder, cache_folder),
        shown=(*wheels, *confined_build.list_python_folders(python)),
        index=server,
    )
    # Frameworks are excluded: a build from an index is another one than the image's, and gigabytes large.
    excluded = [f"{name}<0" for name in FRAMEWORKS]
    image_pins = []
    for name, version in sorted(problem.image.packages.items()):
        with suppress(InvalidVersion):
            image_pins += [] if name in FRAMEWORKS else [f"{name}=={Version(version).public}"]
    for constraints in ([*excluded, *image_pins], excluded):
        _write_lines(folder / "build.txt", constraints)
        process = confined_build.run_confined(argv, limits, timeout=3600)
        if server.error:
            raise server.error
        refused = _BUILD_REQUIRES_FAILED.search(process.err) and not find_framework(process.err)
        if process.succeeded or not refused:
            break
    return process


def _parse_pins(text: str) -> dict[str, str]:
    """Return versions by normalized name, of direct references by their wheel's name."""
    pins = {}
    for line in text.splitlines():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # a comment
        version = next((clause.version for clause in requirement.specifier), "")
        if requirement.url:
            version = requirement.url.rsplit("/", 1)[-1].split("-")[1].replace("%2B", "+")
        pins[str(canonicalize_name(requirement.name))] = version
    return pins


def _prepare_uv(problem: ResolverInput, folder: Path) -> _Command:
    image = problem.image
    python = image.interpreter or _find_python(image.python_minor) or Path(sys.executable)
    argv: list[str | Path] = [interpreters.uv_program(), "pip", "compile", "requirements.in"]
    argv += ["-o", "requirements.txt", "-c", "constraints.txt", "--build-constraints", "build.txt"]
    argv += ["--python-version", image.python, "--python", python]
    argv += ["--python-platform", image.platform_for_uv] if image.platform_for_uv else []
    argv += ["--no-header", "--no-annotate", "--quiet", "--no-config", "--default-index", INSIDE.index_url]
    if problem.exclude:
        # An override replaces every requirement on its name, and this marker never holds. Newer versions of uv
        # have --excludes for this: https://docs.astral.sh/uv/concepts/resolution/#dependency-overrides
        never = [f"{name} ; python_version < '0'" for name in sorted(problem.exclude)]
        _write_lines(folder / "overrides.txt", never)
        argv += ["--override", "overrides.txt"]
    return argv, _make_build_environment(folder), python


def _prepare_pip_tools(problem: ResolverInput, folder: Path) -> _Command:
    """Return pip-tools on a Python of the target's version; raise UsageError if this machine cannot be the target."""
    image = problem.image
    python: Path | None = Path(sys.executable)
    argv: list[str | Path] = [sys.executable]
    if not matches_running_python(image):
        python = _find_python(image.python_minor) if _matches_platform(image) else None
        argv = [interpreters.uv_program(), "run", "--no-project", "--quiet", "--no-config"]
        argv += ["--default-index", INSIDE.index_url, "--with", "pip-tools>=7.5", "--with", "pip>=25.1"]
        argv += ["--python", python or "", "python"]
    if python is None:
        raise UsageError(
            f"pip-tools resolves for the Python that it runs on, and this machine has no Python {image.python_minor} for "
            f"{image.machine} Linux",
            hint=f"use the engine 'uv', or install Python {image.python_minor} ('uv python install {image.python_minor}')",
            code="python-not-found",
        )
    argv += (
        ["-c", _PIP_TOOLS_WITHOUT, ",".join(sorted(problem.exclude))]
        if problem.exclude
        else ["-m", "piptools"]
    )
    argv += ["compile", "requirements.in", "--output-file", "requirements.txt"]
    argv += ["--constraint", "constraints.txt", "--no-config", "--quiet", "--no-header", "--no-annotate"]
    argv += ["--allow-unsafe", "--strip-extras", "--no-emit-index-url", "--no-emit-find-links"]
    argv += ["--no-emit-options", "--no-emit-trusted-host", "--resolver", "backtracking"]
    env = _make_build_environment(folder) | INSIDE.make_pip_environment()
    # pip before 25.3 binds builds by PIP_CONSTRAINT alone, later ones by PIP_BUILD_CONSTRAINT alone; pip-tools
    # has its own constraints for the rest. Relative, since pip splits the value at spaces.
    env |= {"PIP_CONSTRAINT": "build.txt", "PIP_BUILD_CONSTRAINT": "build.txt"}
    return argv, env, python


# Runs pip-tools without some packages: pip has no --override (https://github.com/pypa/pip/issues/8076).
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


def matches_running_python(image: Image) -> bool:
    """Whether the running interpreter has the target's minor version and platform."""
    running_minor = "{}.{}".format(*sys.version_info)
    is_same_python = running_minor == image.python_minor and sys.implementation.name == "cpython"
    return image.local or (is_same_python and _matches_platform(image))


def _matches_platform(image: Image) -> bool:
    return sys.platform == "linux" and platform.machine() == image.machine


def _make_build_environment(folder: Path) -> dict[str, str]:
    """Return the variables of a program that runs builds: tools, an empty home, no secrets."""
    uv_environment = INSIDE.make_uv_environment(**NO_RETRIES)
    env = clean_environment(files.make_folder(folder / ".home"), uv_environment)
    passed = {name: value for name, value in uv_environment.items() if name.startswith(("UV_", "NO_COLOR"))}
    return env | passed


def _translate_failure(process: processes.CompletedCommand, folder: Path) -> Exception:
    text = redact_urls(f"{process.err}\n{process.out}")
    text = text.replace(f"{folder}{os.sep}", "").replace(str(folder), "")
    lines = _select_readable_lines(text)
    failed_build = _FAILED_BUILD.search(text)
    name, _, version = failed_build[1].partition("==") if failed_build else ("", "", "")
    package = f"{canonicalize_name(name)} {version}".strip()
    if framework := find_framework(text):
        hint = f"its build asks for {framework}, which only the image has as it must be: {WITH_FRAMEWORK}"
        return MetadataBuildError(package, [*lines[-6:], hint])
    if "No solution found" in text:
        return NoSolutionError(tuple(line for line in lines if "No solution found" not in line)[:40])
    return MetadataBuildError(package, lines[-14:])


def _select_readable_lines(text: str) -> list[str]:
    """Return the readable lines of a resolver's output; of a traceback only its last."""
    lines: list[str] = []
    frames = -1
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if line.lstrip().startswith("Traceback (most recent call last)"):
            frames = depth
            continue
        if frames >= 0 and (depth > frames or not line.strip()):
            continue
        frames = -1
        if _NOISE_LINE.search(line):
            continue
        line = re.sub(r"file://\S*/offline-kit-[^\s/]*/", "", line)
        lines.append(re.sub(r"^\s*(cause:|error:|ERROR:|[×╰─▶]+)\s*", "", line).strip())
    return lines
