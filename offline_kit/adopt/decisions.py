"""Decide how each need is met: as a requirement, a checkpoint, an attached source, or by hand."""

import re
from collections.abc import Sequence
from pathlib import Path

from offline_kit.adopt import hub_decisions, notebook_files, shell
from offline_kit.adopt.findings import ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_code import has_unknowns
from offline_kit.adopt.notebook_files import InspectedNotebook, fetched_name, join_run_path
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
_SOURCE_PARTS = {"competition": 1, "dataset": 2, "notebook": 2, "model": 5}
"""How many parts the name of a source on Kaggle has."""
_UNKNOWN_URL = "write the URL as a constant: parts of '{}' are only known at run time"


def decide_need(
    need: ExternalNeed, notebook: InspectedNotebook, others: Sequence[ExternalNeed]
) -> ExternalNeed:
    """Return a need as decided, and add what it takes to the notebook's; `others` are all needs."""
    match need.kind:
        case NeedKind.INSTALL:
            return _decide_install(need, notebook)
        case NeedKind.CLONE:
            return _decide_clone(need, notebook, others)
        case NeedKind.DOWNLOAD:
            return _decide_download(need, notebook)
        case NeedKind.KAGGLE:
            return _decide_kaggle(need, notebook)
        case NeedKind.HUB:
            return hub_decisions.decide_hub(need, notebook)
        case NeedKind.PRETRAINED:
            return hub_decisions.decide_pretrained(need, notebook.code)
        case NeedKind.CORPUS:
            return hub_decisions.decide_corpus(need, notebook)
        case NeedKind.ACCOUNT:
            return _decide_account(need)
    if not need.detail:
        return need.ask("system packages cannot be installed offline: use a Python package, or do without")
    names = " and ".join(f"'{name}'" for name in need.detail.split())
    return need.ask(
        f"conda cannot install offline: add {names} to the requirements under its name on PyPI, and remove this line"
    )


def _decide_account(need: ExternalNeed) -> ExternalNeed:
    if need.detail == "colab":
        return need.ask("put its files next to the notebook, read them from there, and remove this line")
    is_secret = need.detail == "secret"
    reason = "secrets of the account cannot be asked for offline: empty"
    return need.meet(Outcome.SWITCHED_OFF, reason if is_secret else "no account is needed offline")


