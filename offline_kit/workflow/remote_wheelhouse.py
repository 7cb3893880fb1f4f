"""A wheelhouse that was built on Kaggle, as it is known here: its manifest, outlines of its wheels, its image.

The wheels stay there. An outline is a zip with a wheel's METADATA and the names of its code, which is all that a
kit is built from. The record beside the project, to be committed, says which notebook has the wheels.
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
from offline_kit.packages import distribution_metadata
from offline_kit.project import images
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Freeze, KitPart, Pin, Wheel, Wheelhouse

RECORD = "offline-kit.wheelhouse.json"
PART = manifest.REMOTE_PART
OUTLINES = "outlines"
_FORMAT = 1
_MAKES = "makes it, or fetches what is there already"


@dataclass(frozen=True, kw_only=True)
class WheelhouseRecord:
    """Where the project's wheelhouse is."""

    notebook: str
    """"owner/slug" of the notebook that made it."""
    version: int
    asked: str
    """Digest of the request."""
    part: str
    """Id of its part."""
    image: str
    """Digest of the captured image."""
    files: int
    """Number of wheels; without any, nothing is attached."""
    local: bool
    """Whether it is at a local Kaggle."""

    @property
    def rebuild_command(self) -> str:
        """The command that builds the wheelhouse again, at its Kaggle, whichever the running command uses."""
        return f"'offline-kit build --on {'local' if self.local else 'kaggle'}'"

    def cache_folder(self, cache: Path) -> Path:
        """Return the folder of its manifest, outlines and image."""
        return cache / "outlines" / f"{self.part[:24]}-{self.image[:12]}"


@dataclass(frozen=True, kw_only=True)
class RemoteWheelhouse:
    """A wheelhouse whose manifest, outlines and image are on this machine."""

    record: WheelhouseRecord
    part: KitPart
    folder: Path
    image: Image
    """The image that it was made for, as it was captured."""

    def list_wheels(self) -> Wheelhouse:
        """Return its wheels under their original names; each path is that of an outline."""
        wheels = []
        for entry in self.part.entries:
            filename = entry.original.rpartition("/")[2]
            name, version, _, _ = parse_wheel_filename(filename)
            wheels.append(
                Wheel(
                    name=str(name),
                    version=str(version),
                    filename=filename,
                    path=self.folder / OUTLINES / filename,
                    sha256=entry.sha256,
                    size=entry.size,
                )
            )
        return Wheelhouse(wheels=tuple(sorted(wheels, key=lambda wheel: wheel.filename)))

    def freeze_of(self, requirements: tuple[str, ...]) -> Freeze:
        """Return its pins, and those of the image that its packages and the project's requirements ask for."""
        wheels = {wheel.name: wheel for wheel in self.list_wheels().wheels}
        asked_by: dict[str, set[str]] = {name: set() for name in wheels}
        lines: dict[str, set[str]] = {name: set() for name in wheels}
        for name, by, line in self._list_requirements(requirements, wheels):
            asked_by.setdefault(name, set()).add(by)
            lines.setdefault(name, set()).add(line)
        pins = []
        for name in sorted(asked_by):
            wheel, has = wheels.get(name), self.image.packages.get(name, "")
            pin = Pin(
                name=name,
                version=wheel.version if wheel else has,
                fate=Fate.BUNDLED if wheel else Fate.PROVIDED,
                reason="made on Kaggle" if wheel else f"in the image at {has}",
                asked_by=tuple(sorted(asked_by[name])),
                requires=tuple(sorted(lines[name])),
                hashes=(f"sha256:{wheel.sha256}",) if wheel else (),
                replaces=has if wheel else "",
            )
            pins.append(pin)
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

    def _list_requirements(
        self, requirements: tuple[str, ...], wheels: dict[str, Wheel]
    ) -> Iterator[tuple[str, str, str]]:
        """Yield (name, who asks, requirement) of what the project and the wheels require in the image."""
        environment = {**self.image.marker_environment(), "extra": ""}
        lines = [("the project", line) for line in requirements if not line.startswith("-")]
        for wheel in wheels.values():
            raw = distribution_metadata.read_metadata(wheel.path, wheel.filename) or b""
            required = distribution_metadata.list_metadata_values(raw, "Requires-Dist")
            lines += [(wheel.name, line) for line in required]
        for by, line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                requirement.marker = None
                yield str(canonicalize_name(requirement.name)), by, str(requirement)


