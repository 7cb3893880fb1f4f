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
from offline_kit.packages.builds.build_environment import BuildFailedError
from offline_kit.packages.download import fetch_files
from offline_kit.packages.file_choice import ImageTarget
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import redact_urls
from offline_kit.project.types import Fate, Pin, Sdist, Wheel

_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_NO_NETWORK = re.compile(
    r"client error \(Connect\)|dns error|timed out|error sending request|status client error", re.I
)


@dataclass(frozen=True, kw_only=True)
class BuildSources:
    """Where build requirements come from, and what pins them."""

    target: ImageTarget
    """The image."""
    index: PackageIndex
    """The indexes."""
    cache: Cache
    """Where fetched files are kept."""
    python: Path = Path(sys.executable)
    """The interpreter that builds: the image's, or the running one where the machine has no such."""
    exact: bool = True
    """Whether it is the image's."""
    cutoff: str = ""
    """Nothing uploaded later is considered; empty: no cut-off."""


def obtain_requirements(
    requirements: Sequence[str], sources: BuildSources, report: Reporter
) -> tuple[tuple[Wheel, ...], tuple[Sdist, ...]]:
    """Return all that these requirements need in the image, as wheels where there are any.

    The image's own versions are preferred: they are known to work with its Python, and what is compiled
    against them runs beside them. Raises BuildFailed where the requirements cannot be met, OutsideError
    where an index does not answer.
    """
    _check_requirements(requirements)
    if not requirements:
        return (), ()
    pins = _resolve_pins(requirements, sources)
    artifacts, missing = fetch_files(pins, sources.target, sources.index, sources.cache, report)
    if missing:
        lines = [
            f"{one.pin.name}=={one.pin.version}: {line}" for one in missing for line in one.alternatives.lines
        ]
        names = ", ".join(f"{one.pin.name}=={one.pin.version}" for one in missing)
        raise BuildFailedError(f"its build needs {names}, of which nothing fits the image", lines)
    wheels = tuple(one for one in artifacts if isinstance(one, Wheel))
    return wheels, tuple(one for one in artifacts if isinstance(one, Sdist))


def _check_requirements(requirements: Sequence[str]) -> None:
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise BuildFailedError(
                f"its build asks for '{text}', which is no valid requirement", [str(error)]
            ) from error
        if requirement.url:
            raise BuildFailedError(
                f"its build asks for '{requirement.name}' from a URL, which an offline build cannot follow",
                [redact_urls(text)],
            )


def _resolve_pins(requirements: Sequence[str], sources: BuildSources) -> list[Pin]:
    with tempfile.TemporaryDirectory(prefix="offline-kit-closure-") as name:
        folder = Path(name).resolve()
        input_file, output_file = folder / "build.in", folder / "build.txt"
        input_file.write_text("".join(f"{text}\n" for text in sorted(requirements)), encoding="utf-8")
        image = sources.target.image
        # An output file that is there already holds preferences, not conditions.
        output_file.write_text(
            "".join(f"{key}=={image.packages[key]}\n" for key in sorted(image.packages)), encoding="utf-8"
        )
        words: list[str | Path] = [
            "pip",
            "compile",
            input_file,
            "--output-file",
            output_file,
            "--python",
            sources.python,
        ]
        if not image.local:
            words += ["--python-version", image.python, "--python-platform", image.platform_for_uv]
        words += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
        words += ["--exclude-newer", sources.cutoff] if sources.cutoff else []
        result = _run_compile(words, sources, folder, _find_undated_indexes(requirements, sources))
        if not result.succeeded:
            raise _make_compile_error(result, requirements)
        return _parse_pins(output_file.read_text(encoding="utf-8"))


def _run_compile(
    words: Sequence[str | Path], sources: BuildSources, folder: Path, undated: Collection[str]
) -> processes.CompletedCommand:
    settings = sources.index.settings
    # uv runs the builds of sdists that keep their metadata to themselves
    return uv_tool.run_uv_builds(
        words,
        settings,
        undated=undated,
        cwd=folder,
        cache=sources.cache.root,
        shown=confined_build.list_python_folders(sources.python),
    )


def _find_undated_indexes(requirements: Sequence[str], sources: BuildSources) -> set[str]:
    """Return the indexes that do not tell upload times, judged by what is asked for: they know no cut-off."""
    from packaging.requirements import Requirement

    settings = sources.index.settings
    undated_urls = set()
    for url in settings.list_index_urls() if sources.cutoff else ():
        if "//pypi.org/" not in url:
            single_index = replace(settings, index_url=url, extra_index_urls=(), find_links=())
            alone = PackageIndex(single_index, cache=sources.cache.root)
            files = [file for text in requirements for file in alone.list_files(Requirement(text).name)]
            if not any(file.upload_time for file in files):
                undated_urls.add(url)
    return undated_urls


def _make_compile_error(result: processes.CompletedCommand, requirements: Sequence[str]) -> Exception:
    text = redact_urls(result.err or result.out)
    lines = [line for line in text.splitlines() if line.strip()]
    if _NO_NETWORK.search(text):
        return OutsideError(
            f"no index answered when asked for {', '.join(sorted(requirements))}, which a build needs",
            hint="check the connection and the index settings of pip, then run again",
            details=lines[-8:],
        )
    return BuildFailedError("what its build asks for cannot be had together", lines[-15:])


def _parse_pins(text: str) -> list[Pin]:
    parsed: list[tuple[str, str, list[str]]] = []
    for line in text.splitlines():
        if pinned := _PINNED.match(line):
            parsed.append((pinned[1], pinned[2], []))
        if parsed:
            parsed[-1][2].extend(_HASH.findall(line))
    return [
        Pin(name=name, version=version, fate=Fate.BUNDLED, hashes=tuple(sorted(hashes)))
        for name, version, hashes in parsed
    ]
