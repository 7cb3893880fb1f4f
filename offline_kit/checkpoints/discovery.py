"""The trained files: found by the user's patterns, told apart, hashed once."""

import glob
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints.file_kinds import sniff
from offline_kit.checkpoints.pickle_opcodes import packages_of
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError, suggest_name
from offline_kit.core.files import fingerprint, format_size, sha256_of
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.project.types import Checkpoint, CheckpointKind

_WILD = "*?["
_TORCHS = frozenset({".ckpt", ".pt", ".pth", ".safetensors"})
"""Suffixes under which one expects weights."""
_RULES = 2
"""Counted up when files are told apart by other rules, so that nothing old is remembered."""
_SETTLED = {"mtime": 2_000_000_000, "ctime": 100_000_000}
"""Nanoseconds: a file changed later than this may change again within one tick (FAT: 2 s), so it is not remembered."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file that a pattern gave."""

    original: str
    """Its name in the kit."""
    path: Path
    """Where it lies."""
    named: bool
    """The user wrote this very name, no wildcard or folder."""


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What a look into a file gave."""

    state: tuple[str, ...] = ()
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


def collect(
    project: Path, patterns: Sequence[str], *, cache: Path, report: Reporter = SILENT
) -> tuple[Checkpoint, ...]:
    """Return the files that the patterns name, sorted by original name, each with kind, size and digest.

    A pattern is a file, a folder (all its files, hidden ones left out) or a glob, `**` included, relative
    to the project. Nothing is executed. Digests are remembered in `cache` by fingerprint.
    Raises ProjectError with everything that is wrong, over all patterns.
    """
    project = project.absolute()
    problems: list[str] = []
    found: dict[str, _Found] = {}
    for pattern in dict.fromkeys(patterns):
        matches, trouble = _matches(project, pattern)
        problems += trouble
        for each in matches:
            key = os.path.normpath(each.path)
            if key not in found or each.named:
                found[key] = each
    files = _without_twin_links(list(found.values()), report)
    problems += _same_names(files)
    memory = Cache(cache)
    looks = [_look(each.path, memory) for each in files]
    problems += [
        f"'{each.original}' {look.problem}" for each, look in zip(files, looks, strict=True) if look.problem
    ]
    if problems:
        raise ProjectError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the checkpoints",
            hint="mend 'checkpoints' in the configuration (or -c), relative to the project; see each line",
            details=problems,
        )
    digests = _digests([(each.path, look) for each, look in zip(files, looks, strict=True)], memory, report)
    return tuple(
        Checkpoint(
            original=each.original,
            path=each.path,
            size=look.size,
            sha256=digests[each.path],
            kind=look.kind,
            refused=look.refused,
        )
        for each, look in zip(files, looks, strict=True)
    )


def advice(checkpoint: Checkpoint, *, trusted: bool = False, inside: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what to do about a checkpoint so that it loads in the notebook; empty where it just loads.

    `trusted`: the user lets the notebook load it with weights_only=False. `inside`: the distributions whose objects a
    pickle holds, which the notebook gets.
    """
    name = checkpoint.original
    if checkpoint.kind is CheckpointKind.OTHER and Path(name).suffix.lower() in _TORCHS:
        return (f"'{name}' is no checkpoint of a known format: see what was saved or downloaded there",)
    if checkpoint.kind in (CheckpointKind.PICKLE, CheckpointKind.JOBLIB):
        if inside:
            needs = f"it loads only with {', '.join(inside)}, which the notebook gets, at about the versions that it was saved with"
            return (f"'{name}' is a {checkpoint.kind} file: {needs}; name those in the requirements",)
        needs = "it loads only with the packages, at about the versions, that it was saved with"
        return (f"'{name}' is a {checkpoint.kind} file: {needs}; name them in the requirements",)
    if not checkpoint.refused:
        return ()
    if any("TorchScript" in what for what in checkpoint.refused):
        return (f"'{name}' is a TorchScript archive: load it with torch.jit.load, not with torch.load",)
    packages = packages_of(checkpoint.refused)
    if trusted:
        needs = f"'{name}' needs these packages in the kit or the image: {', '.join(packages)}"
        return (needs,) if packages else ()
    lines = [
        f"'{name}' does not load under torch's weights_only=True, the default since 2.6, which refuses: "
        + ", ".join(checkpoint.refused),
        "if you made the file yourself, set `weights_only = false` in [tool.offline-kit.notebook.params]",
        f"or save its weights alone and ship those: {_resave(checkpoint)}",
    ]
    if packages:
        lines.append(f"as it is, it also needs these packages in the kit or the image: {', '.join(packages)}")
    return tuple(lines)


def _resave(checkpoint: Checkpoint) -> str:
    if checkpoint.kind is not CheckpointKind.LIGHTNING:
        return "torch.save(model.state_dict(), 'weights.ckpt')"
    loaded = f"torch.load('{checkpoint.original}', map_location='cpu', weights_only=False)"
    return f"torch.save({{'state_dict': {loaded}['state_dict']}}, 'weights.ckpt')"


def _matches(project: Path, pattern: str) -> tuple[list[_Found], list[str]]:
    path = project / Path(pattern).expanduser()
    if not pattern.strip():
        return [], ["an empty pattern names no file"]
    # A name that exists means itself, even with brackets in it: "epoch[1].ckpt".
    if os.path.lexists(path):
        return _named(project, pattern, path)
    if not any(sign in pattern for sign in _WILD):
        return [], [f"'{pattern}' does not exist{_guess(path)}"]
    root = _fixed_root(project, pattern)
    below = path.relative_to(root)
    # glob rather than Path.glob: it leaves hidden files out.
    hits = sorted(Path(hit) for hit in glob.glob(str(Path(glob.escape(str(root)), below)), recursive=True))  # noqa: PTH207
    plain = [hit for hit in hits if not hit.is_dir()]
    files = plain or [file for hit in hits for file in _below(hit)]
    return _all(project, root.parent, files), [] if files else [
        f"'{pattern}' matches no file below '{project}'"
    ]


