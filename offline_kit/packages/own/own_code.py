"""The project's own code: packages become wheels, loose modules are shipped as files."""

import re
from collections.abc import Sequence
from pathlib import Path

from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages import distribution_metadata
from offline_kit.packages.builds.sdist_builds import BuildSources
from offline_kit.packages.freeze import freeze_file
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.own import loose_modules, own_wheel
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.config import LOCK_NAME
from offline_kit.project.images import Image
from offline_kit.project.types import OwnCode, Wheel

# Build backends write the requirements of an extra with a marker: torch>=2; extra == "gpu"
_OF_EXTRA = re.compile(r";.*\bextra\s*==")


def build_own_code(
    project: Path,
    packages: Sequence[Path],
    modules: Sequence[Path],
    image: Image,
    settings: IndexSettings,
    *,
    cache: Path,
    report: Reporter = SILENT,
) -> OwnCode:
    """Build the project's packages into reproducible wheels, and list its loose modules.

    Unchanged packages come from the cache, without asking an index. If the project has a committed freeze, its
    cut-off also applies to build requirements. Raises ProjectError listing everything that cannot be built or
    does not fit the image, OutsideError if an index does not answer.
    """
    sources = _make_sources(project, image, settings, cache)
    wheels: dict[str, Wheel] = {}
    folders: dict[str, Path] = {}
    problems: list[ProjectError] = []
    for package in dict.fromkeys(packages):
        try:
            wheel = own_wheel.build_own_wheel(package, sources, report)
        except ProjectError as error:
            problems.append(error)
            continue
        if wheel.name in wheels:
            problems.append(
                ProjectError(
                    f"'{folders[wheel.name]}' and '{package}' are both called '{wheel.name}'",
                    code="duplicate-package",
                    hint="rename one, or remove it from `packages`",
                )
            )
        wheels[wheel.name], folders[wheel.name] = wheel, package
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = [
            line
            for problem in problems
            for line in (problem.what, *(f"    {text}" for text in problem.details), f"    → {problem.hint}")
        ]
        raise ProjectError(
            f"{len(problems)} own packages cannot be built",
            code="own-package-build-failed",
            hint="fix each as described above",
            details=lines,
        )
    files, roots = loose_modules.list_source_files(project, modules, image, report)
    sorted_wheels = sorted(wheels.values(), key=lambda wheel: wheel.filename)
    return OwnCode(wheels=tuple(sorted_wheels), sources=files, roots=roots)


def recall_own_code(
    project: Path,
    packages: Sequence[Path],
    modules: Sequence[Path],
    image: Image,
    settings: IndexSettings,
    *,
    cache: Path,
) -> tuple[OwnCode, tuple[str, ...]]:
    """Return the same without building anything, and the folder names of the packages that need a build."""
    sources = _make_sources(project, image, settings, cache)
    recalled = {package: own_wheel.recall_own_wheel(package, sources) for package in dict.fromkeys(packages)}
    files, roots = loose_modules.list_source_files(project, modules, image)
    wheels = sorted(filter(None, recalled.values()), key=lambda wheel: wheel.filename)
    fresh = tuple(package.resolve().name for package, wheel in recalled.items() if wheel is None)
    return OwnCode(wheels=tuple(wheels), sources=files, roots=roots), fresh


def list_requirements(own: OwnCode) -> tuple[str, ...]:
    """Return the requirements of the own wheels without those of extras, sorted: the freeze must include them."""
    requirements: set[str] = set()
    for wheel in own.wheels:
        raw = distribution_metadata.read_metadata(wheel.path, wheel.filename) or b""
        lines = distribution_metadata.list_metadata_values(raw, "Requires-Dist")
        requirements |= {line for line in lines if not _OF_EXTRA.search(line)}
    return tuple(sorted(requirements))


def _make_sources(project: Path, image: Image, settings: IndexSettings, cache: Path) -> BuildSources:
    """Return the sources of a build with the cut-off of the project's committed freeze, if there is one."""
    path = project / LOCK_NAME
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    cutoff = freeze_file.read_header(text).get("cut-off", "") if freeze_file.is_freeze_text(text) else ""
    return BuildSources(image, PackageIndex(settings, cache=cache), cutoff)