def write_record(record: WheelhouseRecord, project: Path) -> None:
    """Write the record beside the project."""
    fields = {"format": _FORMAT, **vars(record)}
    files.write_atomic(project / RECORD, json.dumps(fields, indent=1) + "\n")


def read_record(project: Path) -> WheelhouseRecord | None:
    """Return the project's record, None if there is none; ProjectError for one that is damaged."""
    path = project / RECORD
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        types = {
            "notebook": str,
            "version": int,
            "asked": str,
            "part": str,
            "image": str,
            "files": int,
            "local": bool,
        }
        return WheelhouseRecord(**{name: convert(fields[name]) for name, convert in types.items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(
            f"'{path}' cannot be read: {error}",
            code="wheelhouse-record-invalid",
            hint=f"bring it back, or remove it; 'offline-kit build --on kaggle' {_MAKES}",
        ) from error


def load_wheelhouse(record: WheelhouseRecord, cache: Path) -> RemoteWheelhouse:
    """Return a wheelhouse that is known here; ProjectError if it is not, or incomplete."""
    folder = record.cache_folder(cache)
    if not folder.is_dir():
        raise ProjectError(
            f"the wheelhouse of '{record.notebook}' (version {record.version}) is not on this machine",
            code="remote-wheelhouse-not-here",
            hint=f"{record.rebuild_command} {_MAKES}; or remove '{RECORD}' to build the packages here",
        )
    part = manifest.read_manifest(folder)
    wrong = [] if part.id == record.part else ["it has another id than the record says"]
    names = [entry.original.rpartition("/")[2] for entry in part.entries]
    wrong += [f"'{OUTLINES}/{name}' is missing" for name in names if not (folder / OUTLINES / name).is_file()]
    if wrong:
        raise ProjectError(
            f"the wheelhouse in '{folder}' is damaged",
            code="remote-wheelhouse-damaged",
            hint=f"remove this folder; {record.rebuild_command} {_MAKES}",
            details=wrong,
        )
    captured = images.load_image(str(folder / "image.toml"), accelerator="none", project=folder)
    return RemoteWheelhouse(record=record, part=part, folder=folder, image=captured)


def store_outputs(folder: Path, part: KitPart, facts: str, captured: str) -> None:
    """Write into a folder what a wheelhouse is known by: `facts` of its wheels, and the image file `captured`.

    Raises ProjectError if the facts, which a notebook wrote, are invalid or not of this part.
    """
    try:
        wheel_facts = {wheel["original"]: wheel for wheel in json.loads(facts)["wheels"]}
        wheels = {entry.original.rpartition("/")[2]: wheel_facts[entry.original] for entry in part.entries}
        files.make_folder(folder / OUTLINES)
        for name, wheel in wheels.items():
            with zipfile.ZipFile(folder / OUTLINES / name, "w") as archive:
                archive.writestr(str(wheel["info"]), str(wheel["metadata"]))
                for member, text in dict(wheel["code"]).items():
                    archive.writestr(str(member), str(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise invalid_output_error("wheels", error) from error
    (folder / "image.toml").write_text(captured, encoding="utf-8")
    manifest.write_manifest(folder, part)


def invalid_output_error(subject: str, error: Exception) -> ProjectError:
    """Return the error for an output of a run that cannot be understood."""
    return ProjectError(
        f"what the run says of its {subject} makes no sense: {error!r}",
        code="remote-output-invalid",
        hint="run the same command again",
    )


def check_request(record: WheelhouseRecord, digest: str) -> None:
    """Raise ProjectError if the wheelhouse was made for other requirements than those of today."""
    if record.asked != digest:
        raise ProjectError(
            f"the requirements changed since the wheelhouse was made on Kaggle ('{record.notebook}')",
            code="remote-wheelhouse-outdated",
            hint=f"{record.rebuild_command} makes it again; or remove '{RECORD}' to build the packages here",
        )
