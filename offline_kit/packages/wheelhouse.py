"""The wheelhouse: for every pin that travels, the file that fits the image."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from offline_kit.core.cache import Cache
from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.distribution_metadata import find_dist_info_member
from offline_kit.packages.download import MissingPin, fetch_files
from offline_kit.packages.file_choice import ImageTarget, choose_file
from offline_kit.packages.index import PackageIndex
from offline_kit.project.images import Image, load_built_in_images
from offline_kit.project.types import Artifact, Fate, Pin, Sdist, Wheel, Wheelhouse


def fetch_wheelhouse(
    pins: Sequence[Pin], image: Image, index: PackageIndex, *, cache: Cache | Path, report: Reporter = SILENT
) -> Wheelhouse:
    """Return the wheels, and the sdists where there is no wheel, of all bundled pins and spares.

    What the cache has is not asked for again: a second call needs no network. Local wheels are checked and
    pass through. Raises ProjectError with every pin of which nothing fits the image, OutsideError for an
    index that does not answer.
    """
    store = cache if isinstance(cache, Cache) else Cache(cache)
    target = ImageTarget(image)
    travelling = [pin for pin in pins if pin.fate is Fate.BUNDLED or pin.spare]
    local = [pin for pin in travelling if pin.local]
    problems = {pin: lines for pin in local if (lines := _check_local_file(pin, target, report))}
    artifacts = [_read_local_artifact(pin) for pin in local if pin not in problems]
    listed, missing = fetch_files([pin for pin in travelling if not pin.local], target, index, store, report)
    if problems or missing:
        raise _make_missing_error(problems, missing, target)
    artifacts.extend(listed)
    artifacts.sort(key=lambda artifact: artifact.filename)
    return Wheelhouse(
        wheels=tuple(artifact for artifact in artifacts if isinstance(artifact, Wheel)),
        sdists=tuple(artifact for artifact in artifacts if isinstance(artifact, Sdist)),
    )


def _read_local_artifact(pin: Pin) -> Artifact:
    assert pin.local is not None  # noqa: S101 (its callers hand over local pins alone)
    kind = Wheel if pin.local.suffix == ".whl" else Sdist
    return kind(
        name=pin.name,
        version=pin.version,
        filename=pin.local.name,
        path=pin.local,
        sha256=sha256_of(pin.local),
        size=pin.local.stat().st_size,
    )


def _check_local_file(pin: Pin, target: ImageTarget, report: Reporter) -> list[str]:
    """Return why the wheel on this disk cannot go to the image."""
    path = pin.local
    if path is None or not path.is_file():
        return [f"its file '{path}' is not there"]
    if path.suffix != ".whl":
        return []
    position = target.find_tag_position(path.name)
    if position is None:
        return [f"the wheel '{path.name}' is for another Python or platform"]
    try:
        requires_python = _read_requires_python(path)
    except (zipfile.BadZipFile, OSError) as error:
        return [f"the wheel '{path.name}' cannot be read: {error}"]
    if requires_python is None:
        return [f"the wheel '{path.name}' cannot be read: it has no METADATA"]
    if not target.accepts_python(requires_python):
        return [f"the wheel '{path.name}' wants Python {requires_python}"]
    if path.stem.split("-")[-1].startswith("linux_"):
        report.warn(f"'{path.name}' does not say which glibc it needs: the rehearsal alone will not show it")
    return []


def _read_requires_python(wheel: Path) -> str | None:
    """Return what the wheel asks of Python; None where it has no METADATA."""
    from email.parser import BytesHeaderParser

    with zipfile.ZipFile(wheel) as archive:
        member = find_dist_info_member(archive.namelist(), "METADATA")
        if member is None:
            return None
        return str(BytesHeaderParser().parsebytes(archive.read(member)).get("Requires-Python", ""))


def _make_missing_error(
    problems: dict[Pin, list[str]], missing: Sequence[MissingPin], target: ImageTarget
) -> ProjectError:
    details = [line for pin, lines in problems.items() for line in (_format_pin(pin), *_indent_lines(lines))]
    hints = ["give a wheel that fits the image"] if problems else []
    other_images = _list_other_images(target) if missing else []
    for missing_pin in missing:
        images = _find_fitting_images(missing_pin, other_images)
        has = target.image.public_version(missing_pin.pin.name)
        lines = [*missing_pin.alternatives.lines, *([f"the image has {has}"] if has else [])]
        if missing_pin.alternatives.versions:
            lines.append(f"versions that fit: {', '.join(missing_pin.alternatives.versions[:5])}")
        if images:
            lines.append(f"images that it fits: {', '.join(images)}")
        details += [_format_pin(missing_pin.pin), *_indent_lines(lines)]
        hints += _suggest_fixes(missing_pin, has, images)
    pins = [*problems, *(missing_pin.pin for missing_pin in missing)]
    names = ", ".join(f"'{pin.name}=={pin.version}'" for pin in pins)
    verb = "has" if len(pins) == 1 else "have"
    return ProjectError(
        f"{names} {verb} no file that fits {target.describe_platform()}",
        hint="; ".join([*dict.fromkeys(hints), "or exclude what you do not need there"]),
        details=details,
    )


def _format_pin(pin: Pin) -> str:
    required_by = f", asked for by {', '.join(pin.asked_by)}" if pin.asked_by else ""
    return f"{pin.name} {pin.version}{required_by}:"


def _indent_lines(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _list_other_images(target: ImageTarget) -> list[ImageTarget]:
    """Return the other built-in images, those of the same kind of machine first."""
    images = [image for image in load_built_in_images() if image.name != target.image.name]
    return [
        ImageTarget(image)
        for image in sorted(images, key=lambda image: image.accelerator != target.image.accelerator)
    ]


def _find_fitting_images(missing: MissingPin, targets: Sequence[ImageTarget]) -> list[str]:
    pin = missing.pin
    return [
        target.image.name
        for target in targets
        if choose_file(missing.files, pin.version, pin.hashes, target) is not None
    ]


def _suggest_fixes(missing: MissingPin, has: str, images: Sequence[str]) -> list[str]:
    fixes = []
    if missing.alternatives.changed:
        fixes.append("freeze anew with --upgrade, if you trust what the index has now")
    if has:
        fixes.append(f"allow {missing.pin.name}=={has}, which the image has")
    elif missing.alternatives.nearest:
        fixes.append(f"ask for {missing.pin.name}=={missing.alternatives.nearest}, which fits")
    if images:
        fixes.append(f'choose another image for {missing.pin.name} (image = "{images[0]}")')
    return fixes
