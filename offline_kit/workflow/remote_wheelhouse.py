"""A wheelhouse that is built on Kaggle: what is asked for, and what is known of it here.

The wheels stay there. A kit is built from their manifest and outlines: an outline is a zip with a wheel's METADATA and
the names of its code. The record beside the project, to be committed, says which notebook has the wheels.
"""

import hashlib
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name, parse_wheel_filename

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.kit import manifest
from offline_kit.packages import distribution_metadata
from offline_kit.packages.freeze import direct_references
from offline_kit.packages.freeze.freeze_inputs import FreezeInputs, FreezeRequest, gather_inputs
from offline_kit.packages.pip_settings import PYPI, IndexSettings, redact_urls
from offline_kit.project import images
from offline_kit.project.types import Fate, Freeze, KitPart, OutputPart, Pin, Wheel, Wheelhouse

RECORD = "offline-kit.wheelhouse.json"
PART = "wheelhouse"
OUTLINES = "outlines"  # folder of the outlines, in that of a wheelhouse
_FORMAT = 1
_MAKES = "makes it, or fetches what is there already"


@dataclass(frozen=True, kw_only=True)
class WheelhouseRecord:
    """Where the project's wheelhouse is."""

    notebook: str  # "owner/slug" of the notebook that made it
    version: int
    asked: str  # digest of the request
    part: str  # id of its part
    image: str  # digest of the captured image
    files: int  # number of wheels; without any, nothing is attached
    local: bool  # whether it is at a local Kaggle

    @property
    def output(self) -> OutputPart:
        """The wheelhouse as a part of the kit that stays on Kaggle."""
        return OutputPart(
            name=PART,
            id=self.part,
            notebook=self.notebook,
            version=self.version,
            local=self.local,
            record=RECORD,
            command="offline-kit build --on",
        )

    def cache_folder(self, cache: Path) -> Path:
        """Return the folder of its manifest, outlines and image."""
        return cache / "outlines" / f"{self.part[:24]}-{self.image[:12]}"


@dataclass(frozen=True, kw_only=True)
class RemoteWheelhouse:
    """A wheelhouse whose manifest, outlines and image are on this machine."""

    record: WheelhouseRecord
    part: KitPart
    folder: Path
    image: images.Image  # the image that it was made for, as it was captured

    def list_wheels(self) -> Wheelhouse:
        """Return its wheels under their original names; each path is that of an outline."""
        wheels = []
        for entry in self.part.entries:
            # Kaggle removes "+" from file names: only the original has the local version.
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
        asked_by, lines = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        for name, by, line in self._list_requirements(requirements, wheels):
            asked_by[name].add(by)
            lines[name].add(line)
        pins = []
        for name in sorted({*wheels, *asked_by}):
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
        lines = {"the project": [line for line in requirements if not line.startswith("-")]}
        lines |= {
            name: distribution_metadata.read_requirements(wheel.path, wheel.filename)
            for name, wheel in wheels.items()
        }
        environment = self.image.marker_environment()
        for by, required in lines.items():
            for requirement in distribution_metadata.parse_requirements(required, environment):
                requirement.marker = None  # it counts in the image, not here
                yield str(canonicalize_name(requirement.name)), by, str(requirement)


def write_record(record: WheelhouseRecord, project: Path) -> None:
    """Write the record beside the project."""
    files.write_atomic(project / RECORD, json.dumps({"format": _FORMAT, **vars(record)}, indent=1) + "\n")


def read_record(project: Path) -> WheelhouseRecord | None:
    """Return the project's record, None if there is none; ProjectError for one that is damaged."""
    path = project / RECORD
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return WheelhouseRecord(**{field.name: written[field.name] for field in fields(WheelhouseRecord)})
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
            hint=f"{record.output.rebuild_command} {_MAKES}; or remove '{RECORD}' to build the packages here",
        )
    part = manifest.read_manifest(folder)
    wrong = [] if part.id == record.part else ["it has another id than the record says"]
    names = [entry.original.rpartition("/")[2] for entry in part.entries]
    wrong += [f"'{OUTLINES}/{name}' is missing" for name in names if not (folder / OUTLINES / name).is_file()]
    if wrong:
        raise ProjectError(
            f"the wheelhouse in '{folder}' is damaged",
            code="remote-wheelhouse-damaged",
            hint=f"remove this folder; {record.output.rebuild_command} {_MAKES}",
            details=wrong,
        )
    captured = images.load_image(str(folder / "image.toml"), accelerator="none", project=folder)
    return RemoteWheelhouse(record=record, part=part, folder=folder, image=captured)


def store_outputs(folder: Path, part: KitPart, facts: str, captured: str) -> None:
    """Write what a wheelhouse is known by: `facts` of its wheels, which a notebook wrote, and the image file."""
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
            hint=f"{record.output.rebuild_command} makes it again; or remove '{RECORD}' to build the packages here",
        )


