"""Packages that the index has only as source: their build closure, and the wheel built beforehand."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from offline_kit.core import interpreters, processes
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.builds import sdist_builds
from offline_kit.packages.builds.build_closure import Sources
from offline_kit.packages.builds.sdist_builds import Made
from offline_kit.packages.file_choice import Target
from offline_kit.packages.index import Index
from offline_kit.project.images import Image
from offline_kit.project.types import Sdist, SettledSdist

_RUNNING = "{}.{}".format(*sys.version_info)


def settle(
    sdists: Sequence[Sdist],
    image: Image,
    index: Index,
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
    sources = Sources(target=Target(image), index=index, cache=index.cache, cutoff=cutoff)
    made = _all_made(sdists, sources, set(allow_unbuilt), report)
    failed = [(sdist, one) for sdist, one in made if sdist.name not in allow_unbuilt and one.wheel is None]
    if failed:
        raise _error(failed, sources)
    return tuple(_packed(sdist, one, policy, report) for sdist, one in made)


def _all_made(
    sdists: Sequence[Sdist], sources: Sources, allowed: set[str], report: Reporter
) -> list[tuple[Sdist, Made]]:
    # Looking for an interpreter runs some: not before something is to be built.
    known = [sdist_builds.recall(sdist, sources, retry=sdist.name not in allowed) for sdist in sdists]
    if None in known:
        sources = _with_python(sources, report)
    return [
        (sdist, one or sdist_builds.make(sdist, sources, report, retry=sdist.name not in allowed))
        for sdist, one in zip(sdists, known, strict=True)
    ]


def _with_python(sources: Sources, report: Reporter) -> Sources:
    image = sources.target.image
    python, exact = _python(image)
    if not exact:
        report.note(
            f"Python {image.python_minor} is not on this machine: sources are built with Python {_RUNNING}, which "
            f"serves pure packages only; 'uv python install {image.python_minor}' gets the image's"
        )
    return replace(sources, python=python, exact=exact)


def _python(image: Image) -> tuple[Path, bool]:
    if image.local and image.interpreter:
        return image.interpreter, True
    found = interpreters.find(image.python_minor, processes.environment())
    return (found, True) if found else (Path(sys.executable), False)


def _packed(sdist: Sdist, made: Made, policy: str, report: Reporter) -> SettledSdist:
    if made.wheel is None:
        report.warn(f"{sdist.name} {sdist.version} travels as source alone, as allowed: {made.why}")
    source = policy != "wheel" or made.wheel is None
    return SettledSdist(
        name=sdist.name,
        version=sdist.version,
        sdist=sdist if source else None,
        wheel=None if policy == "rename" else made.wheel,
        closure=made.closure if source else (),
    )


def _error(failed: Sequence[tuple[Sdist, Made]], sources: Sources) -> ProjectError:
    details: list[str] = []
    for sdist, made in failed:
        details.append(f"{sdist.name} {sdist.version}: {made.why}")
        details += [f"    {line}" for line in made.tail]
        log = sources.cache.root / "logs" / f"{sdist_builds.log_name(sdist, sources)}.log"
        details += [f"    whole log: {log}"] if log.exists() else []
    names = ", ".join(f"'{sdist.name}'" for sdist, _ in failed)
    exist = "exists" if len(failed) == 1 else "exist"
    return ProjectError(
        f"{names} {exist} only as source, and no wheel for {sources.target.describe()} can be built of it",
        hint=_hint([sdist.name for sdist, _ in failed], sources),
        details=details,
    )


def _hint(names: Sequence[str], sources: Sources) -> str:
    minor = sources.target.image.python_minor
    first = "" if sources.exact else f"install the image's Python ('uv python install {minor}'), or "
    listed = ", ".join(f'"{name}"' for name in names)
    return (
        f"{first}install what the build needs; or pin a version that has a wheel, list a wheel of your own in the "
        f"requirements, exclude it, or build it on Kaggle ('offline-kit build --on kaggle'); to ship the source unbuilt all the same: allow_unbuilt = [{listed}]"
    )
