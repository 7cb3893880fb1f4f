"""Decide how each need is met: as a requirement, a checkpoint, an attached source, or by hand."""

import re
from pathlib import Path

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ARGUMENT, ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_code import NotebookCode, has_unknowns
from offline_kit.adopt.notebook_files import (
    INPUT,
    MOUNT,
    SHOWN_INPUT,
    WORKING,
    InspectedNotebook,
    fetched_name,
    join_run_path,
)
from offline_kit.core.redaction import redact_urls
from offline_kit.packages import code_files

_PACKAGE_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_TOOLS = frozenset({"pip", "uv", "wheel"})  # installers, which nothing needs offline
_TRAINED = frozenset(
    {".bin", ".ckpt", ".h5", ".joblib", ".keras", ".npy", ".npz"}
    | {".onnx", ".pkl", ".pt", ".pth", ".safetensors"}
)
"""Suffixes of trained files."""
_SOURCE_PARTS = {"competition": 1, "dataset": 2, "notebook": 2, "model": 5}
"""How many parts the name of a source on Kaggle has."""
_UNKNOWN_URL = "write the URL as a constant: parts of '{}' are only known at run time"
_SPACY = "https://github.com/explosion/spacy-models/releases/download/{0}-{1}/{0}-{1}-py3-none-any.whl"
_PLAIN_TRANSFORMERS = re.compile(
    r"(albert|bert|camembert|distil(bert|gpt2|roberta)|gpt2|openai|roberta|t5|xlm|xlnet)(-|$)"
)
_SENTENCE_TUNED = re.compile(r"nli|stsb|msmarco|quora|paraphrase|multi-qa|-nq-")
"""Marks of models tuned for sentences; the other names above are plain models of other owners."""
# https://www.nltk.org/data.html
_COLLECTIONS = frozenset({"all", "all-corpora", "all-nltk", "book", "popular", "tests", "third-party"})
"""Collections of NLTK, which download many packages."""


