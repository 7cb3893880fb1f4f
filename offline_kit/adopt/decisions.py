"""What becomes of each wish: a requirement, a checkpoint, a source, nothing at all, or a question to the person."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from offline_kit.adopt import hub_decisions, literals, notebook_files, shell
from offline_kit.adopt.findings import (
    Collected,
    Decision,
    ExternalNeed,
    NeedKind,
    Resolution,
    leave_unresolved,
    resolve_need,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import NotebookFiles
from offline_kit.core.redaction import redact_urls
from offline_kit.packages.own import code_files

_PACKAGE_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_TOOLS = frozenset({"pip", "uv", "wheel"})
"""What installs, and is of no use where nothing is installed."""
_TRAINED = frozenset(
    {
        ".bin",
        ".ckpt",
        ".h5",
        ".joblib",
        ".keras",
        ".npy",
        ".npz",
        ".onnx",
        ".pkl",
        ".pt",
        ".pth",
        ".safetensors",
    }
)
"""How trained files end."""


def decide_need(
    need: ExternalNeed,
    code: NotebookCode,
    files: NotebookFiles,
    collected: Collected,
    others: Sequence[ExternalNeed],
) -> Decision:
    """Return what becomes of a need, and put what it needs into the collected; `others` are all needs."""
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
            need, "put the files that it brings beside the notebook, read them from there, and take this out"
        )
    if need.kind is NeedKind.ACCOUNT:
        reason = "secrets of the account cannot be asked for offline: empty"
        value = reason if need.detail == "secret" else "no account is needed offline"
        return Decision(resolved=resolve_need(need, Resolution.SWITCHED_OFF, value), switches_off=True)
    return _decide_system(need)


def _decide_system(need: ExternalNeed) -> Decision:
    if not need.detail:
        return leave_unresolved(
            need, "programs of the system cannot be installed offline: do without, or find a Python package"
        )
    names = " and ".join(f"'{name}'" for name in need.detail.split())
    return leave_unresolved(
        need,
        f"conda installs nothing offline: write {names} into the requirements as PyPI calls it, and take this out",
    )


def _decide_install(need: ExternalNeed, files: NotebookFiles, collected: Collected) -> Decision:
    words = shlex.split(need.target)
    install = shell.parse_pip_install(words)
    if install is None:
        if need.detail == "uninstall":
            # It made way for what the line behind it installed; the kit's packages come first as it is.
            value = "nothing is taken out: the kit's packages come before the image's"
            return Decision(resolved=resolve_need(need, Resolution.SWITCHED_OFF, value), switches_off=True)
        return leave_unresolved(
            need, "bundle the packages instead: write them into the requirements, and remove the line"
        )
    if install.offline or (install.local and not (install.requirements or install.files or install.folders)):
        return Decision(resolved=resolve_need(need, Resolution.UNCHANGED, "installs from mounted files"))
    if holes := [requirement for requirement in install.requirements if literals.has_unknowns(requirement)]:
        return leave_unresolved(need, f"what '{holes[0]}' is is known only when it runs: write it out")
    return _bundle_packages(need, install, files, collected)


def _bundle_packages(
    need: ExternalNeed, wanted: shell.PipInstall, files: NotebookFiles, collected: Collected
) -> Decision:
    """Return the decision on a line whose packages are to come with the kit."""
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
        return Decision(
            resolved=resolve_need(need, Resolution.SWITCHED_OFF, "nothing is installed offline"),
            switches_off=True,
        )
    own_folders = [
        folder for folder in wanted.folders if not _clone_holding(_run_path(need, folder), collected)
    ]
    value = ", ".join([*lines, *(f"-r {_run_path(need, file)}" for file in wanted.files), *own_folders])
    left_out = _describe_omitted(wanted, clones=len(own_folders) < len(wanted.folders), secret=secret)
    return Decision(resolved=resolve_need(need, Resolution.REQUIREMENT, value, left_out), switches_off=True)


def _describe_omitted(wanted: shell.PipInstall, *, clones: bool, secret: bool) -> str:
    """Return what of a call of pip its requirements do not say.

    `clones` is whether it installs some, `secret` whether an address had user, password or token in it.
    """
    if secret:
        return (
            "written without the credentials of its address: put them into ~/.netrc, or name a variable of the"
            " environment in the requirements (https://${NAME}@...)"
        )
    if clones and any("[" in folder for folder in wanted.folders):
        return "its repository is asked for without extras: name the package with them in the requirements"
    return ""


def _run_path(install: ExternalNeed, word: str) -> str:
    """Return a folder or file that pip is given as `places.joined` writes it: no extras, no dots."""
    return notebook_files.join_run_path(install.destination, re.sub(r"\[.*\]$", "", word))


def _ask_for_file(path: str, words: str, collected: Collected) -> str:
    clone = _clone_holding(path, collected)
    step = f"clone '{notebook_files.fetched_name(clone)}'" if clone else words
    return f"{step} beside the notebook, and adopt again"


def _add_folder(
    folder: str, files: NotebookFiles, collected: Collected, lines: list[str], problems: list[str]
) -> None:
    """Take a folder that pip installs: a clone by its address, a package of the project as it is."""
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
    """Return the folder of the clone that a path leads into; "" for none."""
    return next((clone for clone in collected.clones if f"{path}/".startswith(f"{clone}/")), "")


def _decide_clone(
    need: ExternalNeed, files: NotebookFiles, collected: Collected, others: Sequence[ExternalNeed]
) -> Decision:
    folder = notebook_files.join_run_path("", need.destination)
    if literals.has_unknowns(need.target) or "*" in need.target:
        return leave_unresolved(need, "write its address out: what it is is known only when it runs")
    if not folder:
        collected.clones[folder] = need.target
        plain = shell.parse_clone(("git", "clone", need.target))
        return leave_unresolved(
            need,
            f"clone it into a folder of its own (`git clone {need.target} {plain.destination if plain else 'repository'}`), step"
            " into that with %cd, and adopt again",
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
        collected.laid_out[folder] = name  # lines step into it, and may run what lies in it
        collected.checkpoints |= {name: None} if name else {}
        note = (
            "installed from there; if cells read its files, clone it beside the notebook too, and adopt again"
        )
        return Decision(
            resolved=resolve_need(need, Resolution.REQUIREMENT, line, "" if name else note), switches_off=True
        )
    if not name:
        return leave_unresolved(
            need,
            f"run `git clone {f'-b {need.detail} ' if need.detail else ''}{need.target}"
            f" {notebook_files.fetched_name(folder)}` beside the notebook, and adopt again: it travels",
        )
    collected.laid_out[folder] = name
    if not any(hits[0].rglob("*.py")):
        collected.serve_file(notebook_files.fetched_name(folder), files.relative_name(hits[0]))
        return Decision(resolved=resolve_need(need, Resolution.CHECKPOINT, name), switches_off=True)
    collected.modules[name] = None
    return Decision(
        resolved=resolve_need(need, Resolution.MODULE, name, _describe_left_behind(hits[0], files)),
        switches_off=True,
    )


def _describe_left_behind(clone: Path, files: NotebookFiles) -> str:
    """Return what to do about trained files of a clone: modules bring code and its small companions alone."""
    shipped = set(code_files.list_module_files(clone))
    left = sorted(path for path in clone.rglob("*") if path.suffix in _TRAINED and path not in shipped)
    if not left:
        return ""
    suffix = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return (
        f"'{files.relative_name(left[0])}'{suffix} stays behind: if cells read it, name it in `checkpoints`"
    )


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
    return Decision(
        resolved=resolve_need(need, Resolution.CHECKPOINT, files.relative_name(hits[0])),
        switches_off=True,
        stand_in=stand_in,
    )


def _describe_download(address: str, name: str) -> str:
    """Return what a person has to do about a file that is downloaded and not here."""
    if "*" in name or literals.has_unknowns(name):
        return f"write its address out: what '{name}' is is known only when it runs"
    if "." not in name and ("drive.google.com" in address or "://" not in address) and name:
        name = ""
        extra = "; say in the line what it is called (`-O NAME`, `output=`)"
    else:
        extra = ""
    file_name = f"'{name}'" if name else "a file"
    return (
        f"download it to {file_name} beside the notebook{extra}, and adopt again: it travels as a checkpoint"
    )


def _decide_kaggle(need: ExternalNeed, collected: Collected) -> Decision:
    name = need.target.strip("/")
    parts = len(name.split("/"))
    expected_parts = {"competition": 1, "dataset": 2, "notebook": 2, "model": 5}[need.detail]
    if "*" in name or not name:
        return leave_unresolved(need, "write its name out, so that it can be attached")
    if need.detail == "model" and parts == 4:
        return leave_unresolved(
            need, f"pin its version, as in '{name}/1': offline, a model is attached at one version"
        )
    if parts > expected_parts and need.detail != "model":
        name = "/".join(name.split("/")[:expected_parts])  # a version, which cannot be attached
    elif parts != expected_parts:
        return leave_unresolved(need, f"'{name}' is no {need.detail} as Kaggle names them")
    collected.add_source(need.detail, name)
    if (
        need.stand_in or need.destination == "api"
    ):  # the client unpacks into the working folder, where nothing will be
        return leave_unresolved(
            need, f"it is attached now: read it below {notebook_files.INPUT}, and take this line out", name
        )
    group = f"{need.detail}s"
    path = f"{notebook_files.SHOWN_INPUT}/{group}/{name}{f'/{need.destination}' if need.destination else ''}"
    return Decision(
        resolved=resolve_need(need, Resolution.SOURCE, f"{need.detail} {name}"),
        switches_off=True,
        stand_in=f'"{path}"',
    )
