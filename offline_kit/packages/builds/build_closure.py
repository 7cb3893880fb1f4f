"""What a build needs: its requirements, resolved for the image and pinned, as wheels."""

import re
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.cache import Cache
from offline_kit.core.errors import OutsideError
from offline_kit.core.report import Reporter
from offline_kit.packages.builds import confined_build, uv_tool
from offline_kit.packages.builds.build_environment import BuildFailed
from offline_kit.packages.download import fetch_files
from offline_kit.packages.file_choice import Target
from offline_kit.packages.index import Index
from offline_kit.packages.pip_settings import redact
from offline_kit.project.types import Fate, Pin, Sdist, Wheel

_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_NO_NETWORK = re.compile(
    r"client error \(Connect\)|dns error|timed out|error sending request|status client error", re.I
)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where build requirements come from, and what pins them."""

    target: Target
    """The image."""
    index: Index
    """The indexes."""
    cache: Cache
    """Where fetched files are kept."""
    python: Path = Path(sys.executable)
    """The interpreter that builds: the image's, or the running one where the machine has no such."""
    exact: bool = True
    """Whether it is the image's."""
    cutoff: str = ""
    """Nothing uploaded later is considered; empty: no cut-off."""


def obtain(
    requirements: Sequence[str], sources: Sources, report: Reporter
) -> tuple[tuple[Wheel, ...], tuple[Sdist, ...]]:
    """Return all that these requirements need in the image, as wheels where there are any.

    The image's own versions are preferred: they are known to work with its Python, and what is compiled
    against them runs beside them. Raises BuildFailed where the requirements cannot be met, OutsideError
    where an index does not answer.
    """
    _refuse_urls(requirements)
    if not requirements:
        return (), ()
    pins = _resolve(requirements, sources)
    artifacts, missing = fetch_files(pins, sources.target, sources.index, sources.cache, report)
    if missing:
        lines = [
            f"{one.pin.name}=={one.pin.version}: {line}" for one in missing for line in one.outlook.lines
        ]
        names = ", ".join(f"{one.pin.name}=={one.pin.version}" for one in missing)
        raise BuildFailed(f"its build needs {names}, of which nothing fits the image", lines)
    wheels = tuple(one for one in artifacts if isinstance(one, Wheel))
    return wheels, tuple(one for one in artifacts if isinstance(one, Sdist))


def _refuse_urls(requirements: Sequence[str]) -> None:
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise BuildFailed(
                f"its build asks for '{text}', which is no valid requirement", [str(error)]
            ) from error
        if requirement.url:
            raise BuildFailed(
                f"its build asks for '{requirement.name}' from a URL, which an offline build cannot follow",
                [redact(text)],
            )


def _resolve(requirements: Sequence[str], sources: Sources) -> list[Pin]:
    with tempfile.TemporaryDirectory(prefix="offline-kit-closure-") as name:
        folder = Path(name).resolve()
        asked, pinned = folder / "build.in", folder / "build.txt"
        asked.write_text("".join(f"{text}\n" for text in sorted(requirements)), encoding="utf-8")
        image = sources.target.image
        # An output file that is there already holds preferences, not conditions.
        pinned.write_text(
            "".join(f"{key}=={image.packages[key]}\n" for key in sorted(image.packages)), encoding="utf-8"
        )
        words: list[str | Path] = [
            "pip",
            "compile",
            asked,
            "--output-file",
            pinned,
            "--python",
            sources.python,
        ]
        if not image.local:
            words += ["--python-version", image.python, "--python-platform", image.platform_for_uv]
        words += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
        words += ["--exclude-newer", sources.cutoff] if sources.cutoff else []
        done = _uv(words, sources, folder, _undated(requirements, sources))
        if not done.ok:
            raise _refusal(done, requirements)
        return _read(pinned.read_text(encoding="utf-8"))


def _uv(
    words: Sequence[str | Path], sources: Sources, folder: Path, undated: Collection[str]
) -> processes.Done:
    settings = sources.index.settings
    # uv runs the builds of sdists that keep their metadata to themselves
    return uv_tool.run_builds(
        words,
        settings,
        undated=undated,
        cwd=folder,
        cache=sources.cache.root,
        shown=confined_build.python_folders(sources.python),
    )


def _undated(requirements: Sequence[str], sources: Sources) -> set[str]:
    """Return the indexes that do not tell upload times, judged by what is asked for: they know no cut-off."""
    from packaging.requirements import Requirement

    settings = sources.index.settings
    found = set()
    for url in settings.index_urls() if sources.cutoff else ():
        if "//pypi.org/" not in url:
            own = replace(settings, index_url=url, extra_index_urls=(), find_links=())
            alone = Index(own, cache=sources.cache.root)
            files = [file for text in requirements for file in alone.files(Requirement(text).name)]
            if not any(file.upload_time for file in files):
                found.add(url)
    return found


def _refusal(done: processes.Done, requirements: Sequence[str]) -> Exception:
    text = redact(done.err or done.out)
    lines = [line for line in text.splitlines() if line.strip()]
    if _NO_NETWORK.search(text):
        return OutsideError(
            f"no index answered when asked for {', '.join(sorted(requirements))}, which a build needs",
            hint="check the connection and the index settings of pip, then run again",
            details=lines[-8:],
        )
    return BuildFailed("what its build asks for cannot be had together", lines[-15:])


def _read(text: str) -> list[Pin]:
    found: list[tuple[str, str, list[str]]] = []
    for line in text.splitlines():
        if pinned := _PINNED.match(line):
            found.append((pinned[1], pinned[2], []))
        if found:
            found[-1][2].extend(_HASH.findall(line))
    return [
        Pin(name=name, version=version, fate=Fate.BUNDLED, hashes=tuple(sorted(hashes)))
        for name, version, hashes in found
    ]
