"""Find trained files by the user's patterns, classify them, and hash each once."""

import glob
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile, classify_file
from offline_kit.checkpoints.pickle_opcodes import list_packages
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError, suggest_name
from offline_kit.core.files import fingerprint, format_size, sha256_of
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.types import Checkpoint, CheckpointKind

_WILDCARDS = "*?["
_WEIGHT_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".safetensors"})
# Nanoseconds: a file that changed later may change again within one tick, so it is not remembered
_MIN_AGE = {"mtime": 2_000_000_000, "ctime": 100_000_000}


@dataclass(frozen=True, kw_only=True)
class _MatchedFile:
    original: str
    path: Path
    is_explicit: bool = False  # the user wrote this very name, no wildcard or folder


def collect_checkpoints(
    project: Path, patterns: Sequence[str], *, cache: Path, report: Reporter = SILENT
) -> tuple[Checkpoint, ...]:
    """Return the files that match the patterns, sorted by original name, each with kind, size and SHA-256.

    A pattern is a file, a folder (all its files except hidden ones) or a glob, `**` included, relative to the
    project. Nothing is executed. Hashes are cached by fingerprint. Raises ProjectError with the problems of all
    patterns.
    """
    project = project.absolute()
    problems: list[str] = []
    matched_files: dict[str, _MatchedFile] = {}
    for pattern in dict.fromkeys(patterns):
        matches, problem = _match_pattern(project, pattern)
        problems += [problem] * (not matches)
        for match in matches:
            key = os.path.normpath(match.path)
            if key not in matched_files or match.is_explicit:
                matched_files[key] = match
    files = _drop_duplicate_links(list(matched_files.values()), report)
    first_paths: dict[str, Path] = {}
    for file in files:
        first = first_paths.setdefault(file.original, file.path)
        if first != file.path:
            remedy = "copy one of them into the project"
            problems.append(f"'{first}' and '{file.path}' would both be '{file.original}': {remedy}")
    classified = {file.path: _classify_match(file.path) for file in files}
    flaws = ((file.original, classified[file.path].problem) for file in files)
    problems += [f"'{original}' {flaw}" for original, flaw in flaws if flaw]
    if problems:
        raise ProjectError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the checkpoints",
            hint="fix 'checkpoints' in the configuration (or -c); patterns are relative to the project",
            code="checkpoints-invalid",
            details=problems,
        )
    digests = _hash_files(list(classified), Cache(cache), report)
    return tuple(
        Checkpoint(
            original=file.original,
            path=file.path,
            size=file.path.stat().st_size,
            sha256=digests[file.path],
            kind=classified[file.path].kind,
            refused=classified[file.path].refused,
        )
        for file in files
    )