_VARIABLE = re.compile(r"\$\{\w+\}")


@dataclass(frozen=True, kw_only=True)
class RemoteRequest:
    """The packages that are to be built; the image's own pip decides there which wheels that comes to."""

    requirements: tuple[str, ...] = ()
    """Lines of a requirements file: options of the index first, then the project's and its packages' own."""
    constraints: tuple[str, ...] = ()  # lines of a constraints file
    preferred: tuple[tuple[str, str], ...] = ()
    """Versions of a lock file by name; they count if the image has no such package."""
    protected: tuple[str, ...] = ()  # packages of the image, or patterns of such, that stay as they are
    include: tuple[str, ...] = ()  # packages that travel although the image has them
    exclude: tuple[str, ...] = ()  # packages that do not travel

    @property
    def request_digest(self) -> str:
        """The hex digest of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def build_request(request: FreezeRequest, image: images.Image) -> RemoteRequest:
    """Return what to ask for; `image` is the one that is assumed.

    Raises ProjectError with every requirement that cannot travel as text: a path on this machine, an
    address with a password or a query, a variable that is not set.
    """
    inputs = gather_inputs(request, image)
    if problems := list(_find_problems(inputs)):
        raise ProjectError(
            "some requirements cannot go to Kaggle as text",
            code="requirements-not-remote",
            hint="name folders under `packages` and wheels as packages of an index, or build here, without --on",
            details=problems,
        )
    options, policy = inputs.index_options, inputs.policy
    index_lines = [
        *([f"--index-url {options.index_url}"] if options.index_url else []),
        *(f"--extra-index-url {url}" for url in options.extra_index_urls),
        *(f"--find-links {link}" for link in options.find_links),
    ]
    replace = policy.replace | policy.include
    return RemoteRequest(
        requirements=(*index_lines, *sorted({*_requirement_lines(inputs, request.config.project)})),
        constraints=tuple(sorted(requirement.requirement for requirement in inputs.constraints)),
        preferred=tuple((name, pin.version) for name, pin in sorted(inputs.lock.pins.items())),
        protected=tuple(sorted({*image.protected, *image.accelerator_families} - replace)),
        include=tuple(sorted(policy.include)),
        exclude=tuple(sorted(policy.exclude | policy.own)),
    )


def index_note(settings: IndexSettings) -> str:
    """Return a note about this machine's index settings, which the run on Kaggle lacks; "" without any."""
    if settings.index_url.rstrip("/") == PYPI and not settings.extra_index_urls and not settings.find_links:
        return ""
    return (
        "the indexes and folders of this machine's pip configuration are not used on Kaggle: pip there asks pypi.org;"
        " name a public index in a requirements file (--index-url), or build here for packages of a private one"
    )


def _requirement_lines(inputs: FreezeInputs, project: Path) -> Iterator[str]:
    for requirement in inputs.requirements:
        # pip cannot leave out a dependency; what the files themselves ask for is left out here.
        if requirement.name not in inputs.policy.exclude:
            yield requirement.requirement
    for direct in (requirement.direct for requirement in inputs.direct_references):
        if direct:
            reference = direct_references.format_reference(direct, project)
            if direct.name:
                extras = f"[{','.join(direct.extras)}]" if direct.extras else ""
                reference = f"{direct.name}{extras} @ {reference}"
            yield reference + (f" ; {direct.marker}" if direct.marker else "")


def _find_problems(inputs: FreezeInputs) -> Iterator[str]:
    options = inputs.index_options
    for address in (options.index_url, *options.extra_index_urls, *options.find_links):
        if problem := _describe_secret(address):
            yield f"the index '{direct_references.strip_credentials(address)}' {problem}"
        elif address and not address.startswith(("https://", "http://")):
            yield f"'{address}' is a folder of this machine"
    for requirement in inputs.direct_references:
        if (direct := requirement.direct) is None:
            continue
        if direct.kind not in ("git", "url") or direct.location.startswith("file:"):
            yield f"{requirement.position}: a {direct.kind} on this machine"
        elif problem := _describe_secret(direct.location):
            address = direct_references.strip_credentials(direct.location)
            yield f"{requirement.position}: '{address}' {problem}"


def _describe_secret(address: str) -> str:
    """Return why an address may not go to Kaggle; "" if nothing in it can be a secret."""
    if unset := _VARIABLE.search(address):
        return f"names the variable {unset[0]}, which is not set here"
    if redact_urls(address.partition("?")[0]) != address.partition("?")[0]:
        return "has a password, which is never written into a notebook"
    if urlsplit(address).query:
        return "has a query ('?'), which may be a key, and is never written into a notebook"
    return ""
