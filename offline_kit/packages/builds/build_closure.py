"""What a build requires: resolved and pinned for the image, as wheels."""

import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OutsideError
from offline_kit.core.report import Reporter
from offline_kit.packages.builds import confined_build, uv_tool
from offline_kit.packages.builds.build_environment import BuildFailedError
from offline_kit.packages.file_choice import ImageTarget
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import redact_urls
from offline_kit.packages.wheelhouse import fetch_files
from offline_kit.project.types import Fate, Pin, Sdist, Wheel

_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
# The wording of reqwest, the HTTP client in uv.
_NO_NETWORK = re.compile(
    r"client error \(Connect\)|dns error|timed out|error sending request|status client error", re.I
)


@dataclass(frozen=True, kw_only=True)
class BuildSources:
    """What the requirements of a build are resolved for, from and with."""

    target: ImageTarget
    index: PackageIndex
    python: Path = Path(sys.executable)
    """The interpreter that builds: the image's version, or the running one if this machine lacks that."""
    exact: bool = True
    """Whether it is the image's version."""
    cutoff: str = ""
    """Files uploaded later are ignored; empty for no cut-off."""


def obtain_requirements(
    requirements: Sequence[str], sources: BuildSources, report: Reporter
) -> tuple[tuple[Wheel, ...], tuple[Sdist, ...]]:
    """Return everything that these requirements need in the image, as wheels if possible.

    The image's own versions are preferred: they work with its Python, and what is compiled against them works
    with them. Raises BuildFailedError if the requirements cannot be met, OutsideError if an index does not answer.
    """
    _check_requirements(requirements)
    if not requirements:
        return (), ()
    pins = _resolve_pins(requirements, sources)
    artifacts, missing = fetch_files(pins, sources.target, sources.index, report)
    if missing:
        lines = [
            f"{item.pin.name}=={item.pin.version}: {line}"
            for item in missing
            for line in item.alternatives.lines
        ]
        names = ", ".join(f"{item.pin.name}=={item.pin.version}" for item in missing)
        raise BuildFailedError(f"its build needs {names}, of which no file fits the image", lines)
    wheels = tuple(artifact for artifact in artifacts if isinstance(artifact, Wheel))
    return wheels, tuple(artifact for artifact in artifacts if isinstance(artifact, Sdist))


def _check_requirements(requirements: Sequence[str]) -> None:
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise BuildFailedError(
                f"its build requires '{text}', which is not a valid requirement", [str(error)]
            ) from error
        if requirement.url:
            raise BuildFailedError(
                f"its build requires '{requirement.name}' from a URL, which an offline build cannot reach",
                [redact_urls(text)],
            )


def _resolve_pins(requirements: Sequence[str], sources: BuildSources) -> list[Pin]:
    image = sources.target.image
    with tempfile.TemporaryDirectory(prefix="offline-kit-closure-") as name:
        folder = Path(name).resolve()
        input_file, output_file = folder / "build.in", folder / "build.txt"
        input_file.write_text("".join(f"{text}\n" for text in sorted(requirements)), encoding="utf-8")
        # An existing output file holds preferences, not constraints:
        # https://docs.astral.sh/uv/pip/compile/#upgrading-requirements
        preferences = "".join(f"{key}=={image.packages[key]}\n" for key in sorted(image.packages))
        output_file.write_text(preferences, encoding="utf-8")
        words: list[str | Path] = ["pip", "compile", input_file, "--output-file", output_file]
        words += ["--python", sources.python]
        if not image.local:
            words += ["--python-version", image.python, "--python-platform", image.platform_for_uv]
        words += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
        # The same freeze then gives the same closure later on.
        words += ["--exclude-newer", sources.cutoff] if sources.cutoff else []
        # Confined: uv builds sdists that do not state their metadata.
        result = uv_tool.run_uv_builds(
            words,
            sources.index.settings,
            undated=_find_undated_indexes(requirements, sources),
            cwd=folder,
            cache=sources.index.cache.root,
            shown=confined_build.list_python_folders(sources.python),
        )
        if not result.succeeded:
            raise _make_compile_error(result, requirements)
        return _parse_pins(output_file.read_text(encoding="utf-8"))


def _find_undated_indexes(requirements: Sequence[str], sources: BuildSources) -> set[str]:
    """Return the indexes without upload times (PEP 700): a cut-off would empty them."""
    from packaging.requirements import Requirement

    settings = sources.index.settings
    undated_urls = set()
    for url in settings.list_index_urls() if sources.cutoff else ():
        # PyPI has upload times for every file (PEP 700).
        if "//pypi.org/" not in url:
            single_index = replace(settings, index_url=url, extra_index_urls=(), find_links=())
            index = PackageIndex(single_index, cache=sources.index.cache.root)
            files = [file for text in requirements for file in index.list_files(Requirement(text).name)]
            if not any(file.upload_time for file in files):
                undated_urls.add(url)
    return undated_urls


def _make_compile_error(result: processes.CompletedCommand, requirements: Sequence[str]) -> Exception:
    text = redact_urls(result.err or result.out)
    lines = [line for line in text.splitlines() if line.strip()]
    if _NO_NETWORK.search(text):
        return OutsideError(
            f"no index answered when resolving {', '.join(sorted(requirements))}, which a build requires",
            code="index-unreachable",
            hint="check the connection and pip's index settings, then run again",
            details=lines[-8:],
        )
    return BuildFailedError("its build requirements cannot be resolved", lines[-15:])


def _parse_pins(text: str) -> list[Pin]:
    parsed: list[tuple[str, str, list[str]]] = []
    for line in text.splitlines():
        if match := _PINNED.match(line):
            parsed.append((match[1], match[2], []))
        if parsed:
            parsed[-1][2].extend(_HASH.findall(line))
    return [
        Pin(name=name, version=version, fate=Fate.BUNDLED, hashes=tuple(sorted(hashes)))
        for name, version, hashes in parsed
    ]
