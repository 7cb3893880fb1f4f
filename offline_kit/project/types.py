"""Frozen data classes that several rooms share.

Names of distributions are normalized (PEP 503); hashes of pins are "sha256:<hex>", the `sha256` of a file is the hex
digest alone; sizes are in bytes.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from offline_kit.project.config_keys import ModelSpec as ModelSpec
from offline_kit.project.config_keys import NotebookSettings as NotebookSettings


class Fate(StrEnum):
    """What the build does with a pin."""

    BUNDLED = "bundled"
    PROVIDED = "provided"  # the image has it at this version
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A package at one version, and what the build does with it."""

    name: str
    version: str  # with its local part, if any
    fate: Fate
    reason: str = ""  # why it has that fate, for the user: "in the image at 2.1.3"
    asked_by: tuple[str, ...] = ()
    """Who requires it: names of distributions, or "-r requirements.in" for the user's own files."""
    requires: tuple[str, ...] = ()
    """Every requirement on it from the kit or the user, as "numpy>=1.20", sorted."""
    hashes: tuple[str, ...] = ()
    """Hashes of all files of this version on the index, sorted; empty for direct references."""
    url: str = ""  # the direct reference that the user wrote, without credentials; empty for index packages
    local: Path | None = None  # the wheel on this disk, for direct references (given, downloaded or built)
    replaces: str = ""
    """The image's version that this bundled pin replaces; empty if the image lacks the package."""
    breaks: tuple[str, ...] = ()
    """Image packages whose requirements no longer hold by that, as "tensorflow (wants numpy<2.1)"."""
    spare: bool = False  # provided, but shipped too, and used only if the image turns out to lack it


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """The resolved packages: every pin with its fate."""

    image: str
    python: str  # full Python version of the target
    engine: str  # "uv" or "pip-tools"
    cutoff: str  # ISO 8601 in UTC: files that were uploaded to the index later are ignored
    input_hash: str  # hex digest over all inputs of the freeze
    pins: tuple[Pin, ...]  # sorted by name
    differences: tuple[str, ...] = ()
    """Notes, such as preferred pins (of lock files) that were changed to fit the image."""
    text: str = ""  # the lock file's text: pip-tools' format, with provided and skipped pins as comments

    @property
    def replacements(self) -> tuple[Pin, ...]:
        """The pins that replace another version of the image's."""
        return tuple(pin for pin in self.pins if pin.replaces)

    def pins_with(self, fate: Fate) -> tuple[Pin, ...]:
        """Return the pins with this fate, in their order."""
        return tuple(pin for pin in self.pins if pin.fate is fate)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A distribution file on this disk, with a verified hash."""

    name: str
    version: str
    filename: str  # with project, version and tags; the name of `path`, in the cache, may differ
    path: Path
    sha256: str
    size: int


class Wheel(Artifact):
    """A built distribution."""


class Sdist(Artifact):
    """A source distribution (.tar.gz or .zip)."""


@dataclass(frozen=True, kw_only=True)
class Wheelhouse:
    """The files for the bundled and spare pins."""

    wheels: tuple[Wheel, ...] = ()
    sdists: tuple[Sdist, ...] = ()
    """Those of the pins without a wheel that fits the image; both are sorted by file name."""


@dataclass(frozen=True, kw_only=True)
class SettledSdist:
    """A package that the index has only as an sdist, with everything to install it offline."""

    name: str
    version: str
    sdist: Sdist | None  # None with `sdists = "wheel"`
    wheel: Wheel | None  # the wheel built from it; None if none fits, or with `sdists = "rename"`
    closure: tuple[Wheel, ...] = ()
    """All wheels that its offline isolated build needs, sorted by file name; empty without sdist."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of the project's code that is shipped unchanged."""

    original: str  # Posix path relative to the project: "src/model.py"
    path: Path


@dataclass(frozen=True, kw_only=True)
class OwnCode:
    """The project's own code: packages as wheels, modules as files."""

    wheels: tuple[Wheel, ...] = ()
    sources: tuple[SourceFile, ...] = ()  # loose modules and folders of modules
    roots: tuple[str, ...] = ()
    """Posix folders, relative to the project, to add to sys.path; "." is the project."""


