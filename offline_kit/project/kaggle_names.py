"""Names, titles and sizes that Kaggle takes, and those that it changes.

Kaggle unpacks archives wherever they lie, and drops `+ ~ =` and non-ASCII letters from names. Nothing of
it is promised in writing, so the kit uses only names that give it nothing to do: letters, digits, `._-`,
no archive suffix, unique after lower-casing.
"""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

HARMLESS = ".xyz"
"""Put behind archive suffixes: the classic recipe's way to keep an archive whole."""
LOCAL_ONLY = "\nLOCAL only, Kaggle does not show this:\n"
"""Stands in the local Kaggle's words about a submission, before what the hidden run said."""
MARKER = "offline-kit.json"
"""The manifest of a part; nothing else in a kit may have this name."""
TITLE_LENGTH = (6, 50)
SLUG_LENGTH = (6, 50)
MAX_NAME = 160
"""Characters of a stored name; file systems end at 255, and the server adds to names."""
MAX_LOOSE_FILES = 1000
"""Kaggle's form refuses more, and far more never finish processing."""
MANY_LOOSE_FILES = 900
MAX_ACCOUNT_BYTES = 200 * 10**9
"""What one account may hold in private datasets."""

_OWNED, _WORD = r"[A-Za-z0-9_-]+/", r"[A-Za-z0-9_.-]+/"
SOURCES = {
    "dataset": (_OWNED + r"[A-Za-z0-9_-]+", "owner/slug"),
    "competition": (r"[A-Za-z0-9_-]+", "slug"),
    "notebook": (_OWNED + r"[A-Za-z0-9_-]{5,}", "owner/slug"),
    "model": (_OWNED + 3 * _WORD + r"[1-9][0-9]*", "owner/model/framework/variation/version"),
}
"""What a notebook attaches, by its kind: as a pattern, and as a person is told it."""

ARCHIVE_SUFFIXES = (
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tgz",
    ".tbz2",
    ".tbz",
    ".txz",
    ".tar",
    ".zip",
    ".7z",
    ".rar",
)
"""Archives that become a folder; longer suffixes stand first."""
STREAM_SUFFIXES = (".gz", ".bz2", ".xz")
"""Single compressed files, which lose this suffix."""
ZIP_BASED_SUFFIXES = (".pth.tar", ".pth", ".pt", ".keras", ".jar", ".egg")
"""Formats that are archives inside: left whole on most days, unpacked on some."""
DOUBTFUL_SUFFIXES = (".pt2", ".ptl", ".mar", ".war", ".apk", ".zst", ".lz4", ".lzma", ".lz", ".z", ".tzst")
"""Nobody has told what becomes of these; no stored name of ours ends like this."""
NOT_UPLOADED = frozenset(
    {"dataset-metadata.json", "datapackage.json", "kernel-metadata.json", "model-metadata.json"}
    | {"model-instance-metadata.json"}
    | {f"dataset-cover-image.{kind}" for kind in ("png", "jpg", "jpeg", "webp")}
)
"""Names at the top of a folder that the client keeps for itself."""

_WINDOWS = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
)
_SHARD = re.compile(r"-(\d+)-of-(\d+)")  # "model-00001-of-00015.safetensors" was once mounted as "model-1.…"
_OUTSIDE = re.compile(r"[^A-Za-z0-9._-]")


def find_archive_suffix(name: str) -> str:
    """Return the suffix (as written) by which Kaggle may take the file for an archive, or ""."""
    lower = name.lower()
    for suffix in sorted(
        ARCHIVE_SUFFIXES + STREAM_SUFFIXES + ZIP_BASED_SUFFIXES + DOUBTFUL_SUFFIXES, key=len, reverse=True
    ):
        if lower.endswith(suffix):
            return name[-len(suffix) :]
    return ""


def is_archive(name: str) -> bool:
    """Tell whether Kaggle unpacks a file of this name, or may on a bad day."""
    return bool(find_archive_suffix(name))


def is_safe_name(name: str) -> bool:
    """Tell whether a stored name (one component) is one that Kaggle leaves as it is."""
    lower = name.lower()
    return (
        0 < len(name) <= MAX_NAME
        and not _OUTSIDE.search(name)
        and name[0] not in ".-"
        and name[-1] != "."
        and lower not in NOT_UPLOADED
        and lower.partition(".")[0] not in _WINDOWS
        and not is_archive(name)
        and not _SHARD.search(name)
    )


def make_safe_name(name: str, used_names: Collection[str]) -> str:
    """Return a name that Kaggle leaves alone, for one file or folder name.

    `used_names` holds lower-cased names; the result's lower-cased form is not among them. The same arguments
    give the same name on every machine. A safe name that is free comes back unchanged.
    """
    safe = _replace_unsafe_parts(name)
    if safe.lower() not in used_names:
        return safe
    stem, suffix = split_suffix(safe)
    for number in range(2, len(used_names) + 3):
        candidate = f"{stem}-{number}{suffix}"
        if candidate.lower() not in used_names:
            return candidate
    raise AssertionError("unreachable: more candidates than names")


