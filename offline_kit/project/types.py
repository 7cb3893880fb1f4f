"""Frozen nouns that cross stages.

Names of distributions are normalized (PEP 503) everywhere; hashes of pins read "sha256:<hex>", the
`sha256` of a file is the bare hex digest; sizes are bytes.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Fate(StrEnum):
    """What becomes of a pin."""

    BUNDLED = "bundled"
    """Goes into the kit."""
    PROVIDED = "provided"
    """The image has it at this version."""
    SKIPPED = "skipped"
    """Left out, with a reason."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A package at one version, and what becomes of it."""

    name: str
    """Normalized name of the distribution."""
    version: str
    """The version, local part included where there is one."""
    fate: Fate
    """Bundled, provided or skipped."""
    reason: str = ""
    """Why it has that fate, for a person: "in the image at 2.1.3"."""
    asked_by: tuple[str, ...] = ()
    """Who asks for it: names of distributions, or "-r requirements.in" for the user's own files."""
    requires: tuple[str, ...] = ()
    """Every requirement that the kit or the user puts on it, as "numpy>=1.20", sorted."""
    hashes: tuple[str, ...] = ()
    """Hashes of all the files of this version on the index, sorted; empty for direct references."""
    url: str = ""
    """The direct reference that the user wrote, credentials removed; empty for index packages."""
    local: Path | None = None
    """The wheel on this disk, for direct references (given, downloaded or built)."""
    replaces: str = ""
    """The image's version that this bundled pin replaces; empty when the image lacks the package."""
    spare: bool = False
    """Provided, but travels all the same and is used only where the image turns out to lack it."""


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """An image package that the kit shadows with another version."""

    name: str
    """Normalized name."""
    image_version: str
    """What the image has."""
    version: str
    """What the kit brings."""
    asked_by: tuple[str, ...]
    """Who asked for it."""
    breaks: tuple[str, ...] = ()
    """Image packages whose requirements no longer hold, as "tensorflow (wants numpy<2.1)"."""


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """The whole freeze: every pin with its fate."""

    image: str
    """Name of the image that it was made for."""
    python: str
    """Full Python version of the target."""
    engine: str
    """"uv" or "pip-tools"."""
    cutoff: str
    """Index cut-off, ISO 8601 in UTC: nothing uploaded later was considered."""
    input_hash: str
    """Hex digest over all that the freeze depends on; another digest means another freeze."""
    pins: tuple[Pin, ...]
    """All pins, sorted by name."""
    replacements: tuple[Replacement, ...] = ()
    """Image packages that the kit replaces."""
    differences: tuple[str, ...] = ()
    """Lines on preferred pins (lock files) that yielded to the image, and other notes."""
    text: str = ""
    """The freeze as it is written: pip-tools' format, provided and skipped pins as comments."""

    def pins_with(self, fate: Fate) -> tuple[Pin, ...]:
        """Return the pins with this fate, in their order."""
        return tuple(pin for pin in self.pins if pin.fate is fate)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A distribution file on this disk, its hash verified."""

    name: str
    """Normalized name of the distribution."""
    version: str
    """Its version."""
    filename: str
    """The original file name, which says project, version and tags."""
    path: Path
    """Where the bytes lie (in the cache); its own name may differ."""
    sha256: str
    """Hex digest of the bytes."""
    size: int
    """Bytes."""


class Wheel(Artifact):
    """A built distribution."""


class Sdist(Artifact):
    """A source distribution (.tar.gz or .zip)."""


@dataclass(frozen=True, kw_only=True)
class Wheelhouse:
    """What was fetched for the bundled pins and spares."""

    wheels: tuple[Wheel, ...] = ()
    """Wheels that fit the image, sorted by file name."""
    sdists: tuple[Sdist, ...] = ()
    """Sdists of the pins that have no fitting wheel, sorted by file name."""


@dataclass(frozen=True, kw_only=True)
class SettledSdist:
    """One package that the index has only as an sdist, with what restores it offline."""

    name: str
    """Normalized name."""
    version: str
    """Its version."""
    sdist: Sdist | None
    """The sdist itself; None under `sdists = "wheel"`."""
    wheel: Wheel | None
    """The wheel built from it beforehand; None where none fits or under `sdists = "rename"`."""
    closure: tuple[Wheel, ...] = ()
    """All wheels that its offline isolated build needs, sorted by file name; empty without sdist."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of the project's code that is shipped as it is."""

    original: str
    """Posix path relative to the project: "src/model.py"."""
    path: Path
    """Where it lies now."""