class CheckpointKind(StrEnum):
    """The format of a checkpoint file, recognized without executing it."""

    LIGHTNING = "lightning"
    TORCH_ZIP = "torch-zip"
    TORCH_LEGACY = "torch-legacy"
    SAFETENSORS = "safetensors"
    PICKLE = "pickle"
    JOBLIB = "joblib"
    NUMPY = "numpy"
    HDF5 = "hdf5"
    KERAS = "keras"
    ONNX = "onnx"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file with trained weights that the notebook loads."""

    original: str  # Posix path relative to the project; unique in the kit
    path: Path
    size: int
    sha256: str
    kind: CheckpointKind  # read from its bytes; it is never loaded
    refused: tuple[str, ...] = ()
    """Globals that torch.load(weights_only=True) would refuse, as "omegaconf.DictConfig"."""


class Severity(StrEnum):
    """What a finding means for the build."""

    NOTE = "note"
    WARN = "warn"  # probably wrong; the build continues
    STOP = "stop"  # wrong: no kit is made


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A fact about a trained file or a package, and what to do about it."""

    severity: Severity
    about: str  # original name of a file, or a package
    what: str  # A clause that continues the quoted name: "was saved with scikit-learn 1.4.2"
    remedy: str = ""  # what to do, in the imperative; empty if nothing needs doing


@dataclass(frozen=True, kw_only=True)
class Member:
    """A model of the notebook's ensemble: a file or a folder, with the framework that loads it."""

    name: str  # shown in the notebook's output; unique in its ensemble
    framework: str
    path: Path
    kit_path: str  # the same in the restored kit, or below its source: "checkpoints/rf.joblib"
    files: tuple[Checkpoint, ...] = ()
    model: str = ""  # reference to its class or builder, or empty
    weight: float = 1.0
    params: dict[str, object] = field(default_factory=dict)  # its own params, without those of the notebook
    origin: str = ""
    transform: str = ""
    batch_size: int = 0  # 0: the notebook's
    own_model: bool = False  # `model` was set in its own entry, not in the notebook's table
    version: str = ""  # version of the training library; empty if unknown
    version_said: bool = False
    """The file itself has the version; otherwise it is that of the running environment."""


class Role(StrEnum):
    """What a file of the kit is for."""

    WHEEL = "wheel"
    SDIST = "sdist"
    BUILD = "build"  # A wheel that only the offline build of an sdist needs
    SOURCE = "source"
    CHECKPOINT = "checkpoint"
    PREPROCESSING = "preprocessing"  # A scaler, an encoder, a tokenizer, a label map: loaded by name
    LOCK = "lock"  # the install plan of the packages
    RUNTIME = "runtime"  # the code that restores the kit in the notebook
    RECORDING = "recording"  # what a recorded run fetched, and the document that says how


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of a part, with its original and its stored name."""

    role: Role
    original: str
    """Posix path below the part's folder, with the name that tools expect: "packages/x-1.0+cu1-….whl"."""
    stored: str  # Posix path below the part's folder, with a name that Kaggle does not change
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class KitPart:
    """A part of the kit, which is one Kaggle dataset."""

    name: str  # "kit" for a single dataset; "packages", "code", "checkpoints" if split
    id: str  # hash over its sorted (original, stored, size, sha256)
    entries: tuple[FileEntry, ...]  # sorted by original name


@dataclass(frozen=True, kw_only=True)
class OutputPart:
    """A part of the kit that is the output of a notebook on Kaggle, and stays there."""

    name: str
    id: str
    notebook: str  # "owner/slug"
    version: int
    local: bool  # whether it is at a local Kaggle
    record: str  # name of the file beside the project that says so
    command: str  # makes the part; the Kaggle follows

    @property
    def address(self) -> str:
        """The Kaggle that has it, as --to means it."""
        return "local" if self.local else "kaggle"

    @property
    def rebuild_command(self) -> str:
        """The command that makes it again, at its Kaggle."""
        return f"'{self.command} {self.address}'"


@dataclass(frozen=True, kw_only=True)
class Kit:
    """A finished kit on disk."""

    folder: Path  # the output folder, with dataset/ and notebook/ in it
    id: str  # hash of the part ids
    parts: tuple[KitPart, ...]  # sorted by name
    split: bool | None = None  # whether each part has a folder of its own; None: if there are several

    def part_folder(self, part: KitPart) -> Path:
        """Return the folder to upload for this part."""
        split = len(self.parts) > 1 if self.split is None else self.split
        return self.folder / "dataset" / part.name if split else self.folder / "dataset"
