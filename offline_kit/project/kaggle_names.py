"""Names, titles, sizes and sources that Kaggle accepts, and names that it changes.

Kaggle unpacks archives in datasets and drops `+ ~ =` and non-ASCII letters from names. None of this is documented, so
the kit uses only names that Kaggle leaves unchanged: letters, digits, `._-`, no archive suffix, unique ignoring case.
See https://github.com/Kaggle/kaggle-cli/issues/292 (archives) and issues 430 and 524 (refused names).
"""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from offline_kit.core.errors import UsageError

HARMLESS = ".xyz"  # appended to archive suffixes, so that Kaggle does not unpack the file
LOCAL_ONLY = "\nLOCAL only, Kaggle does not show this:\n"
"""In the local Kaggle's description of a submission, before the messages of the hidden run."""
MARKER = "offline-kit.json"  # the manifest of a part; no other file of a kit may have this name
TITLE_LENGTH = (6, 50)
SLUG_LENGTH = (6, 50)
MAX_NAME = 160  # characters of a stored name; file systems allow 255 bytes, and the server makes names longer
MAX_LOOSE_FILES = 1000  # Kaggle's web form refuses more, and datasets with far more never finish processing
MANY_LOOSE_FILES = 900
MAX_ACCOUNT_BYTES = 200 * 10**9
"""Kaggle's limit for the private datasets of an account (https://www.kaggle.com/docs/datasets)."""

_OWNED, _WORD = r"[A-Za-z0-9_-]+/", r"[A-Za-z0-9_.-]+/"
SOURCES = {
    "dataset": (_OWNED + r"[A-Za-z0-9_-]+", "owner/slug"),
    "competition": (r"[A-Za-z0-9_-]+", "slug"),
    "notebook": (_OWNED + r"[A-Za-z0-9_-]{5,}", "owner/slug"),
    "model": (_OWNED + 3 * _WORD + r"[1-9][0-9]*", "owner/model/framework/variation/version"),
}
"""Sources of a notebook by kind: the pattern of a reference, and its form in messages."""

METADATA_KEYS = {"dataset": "dataset_sources", "notebook": "kernel_sources", "model": "model_sources"}
"""Key of kernel-metadata.json for each kind of source."""
SOURCE_FORMS = ", ".join(f"'{kind}:{SOURCES[kind][1]}'" for kind in METADATA_KEYS)

ARCHIVE_SUFFIXES = (
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".tbz", ".txz", ".tar"),
    *(".zip", ".7z", ".rar"),
)
"""Archives that Kaggle unpacks to a folder; longer suffixes come first."""
STREAM_SUFFIXES = (".gz", ".bz2", ".xz")  # single compressed files, which Kaggle decompresses and renames
ZIP_BASED_SUFFIXES = (".pth.tar", ".pth", ".pt", ".keras", ".jar", ".egg")
"""Formats that are zip archives: usually left alone, sometimes unpacked."""
DOUBTFUL_SUFFIXES = (".pt2", ".ptl", ".mar", ".war", ".apk", ".zst", ".lz4", ".lzma", ".lz", ".z", ".tzst")
"""It is unknown whether Kaggle unpacks these; the kit does not use them."""
NOT_UPLOADED = {
    *("dataset-metadata.json", "datapackage.json", "kernel-metadata.json", "model-metadata.json"),
    *("model-instance-metadata.json", "dataset-cover-image.png", "dataset-cover-image.jpg"),
    *("dataset-cover-image.jpeg", "dataset-cover-image.webp"),
}
"""Names at the top of a folder that Kaggle's client does not upload."""

_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
_SHARD = re.compile(r"-(\d+)-of-(\d+)")  # "model-00001-of-00015.safetensors" was once mounted as "model-1.…"
_OUTSIDE = re.compile(r"[^A-Za-z0-9._-]")


def find_archive_suffix(name: str) -> str:
    """Return the suffix for which Kaggle may unpack the file, with the case of the name, or ""."""
    suffixes = ARCHIVE_SUFFIXES + STREAM_SUFFIXES + ZIP_BASED_SUFFIXES + DOUBTFUL_SUFFIXES
    matching = [suffix for suffix in suffixes if name.lower().endswith(suffix)]
    return name[-max(map(len, matching)) :] if matching else ""


def is_safe_name(name: str) -> bool:
    """Whether Kaggle leaves a stored name (one path component) unchanged."""
    return 0 < len(name) <= MAX_NAME and _replace_unsafe_parts(name) == name