@dataclass(frozen=True, kw_only=True)
class OwnCode:
    """The project's own code: packages as wheels, loose modules as files."""

    wheels: tuple[Wheel, ...] = ()
    """Wheels of the project's own packages."""
    sources: tuple[SourceFile, ...] = ()
    """Loose modules and folders of modules."""
    roots: tuple[str, ...] = ()
    """Posix folders, relative to the project, that go on sys.path so that the modules import; "." is the project."""


class CheckpointKind(StrEnum):
    """What a checkpoint file is, told without executing it."""

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
    """A trained file that the notebook loads."""

    original: str
    """Posix path relative to the project; unique among the kit's checkpoints."""
    path: Path
    """Where it lies now."""
    size: int
    """Bytes."""
    sha256: str
    """Hex digest of the bytes."""
    kind: CheckpointKind
    """Sniffed from its bytes, never by loading it."""
    refused: tuple[str, ...] = ()
    """Globals that torch.load(weights_only=True) would refuse, as "omegaconf.DictConfig"."""


class Severity(StrEnum):
    """What a finding means for a build."""

    NOTE = "note"
    """Good to know."""
    WARN = "warn"
    """Probably wrong; the build goes on."""
    STOP = "stop"
    """Wrong: no kit is made."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that was seen in a trained file, and what to do about it."""

    severity: Severity
    """Whether it is told, warned of, or stops the build."""
    about: str
    """What it is about: the original name of a file, or a package."""
    what: str
    """What was seen, a clause that goes on from the quoted name: "was saved with scikit-learn 1.4.2"."""
    remedy: str = ""
    """What to do, in the imperative; empty where nothing needs doing."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One entry of [[tool.offline-kit.notebook.models]]: which files are a model, and how it is taken."""

    files: str
    """File, folder or glob; each file or model folder that it names is a member of the ensemble."""
    framework: str = ""
    """Name of a framework; empty is told from the files."""
    model: str = ""
    """Reference to the class, or to a function that builds the model, where the file holds weights alone."""
    weight: float = 1.0
    """Its share in a weighted mean or vote."""
    params: dict[str, object] = field(default_factory=dict)
    """Free values for the class and for the framework's own functions."""
    origin: str = ""
    """Where the files are: empty for the kit, else "dataset:…", "notebook:…" or "model:…" (`from` in the file)."""
    transform: str = ""
    """Reference to the function that prepares the test set for this model; empty takes the notebook's."""
    batch_size: int = 0
    """Rows, pictures or texts at once for this model; 0 takes the notebook's."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of the notebook's ensemble: a file or a folder, with the framework that loads it."""

    name: str
    """How it is called in the notebook's output; unique in its ensemble."""
    framework: str
    """Name of its framework."""
    path: Path
    """The file or the folder, where it lies now."""
    kit_path: str
    """The same in the restored kit, or below its source: "checkpoints/rf.joblib"."""
    files: tuple["Checkpoint", ...] = ()
    """The files that it consists of; one where it is a file."""
    model: str = ""
    """Reference to its class or builder, or empty."""
    weight: float = 1.0
    """Its share in a weighted mean or vote."""
    params: dict[str, object] = field(default_factory=dict)
    """Free values for its class and for the framework's functions; those of the notebook are not among them."""
    origin: str = ""
    """Where the files are: empty for the kit, else as in `ModelSpec`."""
    transform: str = ""
    """Reference to the function that prepares the test set for it alone, or empty."""
    batch_size: int = 0
    """Rows, pictures or texts at once for it; 0 takes the notebook's."""
    own_model: bool = False
    """`model` was set in its own entry, not in the notebook's table."""
    version: str = ""
    """Version of the training library; empty where nothing tells it."""
    version_said: bool = False
    """The file itself says the version; else it is the one that is installed beside the tool."""


