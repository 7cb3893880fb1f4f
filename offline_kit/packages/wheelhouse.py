"""The wheelhouse: for every pin that goes into the kit, the file that fits the image, verified and in the cache."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError
from offline_kit.core.files import format_size, sha256_of
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.core.thread_pool import run_transfers
from offline_kit.packages.file_choice import choose_file, describe_files
from offline_kit.packages.index import IndexFile, PackageIndex
from offline_kit.project.images import Image
from offline_kit.project.types import Artifact, Fate, Pin, Sdist, Wheel, Wheelhouse

T = TypeVar("T")
_THREADS = 8  # parallel downloads; more do not make one host faster


def fetch_wheelhouse(
    pins: Sequence[Pin], image: Image, index: PackageIndex, *, report: Reporter = SILENT
) -> Wheelhouse:
    """Fetch a wheel, or an sdist if there is no wheel, for every bundled pin and every spare.

    Cached files are used without asking an index, so a second call needs no network. Local wheels are used from
    where they are. Raises ProjectError listing every pin of which nothing fits the image, and
    OutsideError if an index does not answer.
    """
    needed = [pin for pin in pins if pin.fate is Fate.BUNDLED or pin.spare]
    artifacts = [
        _make_artifact(pin, pin.local.name, sha256_of(pin.local), pin.local) for pin in needed if pin.local
    ]
    downloads, missing = fetch_files([pin for pin in needed if not pin.local], image, index, report)
    if missing:
        raise _make_missing_error(missing, image)
    artifacts = sorted([*artifacts, *downloads], key=lambda artifact: artifact.filename)
    return Wheelhouse(
        wheels=tuple(artifact for artifact in artifacts if isinstance(artifact, Wheel)),
        sdists=tuple(artifact for artifact in artifacts if isinstance(artifact, Sdist)),
    )


def fetch_files(
    pins: Sequence[Pin], image: Image, index: PackageIndex, report: Reporter
) -> tuple[tuple[Artifact, ...], dict[Pin, tuple[str, ...]]]:
    """Return a Wheel or an Sdist for each pin, in the order of the pins, and for pins without either what there is.

    If any pin is missing, nothing is downloaded. Raises OutsideError if an index does not answer, and
    ProjectError if a file does not have the promised hash.
    """
    # All that the choice depends on.
    fit = cache_key(image.python, [str(tag) for tag in image.wheel_tags])
    keys = {pin: cache_key(pin.name, pin.version, sorted(pin.hashes), fit) for pin in pins}
    artifacts = {pin: artifact for pin in pins if (artifact := _recall_artifact(pin, keys[pin], index.cache))}
    uncached = [pin for pin in pins if pin not in artifacts]
    listings = run_transfers(lambda pin, _advance: index.list_files(pin.name), uncached, _THREADS)
    chosen: dict[Pin, IndexFile] = {}
    missing: dict[Pin, tuple[str, ...]] = {}
    for pin, files in zip(uncached, listings, strict=True):
        if file := choose_file(files, pin.version, pin.hashes, image):
            chosen[pin] = file
            if file.yanked:
                report.warn(f"{pin.name} {pin.version} was yanked by its authors ('{file.filename}')")
        else:
            missing[pin] = describe_files(files, pin.version, pin.hashes, image)
    if missing or not chosen:
        return tuple(artifacts[pin] for pin in pins if pin in artifacts), missing
    absent = [file for file in chosen.values() if not index.find_cached(file)]
    size = sum(file.size for file in absent)
    text = f"Downloading {len(absent)} {'file' if len(absent) == 1 else 'files'}"
    if absent:
        report.step(f"{text} ({format_size(size)})" if size else text)
    with report.progress(text, sum(file.size for file in chosen.values())) as advance:
        downloads = run_transfers(
            lambda pin, tell: _download_file(pin, chosen[pin], index, tell), [*chosen], _THREADS, advance
        )
    for pin, artifact in zip(chosen, downloads, strict=True):
        artifacts[pin] = artifact
        record = {"filename": artifact.filename, "sha256": artifact.sha256}
        index.cache.write_record("choices", keys[pin], record)
    return tuple(artifacts[pin] for pin in pins), missing


def _recall_artifact(pin: Pin, key: str, cache: Cache) -> Artifact | None:
    # Without hashes, another index may have other bytes under the same version: ask again.
    record = cache.read_record("choices", key) if pin.hashes else None
    if record is None:
        return None
    filename, sha256 = str(record.get("filename", "")), str(record.get("sha256", ""))
    path = cache.find_blob(sha256) if filename and len(sha256) == 64 else None
    return _make_artifact(pin, filename, sha256, path) if path else None


def _make_artifact(pin: Pin, filename: str, sha256: str, path: Path) -> Artifact:
    kind = Wheel if filename.endswith(".whl") else Sdist
    size = path.stat().st_size
    return kind(name=pin.name, version=pin.version, filename=filename, path=path, sha256=sha256, size=size)


def _download_file(pin: Pin, file: IndexFile, index: PackageIndex, advance: Advance) -> Artifact:
    path = index.download_file(file, advance)
    digest = path.name  # blobs of the cache are named by their sha256
    if pin.hashes and f"sha256:{digest}" not in pin.hashes:
        raise ProjectError(
            f"'{file.filename}' is not the file that was frozen",
            code="hash-mismatch",
            hint="build with --upgrade to freeze the index's current file, if you trust it",
            details=[f"got      sha256:{digest}", *(f"expected {line}" for line in pin.hashes)],
        )
    return _make_artifact(pin, file.filename, digest, path)


def _make_missing_error(missing: Mapping[Pin, tuple[str, ...]], image: Image) -> ProjectError:
    details = []
    for pin, facts in missing.items():
        required_by = f", required by {', '.join(pin.asked_by)}" if pin.asked_by else ""
        details += [f"{pin.name} {pin.version}{required_by}:", *(f"    {fact}" for fact in facts)]
    names = ", ".join(f"'{pin.name}=={pin.version}'" for pin in missing)
    return ProjectError(
        f"{names} {'has' if len(missing) == 1 else 'have'} no file that fits {image.describe_platform()}",
        code="no-fitting-file",
        hint="build with --upgrade to freeze what the indexes have now, or exclude what you do not need there",
        details=details,
    )
