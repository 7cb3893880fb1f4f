"""A wheelhouse that was made on Kaggle, as it is known here: its manifest, outlines of its wheels, its image.

The wheels themselves stay there; an outline is a zip with the wheel's METADATA and the names of its code,
all that a kit is built from.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.kit import manifest
from offline_kit.notebook.runtime import kit_capture
from offline_kit.packages import distribution_metadata
from offline_kit.project import images as image
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Freeze, KitPart, Pin, Wheel, Wheelhouse

RECORD = "offline-kit.wheelhouse.json"
"""What remembers, beside the project, that its packages come from Kaggle; to be committed."""
PART = manifest.REMOTE_PART
OUTLINES = "outlines"
"""The folder of the outlines, below that of a wheelhouse."""
_FORMAT = 1
_MAKES = "makes it, or fetches what is there already"


@dataclass(frozen=True, kw_only=True)
class WheelhouseRecord:
    """Where the project's wheelhouse is."""

    notebook: str
    """"owner/slug" of the notebook that made it."""
    version: int
    asked: str
    """Digest of what it was asked for."""
    part: str
    """Id of its part."""
    image: str
    """Digest of the captured image."""
    files: int
    """How many wheels it has; without any, nothing needs attaching."""
    local: bool
    """Whether it lies at a local Kaggle."""

    @property
    def source_address(self) -> str:
        """The source that the offline notebook attaches."""
        return f"notebook:{self.notebook}"

    @property
    def cache_key(self) -> str:
        """The name of its folder in the cache."""
        return f"{self.part[:24]}-{self.image[:12]}"


@dataclass(frozen=True, kw_only=True)
class RemoteWheelhouse:
    """The wheelhouse itself."""

    record: WheelhouseRecord
    """Where it is on Kaggle."""
    part: KitPart
    """Its files, as their manifest there says."""
    folder: Path
    """Where its manifest, the outlines and the image's file lie here."""
    image: Image
    """The image that it was made for, as it was captured."""

    @property
    def list_wheels(self) -> Wheelhouse:
        """Its wheels, with their original names; each path is that of an outline."""
        wheels = []
        for entry in self.part.entries:
            filename = entry.original.rpartition("/")[2]
            name, version, _, _ = parse_wheel_filename(filename)
            path = self.folder / OUTLINES / filename
            wheels.append(
                Wheel(
                    name=str(name),
                    version=str(version),
                    filename=filename,
                    path=path,
                    sha256=entry.sha256,
                    size=entry.size,
                )
            )
        return Wheelhouse(wheels=tuple(sorted(wheels, key=lambda wheel: wheel.filename)))

    def freeze_of(self, requirements: tuple[str, ...]) -> Freeze:
        """Return its pins, and those of the image that its packages and the project's requirements ask for."""
        wheels = {wheel.name: wheel for wheel in self.list_wheels.wheels}
        asks: dict[str, dict[str, set[str]]] = {}
        for name, by, line in _list_requirements(requirements, wheels, self.image):
            entry = asks.setdefault(name, {"by": set(), "lines": set()})
            entry["by"].add(by)
            entry["lines"].add(line)
        pins = [_pin_package(name, asks.get(name), wheels, self.image) for name in sorted({*asks, *wheels})]
        text = "".join(f"{pin.name}=={pin.version}\n" for pin in pins if pin.fate is Fate.BUNDLED)
        head = f"# made by offline-kit, on Kaggle: {self.record.notebook}, version {self.record.version}\n"
        return Freeze(
            image=self.image.name,
            python=self.image.python,
            engine="pip",
            cutoff="",
            input_hash=self.record.asked,
            pins=tuple(pin for pin in pins if pin.version),
            text=head + text,
        )


def write_record(record: WheelhouseRecord, project: Path) -> None:
    """Write the record beside the project."""
    fields = {"format": _FORMAT, **vars(record)}
    files.write_atomic(project / RECORD, json.dumps(fields, indent=1) + "\n")