def make_safe_name(name: str, used_names: Collection[str]) -> str:
    """Return a name that Kaggle leaves alone, for one file or folder name.

    `used_names` holds lower-cased names; the result's lower-cased form is not among them. The same arguments
    give the same name on every machine. A safe name that is free comes back unchanged.
    """
    safe = _replace_unsafe_parts(name)
    stem, suffix = split_suffix(safe)
    if len(safe) > MAX_NAME - 8:  # leave room for the number of a duplicate
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
        stem = f"{stem[: MAX_NAME - 8 - len(suffix) - 11]}-{digest}"
        safe = stem + suffix
    candidate, number = safe, 1
    while candidate.lower() in used_names:
        number += 1
        candidate = f"{stem}-{number}{suffix}"
    return candidate


def _replace_unsafe_parts(name: str) -> str:
    letters = (letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    safe = _OUTSIDE.sub("_", "".join(letters)).rstrip(".")
    safe = _SHARD.sub(r"_\1_of_\2", safe)
    # A leading dot hides a file, a leading hyphen looks like an option.
    if not safe or safe[0] in ".-":
        safe = "_" + safe.lstrip(".-")
    lower = safe.lower()
    if lower in NOT_UPLOADED | {MARKER} or lower.partition(".")[0] in _WINDOWS:
        safe = "_" + safe
    return safe + HARMLESS if find_archive_suffix(safe) else safe


def split_suffix(name: str) -> tuple[str, str]:
    """Split a name before its suffix; `.tar.gz.xyz` is one suffix, and none is longer than 30 characters."""
    bare = name.removesuffix(HARMLESS)
    suffix = (find_archive_suffix(bare) if bare != name else PurePosixPath(bare).suffix) + name[len(bare) :]
    if len(suffix) > 30 or len(suffix) == len(name):
        return name, ""
    return name[: len(name) - len(suffix)], suffix


def map_safe_paths(originals: Iterable[str]) -> dict[str, str]:
    """Map each original posix path to a stored path: safe in every component, unique ignoring case.

    The result depends on the set of paths, not on their order. Folders that differ only in case or in characters that
    Kaggle drops get different names.
    """
    folders = {".": ""}
    used_names: dict[str, set[str]] = {}
    stored: dict[str, str] = {}

    def store(path: PurePosixPath) -> str:
        parent = folders[str(path.parent)]
        names = used_names.setdefault(parent, set())
        name = make_safe_name(path.name, names)
        names.add(name.lower())
        return f"{parent}/{name}".lstrip("/")

    for original in sorted(set(originals)):
        path = PurePosixPath(original)
        for folder in [*reversed(path.parents)][1:]:
            if str(folder) not in folders:
                folders[str(folder)] = store(folder)
        stored[original] = store(path)
    return stored


def is_source_reference(kind: str, ref: str) -> bool:
    """Whether a reference is valid for this kind of source, one of SOURCES."""
    return kind in SOURCES and re.fullmatch(SOURCES[kind][0], ref) is not None


# Frameworks of Kaggle Models, as in kernel-metadata.json (kagglesdk's ModelFramework).
_FRAMEWORKS = (
    *("tensorFlow1", "tensorFlow2", "tfLite", "tfJs", "pyTorch", "jax", "flax", "pax", "maxText", "gemmaCpp"),
    *("ggml", "gguf", "coral", "scikitLearn", "mxnet", "onnx", "keras", "transformers", "other"),
    *("tensorRtLlm", "triton", "vllm"),
)


def split_model_name(text: str) -> tuple[str, str, str]:
    """Split `publish_model` into owner ("" for none), slug and "framework/variation".

    Raises ValueError if it is not "[owner/]slug" or "[owner/]slug/framework/variation".
    """
    words = text.split("/")
    if not all(words) or len(words) > 4:
        raise ValueError(f'\'{text}\' is not a model: write "slug" or "slug/framework/variation"')
    framework, variation = words[-2:] if len(words) > 2 else ("other", "checkpoints")
    name_parts = words[:-2] if len(words) > 2 else words
    spelled = next((known for known in _FRAMEWORKS if known.lower() == framework.lower()), "")
    if not spelled:
        raise ValueError(f"Kaggle Models have no framework '{framework}'; one of {', '.join(_FRAMEWORKS)}")
    if not is_source_reference("model", f"owner/model/{spelled}/{variation}/1"):
        raise ValueError(
            f"'{variation}' is not a valid variation of a model: use letters, digits and hyphens"
        )
    return "/".join(name_parts[:-1]), name_parts[-1], f"{spelled}/{variation}"


def make_slug(title: str) -> str:
    """Return the slug that Kaggle makes of a title; it may still be too short (see `check_slug`)."""
    # As Kaggle does: lower case, one hyphen for everything else, cut at 50 characters.
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[: SLUG_LENGTH[1]].strip("-")


def make_dataset_slug(project: str) -> str:
    """Return a valid dataset slug for any project name, short enough to append a part's name."""
    # A split kit has a dataset for each part.
    stem = make_slug(project)[: SLUG_LENGTH[1] - len("-kit-checkpoints")].strip("-") or "offline"
    return f"{stem}-kit" if len(stem) > 1 else f"{stem}-offline-kit"


def check_title(title: str) -> tuple[str, ...]:
    """Return why Kaggle would refuse the title of a dataset or notebook; () if it would not."""
    low, high = TITLE_LENGTH
    if low <= len(title.strip()) <= high:
        return ()
    return (f"the title '{title}' has {len(title.strip())} characters; Kaggle requires {low} to {high}",)


def check_slug(slug: str) -> tuple[str, ...]:
    """Return why Kaggle would refuse a slug; () if it would not."""
    low, high = SLUG_LENGTH
    problems = []
    if not low <= len(slug) <= high:
        problems.append(f"the slug '{slug}' has {len(slug)} characters; Kaggle requires {low} to {high}")
    if not re.fullmatch(r"[a-z0-9]+(-+[a-z0-9]+)*", slug):
        problems.append(f"the slug '{slug}' may contain only a-z, 0-9 and '-' between them")
    return tuple(problems)


def check_dataset_limits(files: int, size: int) -> tuple[str, ...]:
    """Return warnings about the number of loose files and the total size (bytes) of a dataset."""
    warnings = []
    if files > MANY_LOOSE_FILES:
        refused = f"Kaggle's web form refuses more than {MAX_LOOSE_FILES}, and processing may never finish"
        warnings.append(f"{files} loose files: {refused}")
    if size > MAX_ACCOUNT_BYTES:
        limit = "more than the 200 GB that an account may store in private datasets"
        warnings.append(f"{size / 1e9:.0f} GB: {limit}")
    return tuple(warnings)


@dataclass(frozen=True, kw_only=True)
class KaggleSource:
    """Something on Kaggle that a notebook attaches."""

    kind: str  # "dataset", "notebook" (its output) or "model"
    ref: str  # "owner/slug"; for a model "owner/model/framework/variation/version"

    def __str__(self) -> str:
        return f"{self.kind}:{self.ref}"

    def mount_path(self, layout: str) -> str:
        """Return its path in /kaggle/input, in the layout "new" or "old"."""
        if self.kind == "model":
            owner, model, framework, *version_parts = self.ref.split("/")
            # Kaggle mounts "pyTorch" as "pytorch", whatever the case in the metadata.
            inner = "/".join((model, framework.lower(), *version_parts))
            return f"models/{owner}/{inner}" if layout == "new" else inner
        return f"{self.kind}s/{self.ref}" if layout == "new" else self.ref.rpartition("/")[2]


def parse_source(text: str) -> KaggleSource:
    """Parse "dataset:owner/slug", "notebook:owner/slug" or "model:owner/slug/framework/variation/version".

    Raises UsageError if it is something else, such as a URL, or a model without a version.
    """
    kind, _, ref = text.partition(":")
    if kind in METADATA_KEYS and is_source_reference(kind, ref):
        return KaggleSource(kind=kind, ref=ref)
    unpinned = kind == "model" and ref.count("/") == 3
    raise UsageError(
        f"the source '{text}' is invalid",
        hint=f"add a version, as in '{text}/1'"
        if unpinned
        else f"write {SOURCE_FORMS}, as in its URL on Kaggle",
        code="source-invalid",
    )


def list_attached_sources(metadata: Mapping[str, Any]) -> tuple[KaggleSource, ...]:
    """Return the sources in kernel-metadata.json, without competitions; a slug without owner stays one."""
    return tuple(
        KaggleSource(kind=kind, ref=str(ref))
        for kind, key in METADATA_KEYS.items()
        for ref in metadata.get(key) or ()
    )


def group_by_metadata_key(sources: Iterable[KaggleSource]) -> dict[str, tuple[str, ...]]:
    """Return the references by their key in kernel-metadata.json."""
    references: dict[str, dict[str, None]] = {key: {} for key in METADATA_KEYS.values()}
    for source in sources:
        references[METADATA_KEYS[source.kind]][source.ref] = None
    return {key: tuple(refs) for key, refs in references.items()}
