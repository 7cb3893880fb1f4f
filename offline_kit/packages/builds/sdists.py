"""Packages that the index has only as source: their build closure, and the wheel built beforehand."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from offline_kit.core import interpreters, processes
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.builds import sdist_builds
from offline_kit.packages.builds.build_closure import BuildSources
from offline_kit.packages.builds.sdist_builds import SdistBuild
from offline_kit.packages.file_choice import ImageTarget
from offline_kit.packages.index import PackageIndex
from offline_kit.project.images import Image
from offline_kit.project.types import Sdist, SettledSdist

_RUNNING = "{}.{}".format(*sys.version_info)


def settle_sdists(
    sdists: Sequence[Sdist],
    image: Image,
    index: PackageIndex,
    *,
    policy: str = "both",
    allow_unbuilt: Sequence[str] = (),
    cutoff: str = "",
    report: Reporter = SILENT,
) -> tuple[SettledSdist, ...]:
    """Return each sdist with all that it takes to build it offline, and with the wheel built from it here.

    `policy` is one of config_keys.SDISTS; `cutoff` (ISO 8601) is the freeze's, so that the same freeze means the same
    build requirements. What was settled once is taken from the index's cache, without network. Raises
    ProjectError with every sdist of which no wheel that fits the image can be built, unless `allow_unbuilt`
    names it.
    """
    if not sdists:
        return ()
    sources = BuildSources(target=ImageTarget(image), index=index, cache=index.cache, cutoff=cutoff)
    outcomes = _build_all_sdists(sdists, sources, set(allow_unbuilt), report)
    failed = [
        (sdist, outcome)
        for sdist, outcome in outcomes
        if sdist.name not in allow_unbuilt and outcome.wheel is None
    ]
    if failed:
        raise _make_failure_error(failed, sources)
    return tuple(_settle_sdist(sdist, outcome, policy, report) for sdist, outcome in outcomes)


def _build_all_sdists(
    sdists: Sequence[Sdist], sources: BuildSources, allowed: set[str], report: Reporter
) -> list[tuple[Sdist, SdistBuild]]:
    # Looking for an interpreter runs some: not before something is to be built.
    recalled = [
        sdist_builds.recall_build(sdist, sources, retry=sdist.name not in allowed) for sdist in sdists
    ]
    if None in recalled:
        sources = _choose_python(sources, report)
    return [
        (sdist, outcome or sdist_builds.build_sdist(sdist, sources, report, retry=sdist.name not in allowed))
        for sdist, outcome in zip(sdists, recalled, strict=True)
    ]


def _choose_python(sources: BuildSources, report: Reporter) -> BuildSources:
    image = sources.target.image
    python, exact = _find_python(image)
    if not exact:
        report.note(
            f"Python {image.python_minor} is not on this machine: sources are built with Python {_RUNNING}, which "
            f"serves pure packages only; 'uv python install {image.python_minor}' gets the image's"
        )
    return replace(sources, python=python, exact=exact)


def _find_python(image: Image) -> tuple[Path, bool]:
    if image.local and image.interpreter:
        return image.interpreter, True
    interpreter = interpreters.find_interpreter(image.python_minor, processes.copy_environment())
    return (interpreter, True) if interpreter else (Path(sys.executable), False)


def _settle_sdist(sdist: Sdist, outcome: SdistBuild, policy: str, report: Reporter) -> SettledSdist:
    if outcome.wheel is None:
        report.warn(f"{sdist.name} {sdist.version} travels as source alone, as allowed: {outcome.reason}")
    source = policy != "wheel" or outcome.wheel is None
    return SettledSdist(
        name=sdist.name,
        version=sdist.version,
        sdist=sdist if source else None,
        wheel=None if policy == "rename" else outcome.wheel,
        closure=outcome.closure if source else (),
    )


def _make_failure_error(failed: Sequence[tuple[Sdist, SdistBuild]], sources: BuildSources) -> ProjectError:
    details: list[str] = []
    for sdist, outcome in failed:
        details.append(f"{sdist.name} {sdist.version}: {outcome.reason}")
        details += [f"    {line}" for line in outcome.tail]
        log = sources.cache.root / "logs" / f"{sdist_builds.name_build_log(sdist, sources)}.log"
        details += [f"    whole log: {log}"] if log.exists() else []
    names = ", ".join(f"'{sdist.name}'" for sdist, _ in failed)
    exist = "exists" if len(failed) == 1 else "exist"
    return ProjectError(
        f"{names} {exist} only as source, and no wheel for {sources.target.describe_platform()} can be built of it",
        hint=_suggest_fixes([sdist.name for sdist, _ in failed], sources),
        details=details,
    )


def _suggest_fixes(names: Sequence[str], sources: BuildSources) -> str:
    minor = sources.target.image.python_minor
    first = "" if sources.exact else f"install the image's Python ('uv python install {minor}'), or "
    listed = ", ".join(f'"{name}"' for name in names)
    return (
        f"{first}install what the build needs; or pin a version that has a wheel, list a wheel of your own in the "
        f"requirements, exclude it, or build it on Kaggle ('offline-kit build --on kaggle'); to ship the source unbuilt all the same: allow_unbuilt = [{listed}]"
    )
