"""The manifest of a part, `offline-kit.json`: its table of contents, and the marker by which a notebook finds it.

A manifest that comes back from Kaggle is untrusted input: `parse_manifest` refuses paths that lead out of the folder
and an id that its entries do not give.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from offline_kit.core.errors import ProjectError
from offline_kit.core.files import list_tree, sha256_of, write_atomic
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.thread_pool import cancelling_pool
from offline_kit.project.kaggle_names import MARKER, NOT_UPLOADED, is_safe_name
from offline_kit.project.types import FileEntry, Kit, KitPart, Role

FORMAT = 1
OUTPUT_PARTS = ("wheelhouse", "recording")
"""Names of parts that are the output of a notebook on Kaggle and stay there: a kit on disk has their fetched files alone."""
THREADS = 8  # Kaggle's network mount is slow for one reader and fast for many

_SHA256 = r"[0-9a-f]{64}"
REBUILD_HINT = "build the kit again with 'offline-kit build'"


def compute_part_id(entries: Iterable[FileEntry]) -> str:
    """Return the id of a part: SHA-256 over the lines original, stored, size, sha256, in sorted order.

    The four are joined by NUL and each line ends with a newline, all in UTF-8.
    """
    lines = sorted(f"{e.original}\0{e.stored}\0{e.size}\0{e.sha256}\n" for e in entries)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def compute_kit_id(part_ids: Iterable[str]) -> str:
    """Return the id of a kit: SHA-256 over its part ids, sorted, each ending with a newline."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in sorted(part_ids)).encode()).hexdigest()


def make_part(name: str, entries: Iterable[FileEntry]) -> KitPart:
    """Return the part of these files, sorted by original name, under its id."""
    ordered = tuple(sorted(entries, key=lambda entry: entry.original))
    return KitPart(name=name, id=compute_part_id(ordered), entries=ordered)


def write_manifest(folder: Path, part: KitPart) -> Path:
    """Write the manifest into the part's folder, the same bytes for the same content, and return its path."""
    files = [asdict(entry) for entry in part.entries]  # with the keys in the order of the fields
    document = {"format": FORMAT, "part": part.name, "id": part.id, "files": files}
    path = folder / MARKER
    write_atomic(path, json.dumps(document, indent=1) + "\n")
    return path