def _decide_install(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    install = shell.parse_pip_install(need.target)
    if install is None and need.detail == "uninstall":
        # It made way for what the next line installed; the kit's packages precede the image's on sys.path.
        value = "nothing is taken out: the kit's packages come before the image's"
        return need.meet(Outcome.SWITCHED_OFF, value)
    if install is None:
        return need.ask("add the packages to the requirements, and remove this line")
    if install.offline or (install.local and not (install.requirements or install.files or install.folders)):
        return need.resolve(Outcome.UNCHANGED, "installs from mounted files")
    if holes := [requirement for requirement in install.requirements if has_unknowns(requirement)]:
        return need.ask(f"write '{holes[0]}' as a constant: it is only known at run time")
    return _bundle_packages(need, install, notebook)


def _bundle_packages(
    need: ExternalNeed, install: shell.PipInstall, notebook: InspectedNotebook
) -> ExternalNeed:
    """Return the decision on a line whose packages go into the kit."""
    lines = [line for line in install.requirements if line.lower() not in _TOOLS]
    own_folders, problems = list[str](), _collect_files(need, install, notebook)
    for folder in install.folders:
        path = _run_path(need, folder)
        if clone := _clone_holding(path, notebook):
            below = path.removeprefix(clone).strip("/")
            lines.append(notebook.clones[clone] + (f"#subdirectory={below}" if below else ""))
            continue
        own_folders.append(folder)
        hits = notebook.find_beside(path) if path else notebook.base_folders
        if hits and any((hits[0] / file_name).is_file() for file_name in _PACKAGE_FILES):
            notebook.packages[notebook.relative_name(hits[0]) or "."] = None
        else:
            problems.append(f"put the source of '{path}' next to the notebook, and adopt again")
    if problems:
        return need.ask("; ".join(problems))
    bare = [redact_urls(line) for line in lines]
    notebook.requirements |= dict.fromkeys(bare)
    if lines or install.files:
        notebook.indexes |= dict.fromkeys(map(redact_urls, install.index))
    if not (lines or install.files or install.folders):
        return need.meet(Outcome.SWITCHED_OFF, "nothing is installed offline")
    remedy = ""
    if bare != lines:
        remedy = (
            "written without the credentials of its URL: put them into ~/.netrc, or use an environment variable in the"
            " requirements (https://${NAME}@...)"
        )
    elif len(own_folders) < len(install.folders) and any("[" in folder for folder in install.folders):
        remedy = (
            "its repository is required without extras: add the package with its extras to the requirements"
        )
    files = [f"-r {_run_path(need, file)}" for file in install.files]
    return need.meet(Outcome.REQUIREMENT, ", ".join([*bare, *files, *own_folders]), remedy)


def _collect_files(need: ExternalNeed, install: shell.PipInstall, notebook: InspectedNotebook) -> list[str]:
    """Collect the requirements files of a line; return what to do about missing ones."""
    problems = []
    for path in (_run_path(need, file) for file in install.files):
        if hits := notebook.find_beside(path):
            notebook.requirement_files[notebook.relative_name(hits[0])] = None
        else:
            clone = _clone_holding(path, notebook)
            step = f"clone '{fetched_name(clone)}'" if clone else f"put '{path}'"
            problems.append(f"{step} next to the notebook, and adopt again")
    return problems


def _run_path(install: ExternalNeed, word: str) -> str:
    """Return a path given to pip, without extras, relative to the working folder."""
    return join_run_path(install.destination, re.sub(r"\[.*\]$", "", word))


def _clone_holding(path: str, notebook: InspectedNotebook) -> str:
    """Return the folder of the clone that contains a path; "" for none."""
    return next((clone for clone in notebook.clones if f"{path}/".startswith(f"{clone}/")), "")


def _decide_clone(
    need: ExternalNeed, notebook: InspectedNotebook, others: Sequence[ExternalNeed]
) -> ExternalNeed:
    folder = join_run_path("", need.destination)
    if has_unknowns(need.target) or "*" in need.target:
        return need.ask(_UNKNOWN_URL.format(need.target))
    if not folder:
        notebook.clones[folder] = need.target
        plain = shell.parse_clone(("git", "clone", need.target))
        return need.ask(
            f"clone it into its own folder (`git clone {need.target} {plain[1] if plain else 'repository'}`),"
            " change into it with %cd, and adopt again"
        )
    hits = [hit for hit in notebook.find_beside(fetched_name(folder))[:1] if hit.is_dir()]
    name = notebook.relative_name(hits[0]) if hits else ""
    line = notebook.clones[folder] = shell.repository_requirement(need.target, need.detail)
    if any(other is not need and _installs_from(folder, other) for other in others):
        notebook.laid_out[folder] = name  # later lines may change into it and run its files
        notebook.checkpoints |= {name: None} if name else {}
        note = "installed from its repository; if cells read its files, clone it next to the notebook and adopt again"
        return need.meet(Outcome.REQUIREMENT, line, "" if name else note)
    if not hits:
        branch = f"-b {need.detail} " if need.detail else ""
        return need.ask(
            f"run `git clone {branch}{need.target} {fetched_name(folder)}` next to the notebook, and adopt again:"
            " it goes into the kit"
        )
    notebook.laid_out[folder] = name
    if not any(hits[0].rglob("*.py")):
        notebook.serve_file(fetched_name(folder), hits[0])
        return need.meet(Outcome.CHECKPOINT, name)
    notebook.modules[name] = None
    return need.meet(Outcome.MODULE, name, _describe_left_behind(hits[0], notebook))


def _describe_left_behind(clone: Path, notebook: InspectedNotebook) -> str:
    """Return what to do about trained files of a clone: modules only ship code and small data files."""
    shipped = set(code_files.list_module_files(clone))
    left = sorted(path for path in clone.rglob("*") if path.suffix in _TRAINED and path not in shipped)
    if not left:
        return ""
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return f"'{notebook.relative_name(left[0])}'{more} is not in the kit: if cells read it, add it to `checkpoints`"


def _installs_from(folder: str, other: ExternalNeed) -> bool:
    install = shell.parse_pip_install(other.target) if other.kind is NeedKind.INSTALL else None
    paths = [_run_path(other, path) for path in install.folders] if install else []
    return any(f"{path}/".startswith(f"{folder}/") for path in paths)


def _decide_download(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    target = join_run_path("", need.destination) if need.destination else ""
    name = fetched_name(target) or re.split(r"[?#]", need.target)[0].rpartition("/")[2]
    hits = notebook.find_beside(name) if name and "*" not in name else ()
    if hits and hits[0].is_file():
        notebook.serve_file(name, hits[0])
        file = notebook.relative_name(hits[0])
        if target:
            notebook.laid_out[target] = file
        stand_in = f'"{notebook_files.WORKING}/{name}"' if need.detail == "read" else ""
        return need.meet(Outcome.CHECKPOINT, file, stand_in=stand_in)
    if "*" in name or has_unknowns(name):
        return need.ask(_UNKNOWN_URL.format(name))
    how = ""
    if name and "." not in name and ("drive.google.com" in need.target or "://" not in need.target):
        name, how = (
            "",
            "; name the file in the line (`-O NAME`, `output=`)",
        )  # the name is an id of Google Drive
    file = f"'{name}'" if name else "a file"
    return need.ask(
        f"download it to {file} next to the notebook{how}, and adopt again: it becomes a checkpoint"
    )


def _decide_kaggle(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    name = need.target.strip("/")
    parts, expected = name.split("/"), _SOURCE_PARTS[need.detail]
    if "*" in name or not name:
        return need.ask("write its name as a constant, so that it can be attached")
    if need.detail == "model" and len(parts) == 4:
        return need.ask(f"pin its version, as in '{name}/1': Kaggle attaches one version of a model")
    if len(parts) > expected and need.detail != "model":
        name = "/".join(parts[:expected])  # Kaggle attaches the newest version of a dataset
    elif len(parts) != expected:
        return need.ask(f"'{name}' is not the name of a {need.detail} on Kaggle: fix it")
    notebook.add_source(need.detail, name)
    # Kaggle's client unpacks into the working folder, which stays empty offline
    if need.stand_in or need.destination == "api":
        return need.ask(
            f"it is attached now: read it below {notebook_files.INPUT}, and remove this line", name
        )
    file = f"/{need.destination}" if need.destination else ""
    path = f"{notebook_files.SHOWN_INPUT}/{need.detail}s/{name}{file}"
    return need.meet(Outcome.SOURCE, f"{need.detail} {name}", stand_in=f'"{path}"')
