"""Decide how models, pretrained weights and corpora that a notebook downloads are met."""

import re
from pathlib import Path

from offline_kit.adopt.findings import ARGUMENT, ExternalNeed, Outcome
from offline_kit.adopt.notebook_code import NotebookCode, has_unknowns
from offline_kit.adopt.notebook_files import MOUNT, SHOWN_INPUT, WORKING, InspectedNotebook, join_run_path

_SPACY = "https://github.com/explosion/spacy-models/releases/download/{0}-{1}/{0}-{1}-py3-none-any.whl"
_PLAIN_TRANSFORMERS = re.compile(
    r"(albert|bert|camembert|distil(bert|gpt2|roberta)|gpt2|openai|roberta|t5|xlm|xlnet)(-|$)"
)
_SENTENCE_TUNED = re.compile(r"nli|stsb|msmarco|quora|paraphrase|multi-qa|-nq-")
"""Marks of models tuned for sentences; the other names above are plain models of other owners."""
# https://www.nltk.org/data.html
_COLLECTIONS = frozenset({"all", "all-corpora", "all-nltk", "book", "popular", "tests", "third-party"})
"""Collections of NLTK, which download many packages."""


def decide_hub(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
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


def decide_pretrained(need: ExternalNeed, code: NotebookCode) -> ExternalNeed:
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


def decide_corpus(need: ExternalNeed, notebook: InspectedNotebook) -> ExternalNeed:
    """Decide on data of NLTK, which is shipped as a folder, and on models of spaCy, which are packages."""
    if need.detail.startswith("spacy"):
        return _decide_spacy_model(need, notebook)
    hits = notebook.find_beside("nltk_data")
    names = [package for package in need.target.split() if package not in _COLLECTIONS and "*" not in package]
    # its packages are unpacked or zipped
    missing = [
        package
        for package in names
        if not (hits and (any(hits[0].glob(f"*/{package}")) or any(hits[0].glob(f"*/{package}.zip"))))
    ]
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