def read_manifest(folder: Path) -> KitPart:
    """Read and check the manifest in a part's folder; raises ProjectError listing every problem."""
    path = folder / MARKER
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ProjectError(
            f"'{folder}' holds no {MARKER}", code="manifest-not-found", hint=REBUILD_HINT
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ProjectError(
            f"cannot read '{path}': {error}", code="file-unreadable", hint=REBUILD_HINT
        ) from error
    return parse_manifest(text, str(path))


def parse_manifest(text: str, source: str) -> KitPart:
    """Return the part that a manifest describes; `source` names it in errors.

    Raises ProjectError listing every problem: wrong types, paths that lead out of the folder, duplicate names, an
    id that does not belong to the files.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProjectError(
            f"'{source}' is not valid JSON: {error}", code="manifest-invalid", hint=REBUILD_HINT
        ) from error
    if isinstance(document, dict) and isinstance(document.get("format"), int) and document["format"] > FORMAT:
        raise ProjectError(
            f"'{source}' has format {document['format']}; this offline-kit supports format {FORMAT}",
            code="manifest-too-new",
            hint="update offline-kit with 'pip install -U offline-kit'",
        )
    if problems := _check_document(document):
        raise ProjectError(
            f"'{source}' is not a valid manifest",
            code="manifest-invalid",
            hint=REBUILD_HINT,
            details=problems,
        )
    # Keys of a later version are left out.
    keys = ("original", "stored", "size", "sha256")
    entries = (FileEntry(role=Role(raw["role"]), **{k: raw[k] for k in keys}) for raw in document["files"])
    part = make_part(document["part"], entries)
    if part.id != document["id"]:
        raise ProjectError(
            f"'{source}' was changed after it was written: its id does not match its files",
            code="manifest-invalid",
            hint=REBUILD_HINT,
            details=(f"id in the file: {document['id']}", f"id of its files: {part.id}"),
        )
    return part


def read_kit(folder: Path) -> Kit:
    """Read the manifests of a kit on disk (`folder` holds dataset/); raises ProjectError as `read_manifest` does."""
    dataset = folder / "dataset"
    # A kit of one part has its manifest in dataset/ itself, a split kit in a folder for each part
    below = [] if (dataset / MARKER).exists() else sorted(path.parent for path in dataset.glob(f"*/{MARKER}"))
    parts = sorted(
        (read_manifest(part_folder) for part_folder in below or [dataset]), key=lambda part: part.name
    )
    kit = Kit(folder=folder, id=compute_kit_id(part.id for part in parts), parts=tuple(parts))
    for part, part_folder in zip(parts, below, strict=False):
        if kit.part_folder(part) not in (part_folder, dataset):
            raise ProjectError(
                f"'{part_folder}' holds the part '{part.name}', which belongs in another folder",
                code="kit-invalid",
                hint=REBUILD_HINT,
            )
    return kit


def verify_part(
    folder: Path, part: KitPart, *, hashes: bool = True, report: Reporter = SILENT
) -> tuple[str, ...]:
    """Compare a part's folder with its manifest and return a line for each wrong file.

    Files are read in parallel; files that Kaggle's client never uploads are ignored. Without `hashes`, only names
    and sizes are compared.
    """
    total = sum(entry.size for entry in part.entries) if hashes else len(part.entries)
    with report.progress(f"Checking {part.name}", total, unit="B" if hashes else "files") as advance:

        def check_entry(entry: FileEntry) -> str:
            problem_text = _check_file(folder, entry, hashes=hashes)
            advance(entry.size if hashes else 1)
            return problem_text

        with cancelling_pool(THREADS) as pool:
            wrong = [line for line in pool.map(check_entry, part.entries) if line]
    expected = {entry.stored for entry in part.entries} | {MARKER} | NOT_UPLOADED
    extra = sorted({path.as_posix() for path in list_tree(folder)} - expected) if folder.is_dir() else []
    return (*wrong, *(f"'{name}' is not in the manifest" for name in extra))


def select_local_files(folder: Path, part: KitPart) -> KitPart:
    """Return the part as its folder must hold it: of a part that stays on Kaggle, only the fetched files."""
    if part.name not in OUTPUT_PARTS:
        return part
    return make_part(part.name, (entry for entry in part.entries if (folder / entry.stored).exists()))


def _check_file(folder: Path, entry: FileEntry, *, hashes: bool) -> str:
    path = folder / entry.stored
    try:
        # A link could point to files outside the folder.
        if path.is_symlink() or not path.is_file():
            return f"'{entry.stored}' is {'not a regular file' if path.exists() else 'missing'}"
        size = path.stat().st_size
        if size != entry.size:
            # In bytes: rounded, both are often the same.
            return f"'{entry.stored}' has {size:,} B, but {entry.size:,} B in the manifest"
        if hashes and sha256_of(path) != entry.sha256:
            return f"'{entry.stored}' has another SHA-256 than in the manifest"
    except OSError as error:
        return f"'{entry.stored}' cannot be read: {error.strerror}"
    return ""


def _check_document(document: object) -> list[str]:
    if not isinstance(document, dict):
        return ["it is not an object"]
    problems = []
    # True == 1 in Python, and JSON's true is a bool.
    if document.get("format") != FORMAT or isinstance(document.get("format"), bool):
        problems.append(f"'format' is {document.get('format')!r}, not {FORMAT}")
    if not _matches_pattern(r"[a-z]{1,20}(-[0-9a-f]{1,4})?", document.get("part")):
        problems.append(f"'part' is not a part's name: {document.get('part')!r}")
    if not _matches_pattern(_SHA256, document.get("id")):
        problems.append(f"'id' is not a SHA-256: {document.get('id')!r}")
    files = document.get("files")
    if not isinstance(files, list):
        return [*problems, "'files' is not a list"]
    for number, raw in enumerate(files):
        problems += [f"file {number}: {text}" for text in _check_entry(raw)]
    if problems:
        return problems
    for key in ("original", "stored"):
        # File systems of macOS and Windows ignore case.
        counts = Counter(raw[key].lower() if key == "stored" else raw[key] for raw in files)
        problems += [f"{key} '{name}' is listed twice" for name, count in counts.items() if count > 1]
    return problems


def _check_entry(raw: object) -> Iterator[str]:
    if not isinstance(raw, dict):
        yield "it is not an object"
        return
    size = raw.get("size")
    if raw.get("role") not in [role.value for role in Role]:
        yield f"unknown role {raw.get('role')!r}"
    for key in ("original", "stored"):
        if reason := check_path(raw.get(key), stored=key == "stored"):
            yield f"{key} {raw.get(key)!r} {reason}"
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        yield f"size {size!r} is not a number of bytes"
    if not _matches_pattern(_SHA256, raw.get("sha256")):
        yield f"sha256 {raw.get('sha256')!r} is not a SHA-256"


def check_path(path: object, *, stored: bool = False) -> str:
    """Return what is wrong with a path of a manifest, or "".

    Valid is a relative posix path without `.`, `..`, backslash, drive or control characters; a `stored` one must
    also have only names that Kaggle does not change.
    """
    if not isinstance(path, str) or not path or len(path) > 4096:
        return "is not a path"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "leads out of the kit's folder or is not normalized"
    # Lone surrogates come from undecodable file names, and cannot be written as UTF-8.
    if re.search(r"[\x00-\x1f\x7f\\\ud800-\udfff]", path) or re.match(r"[A-Za-z]:", path):
        return "holds characters that are not allowed in a kit"
    if stored and (not all(map(is_safe_name, parts)) or path.lower() == MARKER):
        return "is a name that Kaggle would change"
    return ""


def _matches_pattern(pattern: str, value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None
