"""The wheelhouse: for every pin that travels, the file that fits the image."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from offline_kit.core.cache import Cache
from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.distribution_metadata import dist_info_member
from offline_kit.packages.download import Missing, fetch_files
from offline_kit.packages.file_choice import Target, choose
from offline_kit.packages.index import Index
from offline_kit.project.images import Image, built_in
from offline_kit.project.types import Artifact, Fate, Pin, Sdist, Wheel, Wheelhouse


def fetch(
    pins: Sequence[Pin], image: Image, index: Index, *, cache: Cache | Path, report: Reporter = SILENT
) -> Wheelhouse:
    """Return the wheels, and the sdists where there is no wheel, of all bundled pins and spares.

    What the cache has is not asked for again: a second call needs no network. Local wheels are checked and
    pass through. Raises ProjectError with every pin of which nothing fits the image, OutsideError for an
    index that does not answer.
    """
    store = cache if isinstance(cache, Cache) else Cache(cache)
    target = Target(image)
    travelling = [pin for pin in pins if pin.fate is Fate.BUNDLED or pin.spare]
    local = [pin for pin in travelling if pin.local]
    problems = {pin: lines for pin in local if (lines := _problems(pin, target, report))}
    artifacts = [_artifact(pin) for pin in local if pin not in problems]
    listed, missing = fetch_files([pin for pin in travelling if not pin.local], target, index, store, report)
    if problems or missing:
        raise _error(problems, missing, target)
    artifacts.extend(listed)
    artifacts.sort(key=lambda artifact: artifact.filename)
    return Wheelhouse(
        wheels=tuple(one for one in artifacts if isinstance(one, Wheel)),
        sdists=tuple(one for one in artifacts if isinstance(one, Sdist)),
    )


def _artifact(pin: Pin) -> Artifact:
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


def _problems(pin: Pin, target: Target, report: Reporter) -> list[str]:
    """Return why the wheel on this disk cannot go to the image."""
    path = pin.local
    if path is None or not path.is_file():
        return [f"its file '{path}' is not there"]
    if path.suffix != ".whl":
        return []
    place = target.place(path.name)
    if place is None:
        return [f"the wheel '{path.name}' is for another Python or platform"]
    try:
        wanted = _requires_python(path)
    except (zipfile.BadZipFile, OSError) as error:
        return [f"the wheel '{path.name}' cannot be read: {error}"]
    if wanted is None:
        return [f"the wheel '{path.name}' cannot be read: it has no METADATA"]
    if not target.accepts(wanted):
        return [f"the wheel '{path.name}' wants Python {wanted}"]
    if path.stem.split("-")[-1].startswith("linux_"):
        report.warn(f"'{path.name}' does not say which glibc it needs: the rehearsal alone will not show it")
    return []


def _requires_python(wheel: Path) -> str | None:
    """Return what the wheel asks of Python; None where it has no METADATA."""
    from email.parser import BytesHeaderParser

    with zipfile.ZipFile(wheel) as archive:
        member = dist_info_member(archive.namelist(), "METADATA")
        if member is None:
            return None
        return str(BytesHeaderParser().parsebytes(archive.read(member)).get("Requires-Python", ""))


def _error(problems: dict[Pin, list[str]], missing: Sequence[Missing], target: Target) -> ProjectError:
    details = [line for pin, lines in problems.items() for line in (_headline(pin), *_indented(lines))]
    hints = ["give a wheel that fits the image"] if problems else []
    others_of = _other_images(target) if missing else []
    for one in missing:
        others = _images(one, others_of)
        has = target.image.public_version(one.pin.name)
        lines = [*one.outlook.lines, *([f"the image has {has}"] if has else [])]
        if one.outlook.versions:
            lines.append(f"versions that fit: {', '.join(one.outlook.versions[:5])}")
        if others:
            lines.append(f"images that it fits: {', '.join(others)}")
        details += [_headline(one.pin), *_indented(lines)]
        hints += _remedies(one, has, others)
    pins = [*problems, *(one.pin for one in missing)]
    names = ", ".join(f"'{pin.name}=={pin.version}'" for pin in pins)
    have = "has" if len(pins) == 1 else "have"
    return ProjectError(
        f"{names} {have} no file that fits {target.describe()}",
        hint="; ".join([*dict.fromkeys(hints), "or exclude what you do not need there"]),
        details=details,
    )


def _headline(pin: Pin) -> str:
    asked = f", asked for by {', '.join(pin.asked_by)}" if pin.asked_by else ""
    return f"{pin.name} {pin.version}{asked}:"


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _other_images(target: Target) -> list[Target]:
    """Return the other built-in images, those of the same kind of machine first."""
    others = [image for image in built_in() if image.name != target.image.name]
    return [
        Target(image) for image in sorted(others, key=lambda one: one.accelerator != target.image.accelerator)
    ]


def _images(missing: Missing, targets: Sequence[Target]) -> list[str]:
    pin = missing.pin
    return [
        target.image.name
        for target in targets
        if choose(missing.files, pin.version, pin.hashes, target) is not None
    ]


def _remedies(missing: Missing, has: str, images: Sequence[str]) -> list[str]:
    found = []
    if missing.outlook.changed:
        found.append("freeze anew with --upgrade, if you trust what the index has now")
    if has:
        found.append(f"allow {missing.pin.name}=={has}, which the image has")
    elif missing.outlook.nearest:
        found.append(f"ask for {missing.pin.name}=={missing.outlook.nearest}, which fits")
    if images:
        found.append(f'choose another image for {missing.pin.name} (image = "{images[0]}")')
    return found