def decide_need(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    """Return a need as decided, and add what it takes to the notebook's."""
    match need.kind:
        case NeedKind.INSTALL:
            return _decide_install(need, notebook)
        case NeedKind.CLONE:
            return _decide_clone(need, notebook)
        case NeedKind.DOWNLOAD:
            return _decide_download(need, notebook)
        case NeedKind.KAGGLE:
            return _decide_kaggle(need, notebook)
        case NeedKind.HUB:
            return _decide_hub(need, notebook)
        case NeedKind.PRETRAINED:
            return _decide_pretrained(need, notebook.code)
        case NeedKind.CORPUS:
            return _decide_corpus(need, notebook)
        case NeedKind.ACCOUNT:
            if need.detail == "colab":
                return need.ask(
                    "put its files next to the notebook, read them from there, and remove this line"
                )
            empty = "secrets of the account cannot be asked for offline: empty"
            value = empty if need.detail == "secret" else "no account is needed offline"
            return need.meet(Outcome.SWITCHED_OFF, value)
    names = " and ".join(f"'{name}'" for name in need.detail.split())
    add = f"add {names} to the requirements under its name on PyPI, and remove this line"
    system = "system packages cannot be installed offline: use a Python package, or do without"
    return need.ask(f"conda cannot install offline: {add}" if names else system)


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


def _decide_clone(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
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
    if any(_installs_from(folder, other) for other in notebook.needs):
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
        stand_in = f'"{WORKING}/{name}"' if need.detail == "read" else ""
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
        return need.ask(f"it is attached now: read it below {INPUT}, and remove this line", name)
    file = f"/{need.destination}" if need.destination else ""
    path = f"{SHOWN_INPUT}/{need.detail}s/{name}{file}"
    return need.meet(Outcome.SOURCE, f"{need.detail} {name}", stand_in=f'"{path}"')


def _decide_hub(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    """Decide on an id of a hub: a local copy replaces it."""
    name = need.target
    hits = notebook.find_beside(name)
    is_path = bool(MOUNT.match(name) or name.startswith(("/", "./", "../", "~")) or hits)
    if need.detail in ("from_pretrained", "sentence", "preset") and is_path:
        return need.resolve(Outcome.UNCHANGED, name)
    if need.detail == "preset":
        return _decide_preset(need, notebook)
    if need.detail == "call":
        return _decide_other(need, notebook)
    if need.detail == ARGUMENT and hits:
        notebook.serve_file(name, hits[0])
        return need.resolve(Outcome.CHECKPOINT, notebook.relative_name(hits[0]))
    if need.detail == "torch.hub":
        return need.ask("clone the repository next to the notebook and load it with source='local'")
    file = need.detail.partition("file ")[2]
    if copy := _find_copy_beside(need, file, notebook):
        path = notebook.relative_name(copy)
        notebook.serve_file(path, copy)
        if need.destination:
            notebook.laid_out[join_run_path("", f"{need.destination}/{file}".rstrip("/"))] = path
        inside = f"{WORKING}/{path}"
        stand_in = inside if need.detail == ARGUMENT else f'"{inside}"'
        is_command = need.detail.endswith("command")
        return need.meet(Outcome.CHECKPOINT, path, stand_in="" if is_command else stand_in)
    folder = name.rpartition("/")[2].strip("*") or "model"
    if "*" in name + file or has_unknowns(name):
        unknown = name if "*" in name or has_unknowns(name) else file
        return need.ask(
            f"write '{unknown}' as a constant, or load from a folder: it is only known at run time"
        )
    # sentence-transformers accepts its own models without the owner
    is_own = need.detail == "sentence" and "/" not in name
    is_plain = _PLAIN_TRANSFORMERS.match(name) and not _SENTENCE_TUNED.search(name)
    hub_id = f"sentence-transformers/{name}" if is_own and not is_plain else name
    is_dataset = need.detail.startswith("dataset ")
    words = ["hf download", hub_id, file, "--repo-type dataset" if is_dataset else ""]
    words.append(f"--local-dir {'data' if is_dataset else 'models'}/{folder}")
    use = ", use that folder in the command" if need.detail == ARGUMENT and not need.span else ""
    return need.ask(f"run `{' '.join(filter(None, words))}` here{use}, and adopt again: it goes into the kit")


def _decide_preset(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    """Decide on a preset of KerasHub: a Kaggle Model, a repository of a hub, or a name."""
    name = need.target
    scheme, _, handle = name.rpartition("://")
    if scheme == "kaggle" and len(handle.split("/")) == 5 and "*" not in handle:
        notebook.add_source("model", handle)
        if not need.span:
            return need.resolve(Outcome.SOURCE, f"model {handle}")
        return need.meet(Outcome.SOURCE, f"model {handle}", stand_in=f'"{SHOWN_INPUT}/models/{handle}"')
    if scheme == "kaggle":
        return need.ask(
            f"pin its version, as in 'kaggle://{handle}/1': Kaggle attaches one version of a model"
        )
    if scheme == "hf":
        return need.ask(
            f"run `hf download {handle} --local-dir models/{handle.rpartition('/')[2]}` here, use that folder in the"
            " call, and adopt again: it goes into the kit"
        )
    return need.ask(
        f"write '{name}' as its Kaggle Model with the version (`kaggle://keras/MODEL/keras/{name}/VERSION`, see its page"
        " on Kaggle), and adopt again: it is attached"
    )


def _find_copy_beside(need: ExternalNeed, file: str, notebook: InspectedNotebook) -> Path | None:
    """Return a local copy of what the hub would return: a folder, or the file in it."""
    name = need.target
    folders = (need.destination, name, name.replace("/", "--"), name.rpartition("/")[2])
    tops = ("", "models/", "checkpoints/", "weights/", "data/", "datasets/")
    paths = [f"{top}{folder}{'/' if file else ''}{file}" for folder in folders if folder for top in tops]
    for path in paths if need.span else ():
        hits = notebook.find_beside(path) if "*" not in path else ()
        if hits and (hits[0].is_file() if file else hits[0].is_dir()):
            return hits[0]
    return None


def _decide_other(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    """Decide on any other download; the destination says how the call reads a local copy."""
    if need.target and "*" not in need.target and notebook.find_beside(need.target):
        return need.resolve(Outcome.UNCHANGED, need.target)
    file = f" as '{need.target}'" if re.fullmatch(r"[\w.-]+\.\w+", need.target) else ""
    how = f" ({need.destination})" if need.destination else ""
    return need.ask(
        f"put what it downloads next to the notebook{file}, read it from there{how}, and adopt again"
    )


def _decide_pretrained(need: ExternalNeed, code: NotebookCode) -> ExternalNeed:
    """Decide on an argument that downloads pretrained weights: off if a checkpoint replaces all of them."""
    write = need.stand_in.lstrip(", ") if "=" in need.stand_in else f"{need.destination}={need.stand_in}"
    model, keras = need.detail, "keras" in need.target
    if need.span and (model in code.strictly_loaded if model else code.strictly_loaded):
        return need.meet(Outcome.SWITCHED_OFF, f"{write}: a checkpoint replaces the weights")
    if model in code.loosely_loaded or (not model and code.loosely_loaded):
        loads = "load_weights(skip_mismatch=True)" if keras else "load_state_dict(strict=False)"
        return need.ask(
            f"`{loads}` may leave weights uninitialised: check that no key is missing, then write {write}"
        )
    save = "model.save_weights('model.weights.h5')" if keras else "torch.save(model.state_dict(), ...)"
    return need.ask(
        f"the weights of '{need.target}' are downloaded: save them ({save}), load them in the notebook, and write {write}"
    )


def _decide_corpus(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    """Decide on data of NLTK, which is shipped as a folder, and on models of spaCy, which are packages."""
    if need.detail.startswith("spacy"):
        return _decide_spacy_model(need, notebook)
    hits = notebook.find_beside("nltk_data")
    names = [package for package in need.target.split() if package not in _COLLECTIONS and "*" not in package]
    # its packages are unpacked or zipped
    present = {path.name.removesuffix(".zip") for hit in hits[:1] for path in hit.glob("*/*")}
    missing = [package for package in names if package not in present]
    if not hits or missing:
        packages = " ".join(missing or need.target.split()) or "..."
        return need.ask(
            f"run `python -m nltk.downloader -d nltk_data {packages}` next to the notebook, and adopt again: it goes into the kit"
        )
    notebook.serve_file("nltk_data", hits[0])
    return need.meet(Outcome.CHECKPOINT, notebook.relative_name(hits[0]))


def _decide_spacy_model(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    model, packages = need.target, notebook.image.packages
    name = model.replace("_", "-")
    if need.detail == "spacy.load" and (
        not re.fullmatch(r"[a-z]{2,3}_\w+_(sm|md|lg|trf)", model)
        or name in packages
        or any(re.match(rf"{model}|{name}", line) for line in notebook.requirements)
        or notebook.find_beside(model)
    ):
        return need.resolve(Outcome.UNCHANGED, f"'{model}' is installed")
    if re.fullmatch(r"[a-z]{2}_\w+", model) and (version := notebook.image.public_version("spacy")):
        # models are released for a minor version of spaCy: https://spacy.io/usage/models#model-versioning
        series = ".".join(version.split(".")[:2])
        line = f"{model} @ {_SPACY.format(model, series + '.0')}"
        notebook.requirements[line] = None
        if need.detail == "spacy.load":
            return need.resolve(Outcome.REQUIREMENT, line)
        return need.meet(Outcome.REQUIREMENT, line)
    return need.ask("add the model's wheel to the requirements, by the URL on its release page")