def _replace_unsafe_parts(name: str) -> str:
    letters = (letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    safe = _OUTSIDE.sub("_", "".join(letters)).rstrip(".")
    safe = _SHARD.sub(r"_\1_of_\2", safe)
    if not safe or safe[0] in ".-":
        safe = "_" + safe.lstrip(".-")
    lower = safe.lower()
    if lower in NOT_UPLOADED | {MARKER} or lower.partition(".")[0] in _WINDOWS:
        safe = "_" + safe
    if is_archive(safe):
        safe += HARMLESS
    if len(safe) > MAX_NAME - 8:  # room for the number of a twin
        stem, suffix = split_suffix(safe)
        tail = f"-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}{suffix}"
        safe = stem[: MAX_NAME - 8 - len(tail)] + tail
    return safe


def split_suffix(name: str) -> tuple[str, str]:
    """Split before the suffix, taking `.tar.gz.xyz` for one suffix; none is longer than 30."""
    bare = name.removesuffix(HARMLESS)
    suffix = (find_archive_suffix(bare) if bare != name else PurePosixPath(bare).suffix) + name[len(bare) :]
    if len(suffix) > 30 or len(suffix) == len(name):
        return name, ""
    return name[: len(name) - len(suffix)], suffix


def map_safe_paths(originals: Iterable[str]) -> dict[str, str]:
    """Map each original posix path to a stored one: safe in every component, unique after lower-casing.

    The map depends on the set of paths alone, not on their order. Folders that differ only in what
    Kaggle drops (or in case) get names of their own.
    """
    folders: dict[str, str] = {"": ""}
    used_names: dict[str, set[str]] = {}
    stored: dict[str, str] = {}
    for original in sorted(set(originals)):
        path = PurePosixPath(original)
        for folder in [*reversed(path.parents)][1:]:
            if str(folder) not in folders:
                folders[str(folder)] = _store_path(folder, folders, used_names)
        stored[original] = _store_path(path, folders, used_names)
    return stored


def _store_path(path: PurePosixPath, folders: dict[str, str], used_names: dict[str, set[str]]) -> str:
    parent = folders["" if str(path.parent) == "." else str(path.parent)]
    names = used_names.setdefault(parent, set())
    name = make_safe_name(path.name, names)
    names.add(name.lower())
    return f"{parent}/{name}" if parent else name


def is_source_reference(kind: str, ref: str) -> bool:
    """Tell whether Kaggle takes a reference for a source of this kind, one of SOURCES."""
    return kind in SOURCES and re.fullmatch(SOURCES[kind][0], ref) is not None


_FRAMEWORKS = {
    name.lower(): name
    for name in (
        *(
            "tensorFlow1",
            "tensorFlow2",
            "tfLite",
            "tfJs",
            "pyTorch",
            "jax",
            "flax",
            "pax",
            "maxText",
            "gemmaCpp",
        ),
        *("ggml", "gguf", "coral", "scikitLearn", "mxnet", "onnx", "keras", "transformers", "other"),
        *("tensorRtLlm", "triton", "vllm"),
    )
}
"""Frameworks of Kaggle Models as kernel-metadata.json spells them, by their lower case (kagglesdk, ModelFramework)."""


def split_model_name(text: str) -> tuple[str, str, str]:
    """Return owner ("" for none), slug and "framework/variation" of a model as `publish_model` names it.

    That is "[owner/]slug" or "[owner/]slug/framework/variation". Raises ValueError that says what is wrong.
    """
    words = text.split("/")
    if not all(words) or len(words) > 4:
        raise ValueError(f'\'{text}\' is no model: write "slug" or "slug/framework/variation"')
    framework, variation = words[-2:] if len(words) > 2 else ("other", "checkpoints")
    name_parts = words[:-2] if len(words) > 2 else words
    spelled = _FRAMEWORKS.get(framework.lower())
    if spelled is None:
        frameworks = ", ".join(_FRAMEWORKS.values())
        raise ValueError(f"Kaggle Models have no framework '{framework}'; one of {frameworks}")
    if not is_source_reference("model", f"owner/model/{spelled}/{variation}/1"):
        raise ValueError(f"'{variation}' is no name for a model's variation: use letters, digits and hyphens")
    return "/".join(name_parts[:-1]), name_parts[-1], f"{spelled}/{variation}"


def make_slug(title: str) -> str:
    """Return the slug that Kaggle makes of a title; it may still be too short (see `check_slug`)."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[: SLUG_LENGTH[1]].strip("-")


def make_dataset_slug(project: str) -> str:
    """Return a slug that Kaggle takes for the dataset of a project of any name, with room for a part's name."""
    stem = make_slug(project)[: SLUG_LENGTH[1] - len("-kit-checkpoints")].strip("-") or "offline"
    return f"{stem}-kit" if len(stem) > 1 else f"{stem}-offline-kit"


def check_title(title: str) -> tuple[str, ...]:
    """Return what Kaggle would refuse about a dataset's or notebook's title; empty when nothing."""
    low, high = TITLE_LENGTH
    if low <= len(title.strip()) <= high:
        return ()
    return (f"the title '{title}' has {len(title.strip())} characters; Kaggle takes {low} to {high}",)


def check_slug(slug: str) -> tuple[str, ...]:
    """Return what Kaggle would refuse about a slug; empty when nothing."""
    low, high = SLUG_LENGTH
    problems = []
    if not low <= len(slug) <= high:
        problems.append(f"the slug '{slug}' has {len(slug)} characters; Kaggle takes {low} to {high}")
    if not re.fullmatch(r"[a-z0-9]+(-+[a-z0-9]+)*", slug):
        problems.append(f"the slug '{slug}' may hold only a-z, 0-9 and single '-' between them")
    return tuple(problems)


def check_dataset_limits(files: int, size: int) -> tuple[str, ...]:
    """Return warnings on the number of loose files and the total size (bytes) of one dataset."""
    warnings = []
    if files > MANY_LOOSE_FILES:
        warnings.append(
            f"{files} loose files: Kaggle's form refuses more than {MAX_LOOSE_FILES}, and processing may never end"
        )
    if size > MAX_ACCOUNT_BYTES:
        warnings.append(f"{size / 1e9:.0f} GB: more than the 200 GB that an account may hold in private")
    return tuple(warnings)