def read_record(project: Path) -> WheelhouseRecord | None:
    """Return the project's record, None if there is none; ProjectError for one that is damaged."""
    path = project / RECORD
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return WheelhouseRecord(
            notebook=str(fields["notebook"]),
            version=int(fields["version"]),
            asked=str(fields["asked"]),
            part=str(fields["part"]),
            image=str(fields["image"]),
            files=int(fields["files"]),
            local=bool(fields["local"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(
            f"'{path}' cannot be read: {error}",
            code="wheelhouse-record-invalid",
            hint=f"bring it back, or remove it; {rebuild_command(local=False)} {_MAKES}",
        ) from error


def cache_folder(record: WheelhouseRecord, cache: Path) -> Path:
    """Return where that lies here which a wheelhouse is known by, or would."""
    return cache / "outlines" / record.cache_key


def load_wheelhouse(record: WheelhouseRecord, cache: Path) -> RemoteWheelhouse:
    """Return a wheelhouse that is known here; ProjectError if it is not, or not whole."""
    folder = cache_folder(record, cache)
    if not folder.is_dir():
        raise ProjectError(
            f"the wheelhouse of '{record.notebook}' (version {record.version}) is not on this machine",
            code="remote-wheelhouse-not-here",
            hint=f"{rebuild_command(local=record.local)} {_MAKES}; or remove '{RECORD}' to build the packages here",
        )
    part = manifest.read_manifest(folder)
    wrong = [] if part.id == record.part else ["it has another id than the record says"]
    names = [entry.original.rpartition("/")[2] for entry in part.entries]
    wrong += [f"'{OUTLINES}/{name}' is missing" for name in names if not (folder / OUTLINES / name).is_file()]
    if wrong:
        raise ProjectError(
            f"the wheelhouse in '{folder}' is damaged",
            code="remote-wheelhouse-damaged",
            hint=f"remove this folder; {rebuild_command(local=record.local)} {_MAKES}",
            details=wrong,
        )
    captured = image.load_image(str(folder / "image.toml"), accelerator="none", project=folder)
    return RemoteWheelhouse(record=record, part=part, folder=folder, image=captured)


def store_outputs(folder: Path, part: KitPart, facts: str, captured: str) -> None:
    """Write what a wheelhouse is known by into a folder.

    `facts` is what its notebook told of the wheels, `captured` the image's file. Raises ProjectError if
    the facts make no sense, or are not of this part.
    """
    try:
        wheel_facts = {
            facts_of_wheel["original"]: facts_of_wheel for facts_of_wheel in json.loads(facts)["wheels"]
        }
        wheels = {entry.original.rpartition("/")[2]: wheel_facts[entry.original] for entry in part.entries}
        files.make_folder(folder / OUTLINES)
        for name, facts_of_wheel in wheels.items():
            with zipfile.ZipFile(folder / OUTLINES / name, "w") as archive:
                archive.writestr(str(facts_of_wheel["info"]), str(facts_of_wheel["metadata"]))
                for member, text in dict(facts_of_wheel["code"]).items():
                    archive.writestr(str(member), str(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(
            f"what the run says of its wheels makes no sense: {error!r}",
            code="remote-output-invalid",
            hint="run the same command again",
        ) from error
    (folder / "image.toml").write_text(captured, encoding="utf-8")
    manifest.write_manifest(folder, part)


def rebuild_command(*, local: bool) -> str:
    """Return the command that makes packages at a Kaggle: that of a record, whichever the running command is at."""
    return f"'offline-kit build --on {'local' if local else 'kaggle'}'"


def check_request(record: WheelhouseRecord, digest: str) -> None:
    """Raise ProjectError if the wheelhouse was made for other requirements than those of today."""
    if record.asked != digest:
        raise ProjectError(
            f"the requirements changed since the wheelhouse was made on Kaggle ('{record.notebook}')",
            code="remote-wheelhouse-outdated",
            hint=f"{rebuild_command(local=record.local)} makes it again; or remove '{RECORD}' to build the packages here",
        )


def captured_image(facts: str, digest: str, server_name: str) -> str:
    """Return the image file of what a run told about its image; ProjectError if it told nonsense."""
    try:
        return kit_capture.format_image_file(json.loads(facts), digest, server_name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(
            f"what the run says of its image makes no sense: {error}",
            code="remote-output-invalid",
            hint="run the same command again",
        ) from error


def _list_requirements(
    requirements: tuple[str, ...], wheels: dict[str, Wheel], image: Image
) -> Iterator[tuple[str, str, str]]:
    """Yield (name, who asks, requirement) of what the project and the wheels require in the image."""
    environment = image.marker_environment()
    lines = [("the project", line) for line in requirements if not line.startswith("-")]
    for wheel in wheels.values():
        raw = distribution_metadata.read_metadata(wheel.path, wheel.filename) or b""
        required = distribution_metadata.list_metadata_values(raw, "Requires-Dist")
        lines += [(wheel.name, line) for line in required]
    for by, line in lines:
        asks = Requirement(line)
        if asks.marker is None or asks.marker.evaluate({**environment, "extra": ""}):
            asks.marker = None
            yield str(canonicalize_name(asks.name)), by, str(asks)


def _pin_package(name: str, asks: dict[str, set[str]] | None, wheels: dict[str, Wheel], image: Image) -> Pin:
    wheel, has = wheels.get(name), image.packages.get(name, "")
    replaces = has if wheel else ""
    return Pin(
        name=name,
        version=wheel.version if wheel else has,
        fate=Fate.BUNDLED if wheel else Fate.PROVIDED,
        reason="made on Kaggle" if wheel else f"in the image at {has}",
        asked_by=tuple(sorted(asks["by"])) if asks else (),
        requires=tuple(sorted(asks["lines"])) if asks else (),
        hashes=(f"sha256:{wheel.sha256}",) if wheel else (),
        replaces=replaces,
    )
