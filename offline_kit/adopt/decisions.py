"""Decide how each need is met: as a requirement, a checkpoint, an attached source, by a recording or by hand."""

import re
import shlex

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_code import has_unknowns
from offline_kit.adopt.notebook_files import (
    INPUT,
    MOUNT,
    SHOWN_INPUT,
    SOURCE_PARTS,
    InspectedNotebook,
    join_run_path,
)
from offline_kit.core.redaction import redact_urls

_PACKAGE_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_TOOLS = ("pip", "uv", "wheel")  # installers, which nothing needs offline
_SPACY_MODEL = re.compile(r"[a-z]{2,3}_\w+_(sm|md|lg|trf)")


def decide_need(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    """Return a need as decided, and add what it takes to the notebook's."""
    match need.kind:
        case NeedKind.INSTALL:
            return _decide_install(need, notebook)
        case NeedKind.CLONE | NeedKind.DOWNLOAD:
            return need.ask_to_record("put what it fetches next to the notebook, and remove this line")
        case NeedKind.KAGGLE:
            return _decide_kaggle(need, notebook)
        case NeedKind.HUB | NeedKind.PRETRAINED | NeedKind.CORPUS:
            return _decide_model(need, notebook)
        case NeedKind.ACCOUNT if need.detail == "colab":
            return need.ask("put its files next to the notebook, read them from there, and remove this line")
        case NeedKind.ACCOUNT if need.detail == "secret":
            return need.resolve(Outcome.UNCHANGED, "secrets cannot be asked for offline: they are empty")
        case NeedKind.ACCOUNT:
            return need.meet(Outcome.SWITCHED_OFF, "no account is needed offline")
    if need.detail in ("conda", "mamba"):
        return need.ask("conda cannot install offline: install the packages with pip, by their names on PyPI")
    return need.ask("system packages cannot be installed offline: use a Python package, or do without")


def _decide_model(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    """Decide on what a hub or a library's own server has: only a folder of the run, or a package, makes it needless."""
    name, is_here = need.target, False
    if need.detail == "path":
        is_path = MOUNT.match(name) or name.startswith(("/", "./", "../", "~"))
        is_here = bool(is_path or notebook.find_beside(name))
    elif need.detail.startswith("spacy"):
        lines = (*notebook.image.packages, *notebook.requirements)
        is_installed = name and any(line.startswith((name, name.replace("_", "-"))) for line in lines)
        if is_installed and need.detail == "spacy":
            return need.meet(Outcome.SWITCHED_OFF, f"'{name}' is installed")
        is_own = not _SPACY_MODEL.fullmatch(name) or notebook.find_beside(name)
        is_here = bool(is_installed or (need.detail == "spacy.load" and is_own))
    return need.resolve(Outcome.UNCHANGED, name) if is_here else need.ask_to_record()


def _decide_install(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    install = shell.parse_pip(shlex.split(need.target))
    if install and install.verb == "uninstall":
        # It made way for what the next line installed; the kit's packages precede the image's on sys.path.
        value = "nothing is taken out: the kit's packages come before the image's"
        return need.meet(Outcome.SWITCHED_OFF, value)
    if install is None or install.verb != "install" or any(map(has_unknowns, install.requirements)):
        return need.ask_to_record("write its packages as constants")
    if install.offline or (install.local and not (install.requirements or install.files or install.folders)):
        return need.resolve(Outcome.UNCHANGED, "installs from mounted files")
    return _bundle_packages(need, install, notebook)


def _bundle_packages(
    need: ExternalNeed, install: shell.PipInstall, notebook: InspectedNotebook
) -> ExternalNeed:
    """Return the decision on a line whose packages go into the kit."""
    lines = [line for line in install.requirements if line.lower() not in _TOOLS]
    own, missing = _collect_local(need, install, notebook)
    if missing:
        paths = " and ".join(f"'{path}'" for path in dict.fromkeys(missing))
        return need.ask_to_record(f"put {paths} next to the notebook and adopt again")
    bare = [redact_urls(line) for line in lines]
    notebook.requirements |= dict.fromkeys(bare)
    if lines or install.files:
        notebook.indexes |= dict.fromkeys(map(redact_urls, install.index))
    if not (lines or own):
        return need.meet(Outcome.SWITCHED_OFF, "nothing is installed offline")
    remedy = (
        "written without the credentials of its URL: put them into ~/.netrc, or use an environment variable in the"
        " requirements (https://${NAME}@...)"
    )
    return need.meet(Outcome.REQUIREMENT, ", ".join([*bare, *own]), remedy if bare != lines else "")


def _collect_local(
    need: ExternalNeed, install: shell.PipInstall, notebook: InspectedNotebook
) -> tuple[list[str], list[str]]:
    """Collect the project's requirements files and packages that a line installs; return them, and what is missing."""
    own, missing = list[str](), list[str]()
    for path in (_run_path(need, file) for file in install.files):
        own.append(f"-r {path}")
        if hits := notebook.find_beside(path):
            notebook.requirement_files[notebook.relative_name(hits[0])] = None
        else:
            missing.append(path)
    for path in (_run_path(need, folder) for folder in install.folders):
        hits = notebook.find_beside(path) if path else notebook.base_folders
        if hits and any((hits[0] / file_name).is_file() for file_name in _PACKAGE_FILES):
            notebook.packages[notebook.relative_name(hits[0]) or "."] = None
            own.append(path)
        else:
            missing.append(path)
    return own, missing


def _run_path(install: ExternalNeed, word: str) -> str:
    """Return a path given to pip, without extras, relative to the working folder."""
    return join_run_path(install.folder, re.sub(r"\[.*\]$", "", word))


def _decide_kaggle(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    name = need.target.strip("/")
    parts, expected = name.split("/"), SOURCE_PARTS[need.detail]
    if "*" in name or not name:
        return need.ask_to_record("write its name as a constant, so that it can be attached")
    if need.detail == "model" and len(parts) == 4:
        return need.ask(f"pin its version, as in '{name}/1': Kaggle attaches one version of a model")
    if len(parts) > expected and need.detail != "model":
        name = "/".join(parts[:expected])  # Kaggle attaches the newest version of a dataset
    elif len(parts) != expected:
        return need.ask(f"'{name}' is not the name of a {need.detail} on Kaggle: fix it")
    notebook.sources = notebook.sources.add(need.detail, name)
    # Kaggle's client unpacks into the working folder, which stays empty offline
    if need.stand_in or need.destination == "api":
        return need.ask(f"it is attached now: read it below {INPUT}, and remove this line", name)
    file = f"/{need.destination}" if need.destination else ""
    path = f"{SHOWN_INPUT}/{need.detail}s/{name}{file}"
    return need.meet(Outcome.SOURCE, f"{need.detail} {name}", stand_in=f'"{path}"')
