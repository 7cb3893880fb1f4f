"""Decide how each need is met: as a requirement, a checkpoint, an attached source, or by hand."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from offline_kit.adopt import hub_decisions, literals, notebook_files, shell
from offline_kit.adopt.findings import (
    Collected,
    Decision,
    ExternalNeed,
    FindingResolution,
    NeedKind,
    leave_unresolved,
    meet_need,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import NotebookFiles
from offline_kit.core.redaction import redact_urls
from offline_kit.packages.own import code_files

_PACKAGE_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_TOOLS = frozenset({"pip", "uv", "wheel"})
"""Installers, which nothing needs offline."""
_TRAINED = frozenset(
    {".bin", ".ckpt", ".h5", ".joblib", ".keras", ".npy", ".npz"}
    | {".onnx", ".pkl", ".pt", ".pth", ".safetensors"}
)
"""Suffixes of trained files."""
_UNKNOWN_URL = "write the URL as a constant: parts of '{}' are only known at run time"


def decide_need(
    need: ExternalNeed,
    code: NotebookCode,
    files: NotebookFiles,
    collected: Collected,
    others: Sequence[ExternalNeed],
) -> Decision:
    """Return the decision on a need and add to `collected` what it takes; `others` are all needs."""
    if need.kind is NeedKind.INSTALL:
        return _decide_install(need, files, collected)
    if need.kind is NeedKind.CLONE:
        return _decide_clone(need, files, collected, others)
    if need.kind is NeedKind.DOWNLOAD:
        return _decide_download(need, files, collected)
    if need.kind is NeedKind.KAGGLE:
        return _decide_kaggle(need, collected)
    if need.kind is NeedKind.HUB:
        return hub_decisions.decide_hub(need, files, collected)
    if need.kind is NeedKind.PRETRAINED:
        return hub_decisions.decide_pretrained(need, code)
    if need.kind is NeedKind.CORPUS:
        return hub_decisions.decide_corpus(need, files, collected)
    if need.detail == "colab":
        return leave_unresolved(
            need, "put its files next to the notebook, read them from there, and remove this line"
        )
    if need.kind is NeedKind.ACCOUNT:
        reason = "secrets of the account cannot be asked for offline: empty"
        value = reason if need.detail == "secret" else "no account is needed offline"
        return meet_need(need, FindingResolution.SWITCHED_OFF, value)
    return _decide_system(need)


def _decide_system(need: ExternalNeed) -> Decision:
    if not need.detail:
        return leave_unresolved(
            need, "system packages cannot be installed offline: use a Python package, or do without"
        )
    names = " and ".join(f"'{name}'" for name in need.detail.split())
    return leave_unresolved(
        need,
        f"conda cannot install offline: add {names} to the requirements under its name on PyPI, and remove this line",
    )


def _decide_install(need: ExternalNeed, files: NotebookFiles, collected: Collected) -> Decision:
    words = shlex.split(need.target)
    install = shell.parse_pip_install(words)
    if install is None:
        if need.detail == "uninstall":
            # It made way for what the next line installed; the kit's packages precede the image's on sys.path.
            value = "nothing is taken out: the kit's packages come before the image's"
            return meet_need(need, FindingResolution.SWITCHED_OFF, value)
        return leave_unresolved(need, "add the packages to the requirements, and remove this line")
    if install.offline or (install.local and not (install.requirements or install.files or install.folders)):
        return meet_need(need, FindingResolution.UNCHANGED, "installs from mounted files", switches_off=False)
    if holes := [requirement for requirement in install.requirements if literals.has_unknowns(requirement)]:
        return leave_unresolved(need, f"write '{holes[0]}' as a constant: it is only known at run time")
    return _bundle_packages(need, install, files, collected)


def _bundle_packages(
    need: ExternalNeed, wanted: shell.PipInstall, files: NotebookFiles, collected: Collected
) -> Decision:
    """Return the decision on a line whose packages go into the kit."""
    lines = [line for line in wanted.requirements if line.lower() not in _TOOLS]
    problems: list[str] = []
    for folder in wanted.folders:
        _add_folder(_run_path(need, folder), files, collected, lines, problems)
    for file in wanted.files:
        path = _run_path(need, file)
        if hits := files.find_beside(path):
            collected.files[files.relative_name(hits[0])] = None
        else:
            problems.append(_ask_for_file(path, f"put '{path}'", collected))
    if problems:
        return leave_unresolved(need, "; ".join(problems))
    bare = [redact_urls(line) for line in lines]
    secret, lines = bare != lines, bare
    collected.requirements |= dict.fromkeys(lines)
    if lines or wanted.files:
        collected.indexes |= dict.fromkeys(map(redact_urls, wanted.index))
    if not (lines or wanted.files or wanted.folders):
        return meet_need(need, FindingResolution.SWITCHED_OFF, "nothing is installed offline")
    own_folders = [
        folder for folder in wanted.folders if not _clone_holding(_run_path(need, folder), collected)
    ]
    value = ", ".join([*lines, *(f"-r {_run_path(need, file)}" for file in wanted.files), *own_folders])
    left_out = _describe_omitted(wanted, clones=len(own_folders) < len(wanted.folders), secret=secret)
    return meet_need(need, FindingResolution.REQUIREMENT, value, left_out)


def _describe_omitted(wanted: shell.PipInstall, *, clones: bool, secret: bool) -> str:
    """Return what the requirements leave out: the credentials of a URL, the extras of a cloned package."""
    if secret:
        return (
            "written without the credentials of its URL: put them into ~/.netrc, or use an environment variable in the"
            " requirements (https://${NAME}@...)"
        )
    if clones and any("[" in folder for folder in wanted.folders):
        return (
            "its repository is required without extras: add the package with its extras to the requirements"
        )
    return ""


def _run_path(install: ExternalNeed, word: str) -> str:
    """Return a path given to pip, without extras, relative to the working folder."""
    return notebook_files.join_run_path(install.destination, re.sub(r"\[.*\]$", "", word))


def _ask_for_file(path: str, words: str, collected: Collected) -> str:
    clone = _clone_holding(path, collected)
    step = f"clone '{notebook_files.fetched_name(clone)}'" if clone else words
    return f"{step} next to the notebook, and adopt again"


def _add_folder(
    folder: str, files: NotebookFiles, collected: Collected, lines: list[str], problems: list[str]
) -> None:
    """Add a folder that pip installs: a clone as a requirement, a folder of the project as a package."""
    if clone := _clone_holding(folder, collected):
        below = folder.removeprefix(clone).strip("/")
        lines.append(collected.clones[clone] + (f"#subdirectory={below}" if below else ""))
        return
    hits = files.find_beside(folder) if folder else files.base_folders
    if hits and any((hits[0] / file_name).is_file() for file_name in _PACKAGE_FILES):
        collected.packages[files.relative_name(hits[0]) or "."] = None
    else:
        problems.append(_ask_for_file(folder, f"put the source of '{folder}'", collected))


def _clone_holding(path: str, collected: Collected) -> str:
    """Return the folder of the clone that contains a path; "" for none."""
    return next((clone for clone in collected.clones if f"{path}/".startswith(f"{clone}/")), "")


def _decide_clone(
    need: ExternalNeed, files: NotebookFiles, collected: Collected, others: Sequence[ExternalNeed]
) -> Decision:
    folder = notebook_files.join_run_path("", need.destination)
    if literals.has_unknowns(need.target) or "*" in need.target:
        return leave_unresolved(need, _UNKNOWN_URL.format(need.target))
    if not folder:
        collected.clones[folder] = need.target
        plain = shell.parse_clone(("git", "clone", need.target))
        return leave_unresolved(
            need,
            f"clone it into its own folder (`git clone {need.target} {plain.destination if plain else 'repository'}`),"
            " change into it with %cd, and adopt again",
        )
    hits = files.find_beside(notebook_files.fetched_name(folder))
    name = files.relative_name(hits[0]) if hits and hits[0].is_dir() else ""
    line = collected.clones[folder] = shell.repository_requirement(need.target, need.detail)
    installed = [
        other
        for other in others
        if other.kind is NeedKind.INSTALL and other is not need and _installs_from(folder, other)
    ]
    if installed:
        collected.laid_out[folder] = name  # later lines may change into it and run its files
        collected.checkpoints |= {name: None} if name else {}
        note = "installed from its repository; if cells read its files, clone it next to the notebook and adopt again"
        return meet_need(need, FindingResolution.REQUIREMENT, line, "" if name else note)
    if not name:
        return leave_unresolved(
            need,
            f"run `git clone {f'-b {need.detail} ' if need.detail else ''}{need.target}"
            f" {notebook_files.fetched_name(folder)}` next to the notebook, and adopt again: it goes into the kit",
        )
    collected.laid_out[folder] = name
    if not any(hits[0].rglob("*.py")):
        collected.serve_file(notebook_files.fetched_name(folder), files.relative_name(hits[0]))
        return meet_need(need, FindingResolution.CHECKPOINT, name)
    collected.modules[name] = None
    return meet_need(need, FindingResolution.MODULE, name, _describe_left_behind(hits[0], files))


def _describe_left_behind(clone: Path, files: NotebookFiles) -> str:
    """Return what to do about trained files of a clone: modules only ship code and small data files."""
    shipped = set(code_files.list_module_files(clone))
    left = sorted(path for path in clone.rglob("*") if path.suffix in _TRAINED and path not in shipped)
    if not left:
        return ""
    suffix = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return f"'{files.relative_name(left[0])}'{suffix} is not in the kit: if cells read it, add it to `checkpoints`"


def _installs_from(folder: str, install: ExternalNeed) -> bool:
    pip_install = shell.parse_pip_install(shlex.split(install.target))
    folders = [_run_path(install, path) for path in pip_install.folders] if pip_install else []
    return any(f"{path}/".startswith(f"{folder}/") for path in folders)


def _decide_download(need: ExternalNeed, files: NotebookFiles, collected: Collected) -> Decision:
    target = notebook_files.join_run_path("", need.destination) if need.destination else ""
    name = notebook_files.fetched_name(target) or re.split(r"[?#]", need.target)[0].rpartition("/")[2]
    hits = files.find_beside(name) if name and "*" not in name else ()
    if not hits or not hits[0].is_file():
        return leave_unresolved(need, _describe_download(need.target, name))
    collected.serve_file(name, files.relative_name(hits[0]))
    if target:
        collected.laid_out[target] = files.relative_name(hits[0])
    stand_in = f'"{notebook_files.WORKING}/{name}"' if need.detail == "read" else None
    return meet_need(need, FindingResolution.CHECKPOINT, files.relative_name(hits[0]), stand_in=stand_in)


def _describe_download(address: str, name: str) -> str:
    """Return how to provide a downloaded file that is not in the project."""
    if "*" in name or literals.has_unknowns(name):
        return _UNKNOWN_URL.format(name)
    if "." not in name and ("drive.google.com" in address or "://" not in address) and name:
        name = ""
        extra = "; name the file in the line (`-O NAME`, `output=`)"
    else:
        extra = ""
    file_name = f"'{name}'" if name else "a file"
    return f"download it to {file_name} next to the notebook{extra}, and adopt again: it becomes a checkpoint"


def _decide_kaggle(need: ExternalNeed, collected: Collected) -> Decision:
    name = need.target.strip("/")
    parts = len(name.split("/"))
    expected_parts = {"competition": 1, "dataset": 2, "notebook": 2, "model": 5}[need.detail]
    if "*" in name or not name:
        return leave_unresolved(need, "write its name as a constant, so that it can be attached")
    if need.detail == "model" and parts == 4:
        return leave_unresolved(
            need, f"pin its version, as in '{name}/1': Kaggle attaches one version of a model"
        )
    if parts > expected_parts and need.detail != "model":
        name = "/".join(name.split("/")[:expected_parts])  # Kaggle attaches the newest version of a dataset
    elif parts != expected_parts:
        return leave_unresolved(need, f"'{name}' is not the name of a {need.detail} on Kaggle: fix it")
    collected.add_source(need.detail, name)
    # Kaggle's client unpacks into the working folder, which stays empty offline
    if need.stand_in or need.destination == "api":
        return leave_unresolved(
            need, f"it is attached now: read it below {notebook_files.INPUT}, and remove this line", name
        )
    group = f"{need.detail}s"
    path = f"{notebook_files.SHOWN_INPUT}/{group}/{name}{f'/{need.destination}' if need.destination else ''}"
    return meet_need(need, FindingResolution.SOURCE, f"{need.detail} {name}", stand_in=f'"{path}"')