class Role(StrEnum):
    """What a file of the kit is for."""

    WHEEL = "wheel"
    SDIST = "sdist"
    BUILD = "build"
    """A wheel that only the offline build of an sdist needs."""
    SOURCE = "source"
    CHECKPOINT = "checkpoint"
    PREPROCESSING = "preprocessing"
    """A scaler, an encoder, a tokenizer, a label map: loaded by name beside the checkpoints."""
    LOCK = "lock"
    """The install plan of the packages."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a part, under its original and its stored name."""

    role: Role
    """What it is for."""
    original: str
    """Posix path below the part's folder with the name that tools expect: "packages/x-1.0+cu1-….whl"."""
    stored: str
    """Posix path below the part's folder with a name that Kaggle leaves alone."""
    size: int
    """Bytes."""
    sha256: str
    """Hex digest of the bytes."""


@dataclass(frozen=True, kw_only=True)
class KitPart:
    """A piece of the kit that lives in one Kaggle dataset."""

    name: str
    """"kit" for all in one dataset; "packages", "code", "checkpoints" when split."""
    id: str
    """Hash over its sorted (original, stored, size, sha256)."""
    entries: tuple[FileEntry, ...]
    """Its files, sorted by original name."""


@dataclass(frozen=True, kw_only=True)
class Kit:
    """A finished kit on disk."""

    folder: Path
    """The output folder, with dataset/ and notebook/ below."""
    id: str
    """Hash of the part ids."""
    parts: tuple[KitPart, ...]
    """Its parts, sorted by name."""
    split: bool | None = None
    """Whether each part lies in a folder of its own; None: where there are several."""

    def part_folder(self, part: KitPart) -> Path:
        """Return the folder whose content is uploaded for this part."""
        split = len(self.parts) > 1 if self.split is None else self.split
        return self.folder / "dataset" / part.name if split else self.folder / "dataset"


@dataclass(frozen=True, kw_only=True)
class NotebookSettings:
    """What the notebook is rendered from: the [notebook] table of the configuration."""

    template: str = "lightning"
    """A built-in template's name, or the path of the user's own; unsaid, it follows from the keys below."""
    model: str = ""
    """"package.module:Class" or "file.py:Class"; the LightningModule."""
    data: str = ""
    """The data class, written likewise."""
    function: str = ""
    """For the template `function`: "module:function" or "file.py:function"."""
    title: str = ""
    """Title on Kaggle; default: "<project> inference"."""
    slug: str = ""
    """Slug on Kaggle; default: the title's."""
    submission: str = "submission.csv"
    """The file that the notebook must write."""
    competition_sources: tuple[str, ...] = ()
    """Competitions to attach besides the configured one."""
    dataset_sources: tuple[str, ...] = ()
    """Further datasets to attach, "owner/slug"."""
    kernel_sources: tuple[str, ...] = ()
    """Notebook outputs to attach."""
    model_sources: tuple[str, ...] = ()
    """Kaggle Models to attach."""
    pin_image: bool = False
    """Pin the image's digest in kernel-metadata.json."""
    params: dict[str, object] = field(default_factory=dict)
    """Free values for the template and the data class: [notebook.params]."""
    automatic: bool = False
    """The template was not said: it may yet follow from the checkpoints."""
    task: str = ""
    """"tabular", "images" or "text"; for the template `predict`."""
    ensemble: str = ""
    """"mean", "weighted", "rank" or "vote"; empty is the mean, weighted where a model has a weight."""
    postprocess: str = ""
    """A built-in word ("argmax", "threshold:0.5", ...), or a reference to function(predictions, ids)."""
    tta: str = ""
    """Reference to function(batch) that yields the batches to average over."""
    transform: str = ""
    """Reference to the function that makes the model's input of a path (images), texts or a table."""
    batch_size: int = 0
    """Rows, images or texts at once; 0 is the task's usual number."""
    columns: str = ""
    """Path of the JSON with the columns and dtypes of training, relative to the project."""
    source: str = ""
    """A notebook to adopt, relative to the project."""
    models: tuple[ModelSpec, ...] = ()
    """The members of the ensemble; none: each checkpoint is one."""
