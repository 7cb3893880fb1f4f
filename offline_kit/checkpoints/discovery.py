"""The trained files: found by the user's patterns, told apart, hashed once."""

import glob
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints.file_kinds import classify_file
from offline_kit.checkpoints.pickle_opcodes import list_packages
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError, suggest_name
from offline_kit.core.files import fingerprint, format_size, sha256_of
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.project.types import Checkpoint, CheckpointKind

_WILDCARDS = "*?["
_WEIGHT_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".safetensors"})
"""Suffixes under which one expects weights."""
_CACHE_VERSION = 2
"""Counted up when files are told apart by other rules, so that nothing old is remembered."""
_MIN_AGE = {"mtime": 2_000_000_000, "ctime": 100_000_000}
"""Nanoseconds: a file changed later than this may change again within one tick (FAT: 2 s), so it is not remembered."""


@dataclass(frozen=True, kw_only=True)
class _MatchedFile:
    """A file that a pattern gave."""

    original: str
    """Its name in the kit."""
    path: Path
    """Where it lies."""
    is_explicit: bool
    """The user wrote this very name, no wildcard or folder."""


@dataclass(frozen=True, kw_only=True)
class _FileRecord:
    """What a look into a file gave."""

    fingerprint: tuple[str, ...] = ()
    """Its fingerprint."""
    size: int = 0
    """Bytes."""
    kind: CheckpointKind = CheckpointKind.OTHER
    """What it is."""
    refused: tuple[str, ...] = ()
    """What weights_only refuses of it."""
    problem: str = ""
    """Why it cannot be used."""
    sha256: str = ""
    """Its digest where it is remembered."""


def collect_checkpoints(
    project: Path, patterns: Sequence[str], *, cache: Path, report: Reporter = SILENT
) -> tuple[Checkpoint, ...]:
    """Return the files that the patterns name, sorted by original name, each with kind, size and digest.

    A pattern is a file, a folder (all its files, hidden ones left out) or a glob, `**` included, relative
    to the project. Nothing is executed. Digests are remembered in `cache` by fingerprint.
    Raises ProjectError with everything that is wrong, over all patterns.
    """
    project = project.absolute()
    problems: list[str] = []
    matched_files: dict[str, _MatchedFile] = {}
    for pattern in dict.fromkeys(patterns):
        hits, pattern_problems = _match_pattern(project, pattern)
        problems += pattern_problems
        for matched in hits:
            key = os.path.normpath(matched.path)
            if key not in matched_files or matched.is_explicit:
                matched_files[key] = matched
    files = _drop_duplicate_links(list(matched_files.values()), report)
    problems += _find_name_clashes(files)
    store = Cache(cache)
    records = [_inspect_file(matched.path, store) for matched in files]
    problems += [
        f"'{matched.original}' {record.problem}"
        for matched, record in zip(files, records, strict=True)
        if record.problem
    ]
    if problems:
        raise ProjectError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the checkpoints",
            hint="mend 'checkpoints' in the configuration (or -c), relative to the project; see each line",
            details=problems,
        )
    digests = _hash_files(
        [(matched.path, record) for matched, record in zip(files, records, strict=True)], store, report
    )
    return tuple(
        Checkpoint(
            original=matched.original,
            path=matched.path,
            size=record.size,
            sha256=digests[matched.path],
            kind=record.kind,
            refused=record.refused,
        )
        for matched, record in zip(files, records, strict=True)
    )