def _named(project: Path, pattern: str, path: Path) -> tuple[list[_Found], list[str]]:
    if not path.exists():
        return [], [f"'{pattern}' is a link to nothing: '{path.readlink()}' does not exist"]
    if not path.is_dir():
        return [_Found(original=_original(project, path.parent, path), path=path, named=True)], []
    files = _below(path)
    return _all(project, path.parent, files), [] if files else [f"the folder '{pattern}' holds no files"]


def _all(project: Path, root: Path, files: list[Path]) -> list[_Found]:
    return [_Found(original=_original(project, root, file), path=file, named=False) for file in files]


def _below(folder: Path) -> list[Path]:
    """Return the files below a folder; hidden ones and links to folders, which may be rings, are left out."""
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        found += [Path(here, name) for name in sorted(files) if not name.startswith(".")]
    return found


def _fixed_root(project: Path, pattern: str) -> Path:
    """Return the last folder of a glob before its first wildcard; a folder that is called "fold[1]" has none."""
    root = project
    for part in Path(pattern).expanduser().parts:
        if any(sign in part for sign in _WILD) and not os.path.lexists(root / part):
            break
        root /= part
    return root


def _original(project: Path, root: Path, path: Path) -> str:
    """Return the name in the kit: relative to the project, else to the last folder that the user named."""
    for base in (project, root):
        where = Path(os.path.normpath(path))
        if where.is_relative_to(os.path.normpath(base)):
            return where.relative_to(os.path.normpath(base)).as_posix()
    return path.name


def _guess(path: Path) -> str:
    try:
        names = [each.name for each in path.parent.iterdir()]
    except OSError:
        return ""
    return suggest_name(path.name, names)


def _without_twin_links(files: list[_Found], report: Reporter) -> list[_Found]:
    """Leave out links whose target is there too ("last.ckpt" beside "best.ckpt"), unless named outright."""
    real = {each.path.resolve() for each in files if not each.path.is_symlink()}
    kept = []
    for each in files:
        # The hub's cache is made of links; of its twins the files that they lead to stay at home, later.
        kept_link = each.named or each.original.startswith("caches/")
        if each.path.is_symlink() and not kept_link and each.path.resolve() in real:
            report.note(f"'{each.original}' is a link to '{each.path.readlink()}', which goes along already")
        else:
            kept.append(each)
    return sorted(kept, key=lambda each: each.original)


def _same_names(files: list[_Found]) -> list[str]:
    seen: dict[str, Path] = {}
    problems = []
    for each in files:
        first = seen.setdefault(each.original, each.path)
        if first != each.path:
            problems.append(
                f"'{first}' and '{each.path}' would both be '{each.original}': "
                "copy one of them into the project"
            )
    return problems


def _look(path: Path, memory: Cache) -> _Look:
    """Look into a file, or remember what was seen in it when it was as it is now."""
    try:
        if not path.exists():
            return _Look(problem=f"is a link to nothing: '{path.readlink()}' does not exist")
        if not path.is_file():
            return _Look(problem="is no plain file")
        state = fingerprint(path)
        with path.open("rb"):  # unreadable is unreadable, whatever is remembered
            pass
        record = memory.read_record("checkpoints", cache_key(_RULES, *state))
        if record:
            return _Look(
                state=state,
                size=int(state[1]),
                kind=CheckpointKind(str(record["kind"])),
                refused=tuple(str(record["refused"]).splitlines()),
                sha256=str(record["sha256"]),
            )
        seen = sniff(path)
        return _Look(
            state=state, size=int(state[1]), kind=seen.kind, refused=seen.refused, problem=seen.problem
        )
    except OSError as error:
        return _Look(problem=f"cannot be read: {error.strerror}")


def forget(checkpoints: Sequence[Checkpoint], cache: Path) -> None:
    """Drop what is remembered of files, which turned out to be wrong: they are hashed again."""
    memory = Cache(cache)
    for checkpoint in checkpoints:
        if checkpoint.path.exists():
            memory.delete_record("checkpoints", cache_key(_RULES, *fingerprint(checkpoint.path)))


def _digests(files: Sequence[tuple[Path, _Look]], memory: Cache, report: Reporter) -> dict[Path, str]:
    fresh = [(path, look) for path, look in files if not look.sha256]
    known = {path: look.sha256 for path, look in files}
    if fresh:
        with report.progress(
            f"Hashing {len(fresh)} checkpoint{'s' * (len(fresh) > 1)}", sum(look.size for _, look in fresh)
        ) as advance:
            for path, look in fresh:
                known[path] = _hashed(path, look, memory, advance)
    return known


def _hashed(path: Path, look: _Look, memory: Cache, advance: Advance) -> str:
    digest = sha256_of(path, advance)
    if fingerprint(path) != look.state:
        raise ProjectError(
            f"'{path}' ({format_size(path.stat().st_size)}) changed while it was read",
            hint="wait until the training has written it, then build again",
        )
    now, mtime, ctime = time.time_ns(), int(look.state[2]), int(look.state[3])
    if now - mtime > _SETTLED["mtime"] and now - ctime > _SETTLED["ctime"]:
        memory.write_record(
            "checkpoints",
            cache_key(_RULES, *look.state),
            {"sha256": digest, "kind": look.kind, "refused": "\n".join(look.refused), "path": look.state[0]},
        )
    return digest