def advise_loading(
    checkpoint: Checkpoint, *, trusted: bool = False, distributions: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return what to do so that a checkpoint loads in the notebook; empty if it just loads.

    `trusted`: the user lets the notebook load it with weights_only=False. `distributions`: those of the notebook whose
    objects a pickle holds.
    """
    name, packages = checkpoint.original, ", ".join(list_packages(checkpoint.refused))
    if checkpoint.kind is CheckpointKind.OTHER and Path(name).suffix.lower() in _WEIGHT_SUFFIXES:
        return (f"'{name}' is no checkpoint of a known format: check how it was saved or downloaded",)
    if checkpoint.kind in (CheckpointKind.PICKLE, CheckpointKind.JOBLIB):
        remedy = "the notebook has them: require those versions if they differ"
        if not distributions:
            remedy = "add them to the requirements"
        needs = f"it loads only with {', '.join(distributions) or 'the packages'} at about the versions that it was saved with"
        return (f"'{name}' is a {checkpoint.kind} file: {needs}; {remedy}",)
    if any("TorchScript" in reason for reason in checkpoint.refused):
        return (f"'{name}' is a TorchScript archive: load it with torch.jit.load, not with torch.load",)
    if trusted or not checkpoint.refused:
        needs = f"'{name}' needs these packages in the kit or the image: {packages}"
        return (needs,) if packages else ()
    resave = "torch.save(model.state_dict(), 'weights.ckpt')"
    if checkpoint.kind is CheckpointKind.LIGHTNING:
        loaded = f"torch.load('{name}', map_location='cpu', weights_only=False)"
        resave = f"torch.save({{'state_dict': {loaded}['state_dict']}}, 'weights.ckpt')"
    lines = (
        f"'{name}' does not load under torch's weights_only=True, the default since 2.6, which refuses: "
        + ", ".join(checkpoint.refused),
        "if you made the file yourself, set `weights_only = false` in [tool.offline-kit.notebook.params]",
        f"or save its weights alone and ship those: {resave}",
    )
    also = f"as it is, it also needs these packages in the kit or the image: {packages}"
    return (*lines, also) if packages else lines


def _match_pattern(project: Path, pattern: str) -> tuple[list[_MatchedFile], str]:
    """Return the files that match, and the problem if there are none."""
    path = project / Path(pattern).expanduser()
    if not pattern.strip():
        return [], "an empty pattern names no file"
    # A name that exists means itself, even with brackets in it: "epoch[1].ckpt".
    if os.path.lexists(path):
        if not path.exists():
            return [], f"'{pattern}' is a link to nothing: '{path.readlink()}' does not exist"
        if not path.is_dir():
            name = _original_name(project, path.parent, path)
            return [_MatchedFile(original=name, path=path, is_explicit=True)], ""
        root, files, problem = path.parent, list_files(path), f"the folder '{pattern}' is empty"
    elif not any(sign in pattern for sign in _WILDCARDS):
        siblings = [neighbor.name for neighbor in path.parent.glob("*")]
        return [], f"'{pattern}' does not exist{suggest_name(path.name, siblings)}"
    else:
        folder = project
        for part in Path(pattern).expanduser().parts:
            # A folder that is called "fold[1]" is no wildcard.
            if any(sign in part for sign in _WILDCARDS) and not os.path.lexists(folder / part):
                break
            folder /= part
        # glob instead of Path.glob, which finds hidden files too: https://docs.python.org/3/library/glob.html
        glob_pattern = str(Path(glob.escape(str(folder)), path.relative_to(folder)))
        paths = sorted(Path(name) for name in glob.glob(glob_pattern, recursive=True))  # noqa: PTH207
        files = [path for path in paths if not path.is_dir()]
        files = files or [file for path in paths for file in list_files(path)]
        root, problem = folder.parent, f"'{pattern}' matches no file below '{project}'"
    return [_MatchedFile(original=_original_name(project, root, file), path=file) for file in files], problem


def list_files(folder: Path, skipped: Collection[str] = ("__pycache__",)) -> list[Path]:
    """Return the files below a folder, without hidden ones and links to folders, which may form loops."""
    paths = []
    for folder_path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skipped)
        paths += [Path(folder_path, name) for name in sorted(files) if not name.startswith(".")]
    return paths


def _original_name(project: Path, root: Path, path: Path) -> str:
    """Return the name in the kit: relative to the project, else to the last folder in the pattern."""
    for base in (project, root):
        normal = Path(os.path.normpath(path))
        if normal.is_relative_to(os.path.normpath(base)):
            return normal.relative_to(os.path.normpath(base)).as_posix()
    return path.name


def _drop_duplicate_links(files: list[_MatchedFile], report: Reporter) -> list[_MatchedFile]:
    """Drop links whose target is included too ("last.ckpt" beside "best.ckpt"), unless the user named them."""
    targets = {file.path.resolve() for file in files if not file.path.is_symlink()}
    kept_files = []
    for file in files:
        # The hub's cache is made of links (blobs and snapshots); their targets are dropped later:
        # https://huggingface.co/docs/huggingface_hub/guides/manage-cache
        is_kept = file.is_explicit or file.original.startswith("caches/")
        if file.path.is_symlink() and not is_kept and file.path.resolve() in targets:
            report.note(f"'{file.original}' is a link to '{file.path.readlink()}', which is included already")
        else:
            kept_files.append(file)
    return sorted(kept_files, key=lambda file: file.original)


def _classify_match(path: Path) -> ClassifiedFile:
    try:
        if path.is_file():
            return classify_file(path)
        problem = "is no plain file"
        if not path.exists():
            problem = f"is a link to nothing: '{path.readlink()}' does not exist"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    return ClassifiedFile(problem=problem)


def _hash_files(paths: Sequence[Path], store: Cache, report: Reporter) -> dict[Path, str]:
    """Return the SHA-256 of each file; those that are unchanged since they were hashed are not read."""
    stamps = {path: fingerprint(path) for path in paths}
    records = {path: store.read_record("checkpoints", cache_key(*stamp)) for path, stamp in stamps.items()}
    digests = {path: str(record["sha256"]) for path, record in records.items() if record}
    unhashed = {path: int(stamp[1]) for path, stamp in stamps.items() if path not in digests}
    if not unhashed:
        return digests
    title = f"Hashing {len(unhashed)} checkpoint{'s' * (len(unhashed) > 1)}"
    with report.progress(title, sum(unhashed.values())) as advance:
        for path, size in unhashed.items():
            stamp = stamps[path]
            digests[path] = sha256_of(path, advance)
            if fingerprint(path) != stamp:
                raise ProjectError(
                    f"'{path}' ({format_size(size)}) changed while it was read",
                    hint="wait until the training has written it, then build again",
                    code="file-changed",
                )
            # FAT stores times in steps of 2 s: https://learn.microsoft.com/windows/win32/sysinfo/file-times
            ages = (time.time_ns() - int(stamp[2]), time.time_ns() - int(stamp[3]))
            if ages[0] > _MIN_AGE["mtime"] and ages[1] > _MIN_AGE["ctime"]:
                facts = {"sha256": digests[path], "path": stamp[0]}
                store.write_record("checkpoints", cache_key(*stamp), facts)
    return digests


def forget_hashes(checkpoints: Sequence[Checkpoint], cache: Path) -> None:
    """Delete cached records that turned out to be wrong, so that the files are hashed again."""
    store = Cache(cache)
    for checkpoint in checkpoints:
        if checkpoint.path.exists():
            store.delete_record("checkpoints", cache_key(*fingerprint(checkpoint.path)))