def advise_loading(
    checkpoint: Checkpoint, *, trusted: bool = False, distributions: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return what to do about a checkpoint so that it loads in the notebook; empty where it just loads.

    `trusted`: the user lets the notebook load it with weights_only=False. `distributions`: the distributions whose objects a
    pickle holds, which the notebook gets.
    """
    name = checkpoint.original
    if checkpoint.kind is CheckpointKind.OTHER and Path(name).suffix.lower() in _WEIGHT_SUFFIXES:
        return (f"'{name}' is no checkpoint of a known format: see what was saved or downloaded there",)
    if checkpoint.kind in (CheckpointKind.PICKLE, CheckpointKind.JOBLIB):
        if distributions:
            needs = f"it loads only with {', '.join(distributions)}, which the notebook gets, at about the versions that it was saved with"
            return (f"'{name}' is a {checkpoint.kind} file: {needs}; name those in the requirements",)
        needs = "it loads only with the packages, at about the versions, that it was saved with"
        return (f"'{name}' is a {checkpoint.kind} file: {needs}; name them in the requirements",)
    if not checkpoint.refused:
        return ()
    if any("TorchScript" in reason for reason in checkpoint.refused):
        return (f"'{name}' is a TorchScript archive: load it with torch.jit.load, not with torch.load",)
    packages = list_packages(checkpoint.refused)
    if trusted:
        needs = f"'{name}' needs these packages in the kit or the image: {', '.join(packages)}"
        return (needs,) if packages else ()
    lines = [
        f"'{name}' does not load under torch's weights_only=True, the default since 2.6, which refuses: "
        + ", ".join(checkpoint.refused),
        "if you made the file yourself, set `weights_only = false` in [tool.offline-kit.notebook.params]",
        f"or save its weights alone and ship those: {_resave_command(checkpoint)}",
    ]
    if packages:
        lines.append(f"as it is, it also needs these packages in the kit or the image: {', '.join(packages)}")
    return tuple(lines)


def _resave_command(checkpoint: Checkpoint) -> str:
    if checkpoint.kind is not CheckpointKind.LIGHTNING:
        return "torch.save(model.state_dict(), 'weights.ckpt')"
    loaded = f"torch.load('{checkpoint.original}', map_location='cpu', weights_only=False)"
    return f"torch.save({{'state_dict': {loaded}['state_dict']}}, 'weights.ckpt')"


def _match_pattern(project: Path, pattern: str) -> tuple[list[_MatchedFile], list[str]]:
    path = project / Path(pattern).expanduser()
    if not pattern.strip():
        return [], ["an empty pattern names no file"]
    # A name that exists means itself, even with brackets in it: "epoch[1].ckpt".
    if os.path.lexists(path):
        return _match_name(project, pattern, path)
    if not any(sign in pattern for sign in _WILDCARDS):
        return [], [f"'{pattern}' does not exist{_suggest_name(path)}"]
    root = _find_glob_root(project, pattern)
    below = path.relative_to(root)
    # glob rather than Path.glob: it leaves hidden files out.
    paths = sorted(Path(hit) for hit in glob.glob(str(Path(glob.escape(str(root)), below)), recursive=True))  # noqa: PTH207
    plain_files = [hit for hit in paths if not hit.is_dir()]
    files = plain_files or [file for hit in paths for file in _list_files(hit)]
    return _match_files(project, root.parent, files), [] if files else [
        f"'{pattern}' matches no file below '{project}'"
    ]


def _match_name(project: Path, pattern: str, path: Path) -> tuple[list[_MatchedFile], list[str]]:
    if not path.exists():
        return [], [f"'{pattern}' is a link to nothing: '{path.readlink()}' does not exist"]
    if not path.is_dir():
        return [
            _MatchedFile(original=_original_name(project, path.parent, path), path=path, is_explicit=True)
        ], []
    files = _list_files(path)
    return _match_files(project, path.parent, files), [] if files else [
        f"the folder '{pattern}' holds no files"
    ]


def _match_files(project: Path, root: Path, files: list[Path]) -> list[_MatchedFile]:
    return [
        _MatchedFile(original=_original_name(project, root, file), path=file, is_explicit=False)
        for file in files
    ]


def _list_files(folder: Path) -> list[Path]:
    """Return the files below a folder; hidden ones and links to folders, which may be rings, are left out."""
    paths = []
    for folder_path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        paths += [Path(folder_path, name) for name in sorted(files) if not name.startswith(".")]
    return paths


def _find_glob_root(project: Path, pattern: str) -> Path:
    """Return the last folder of a glob before its first wildcard; a folder that is called "fold[1]" has none."""
    root = project
    for part in Path(pattern).expanduser().parts:
        if any(sign in part for sign in _WILDCARDS) and not os.path.lexists(root / part):
            break
        root /= part
    return root


def _original_name(project: Path, root: Path, path: Path) -> str:
    """Return the name in the kit: relative to the project, else to the last folder that the user named."""
    for base in (project, root):
        normal = Path(os.path.normpath(path))
        if normal.is_relative_to(os.path.normpath(base)):
            return normal.relative_to(os.path.normpath(base)).as_posix()
    return path.name


def _suggest_name(path: Path) -> str:
    try:
        names = [neighbor.name for neighbor in path.parent.iterdir()]
    except OSError:
        return ""
    return suggest_name(path.name, names)


def _drop_duplicate_links(files: list[_MatchedFile], report: Reporter) -> list[_MatchedFile]:
    """Leave out links whose target is there too ("last.ckpt" beside "best.ckpt"), unless named outright."""
    real = {file.path.resolve() for file in files if not file.path.is_symlink()}
    kept_files = []
    for file in files:
        # The hub's cache is made of links; of its twins the files that they lead to stay at home, later.
        kept_link = file.is_explicit or file.original.startswith("caches/")
        if file.path.is_symlink() and not kept_link and file.path.resolve() in real:
            report.note(f"'{file.original}' is a link to '{file.path.readlink()}', which goes along already")
        else:
            kept_files.append(file)
    return sorted(kept_files, key=lambda file: file.original)


def _find_name_clashes(files: list[_MatchedFile]) -> list[str]:
    first_paths: dict[str, Path] = {}
    problems = []
    for file in files:
        first = first_paths.setdefault(file.original, file.path)
        if first != file.path:
            problems.append(
                f"'{first}' and '{file.path}' would both be '{file.original}': "
                "copy one of them into the project"
            )
    return problems


def _inspect_file(path: Path, store: Cache) -> _FileRecord:
    """Look into a file, or remember what was seen in it when it was as it is now."""
    try:
        if not path.exists():
            return _FileRecord(problem=f"is a link to nothing: '{path.readlink()}' does not exist")
        if not path.is_file():
            return _FileRecord(problem="is no plain file")
        stamp = fingerprint(path)
        with path.open("rb"):  # unreadable is unreadable, whatever is remembered
            pass
        record = store.read_record("checkpoints", cache_key(_CACHE_VERSION, *stamp))
        if record:
            return _FileRecord(
                fingerprint=stamp,
                size=int(stamp[1]),
                kind=CheckpointKind(str(record["kind"])),
                refused=tuple(str(record["refused"]).splitlines()),
                sha256=str(record["sha256"]),
            )
        classified = classify_file(path)
        return _FileRecord(
            fingerprint=stamp,
            size=int(stamp[1]),
            kind=classified.kind,
            refused=classified.refused,
            problem=classified.problem,
        )
    except OSError as error:
        return _FileRecord(problem=f"cannot be read: {error.strerror}")


def forget_hashes(checkpoints: Sequence[Checkpoint], cache: Path) -> None:
    """Drop what is remembered of files, which turned out to be wrong: they are hashed again."""
    store = Cache(cache)
    for checkpoint in checkpoints:
        if checkpoint.path.exists():
            store.delete_record("checkpoints", cache_key(_CACHE_VERSION, *fingerprint(checkpoint.path)))


def _hash_files(files: Sequence[tuple[Path, _FileRecord]], store: Cache, report: Reporter) -> dict[Path, str]:
    unhashed = [(path, record) for path, record in files if not record.sha256]
    digests = {path: record.sha256 for path, record in files}
    if unhashed:
        with report.progress(
            f"Hashing {len(unhashed)} checkpoint{'s' * (len(unhashed) > 1)}",
            sum(record.size for _, record in unhashed),
        ) as advance:
            for path, record in unhashed:
                digests[path] = _hash_file(path, record, store, advance)
    return digests


def _hash_file(path: Path, record: _FileRecord, store: Cache, advance: Advance) -> str:
    digest = sha256_of(path, advance)
    if fingerprint(path) != record.fingerprint:
        raise ProjectError(
            f"'{path}' ({format_size(path.stat().st_size)}) changed while it was read",
            hint="wait until the training has written it, then build again",
        )
    current_time, mtime, ctime = time.time_ns(), int(record.fingerprint[2]), int(record.fingerprint[3])
    if current_time - mtime > _MIN_AGE["mtime"] and current_time - ctime > _MIN_AGE["ctime"]:
        store.write_record(
            "checkpoints",
            cache_key(_CACHE_VERSION, *record.fingerprint),
            {
                "sha256": digest,
                "kind": record.kind,
                "refused": "\n".join(record.refused),
                "path": record.fingerprint[0],
            },
        )
    return digest
