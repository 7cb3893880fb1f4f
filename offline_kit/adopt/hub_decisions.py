"""Decide how models, pretrained weights and corpora that a notebook downloads are met."""

import re
from pathlib import Path

from offline_kit.adopt import literals, notebook_files
from offline_kit.adopt.findings import (
    ARGUMENT,
    Collected,
    Decision,
    ExternalNeed,
    FindingResolution,
    leave_unresolved,
    meet_need,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import NotebookFiles

_SPACY = "https://github.com/explosion/spacy-models/releases/download/{0}-{1}/{0}-{1}-py3-none-any.whl"
_PLAIN_TRANSFORMERS = re.compile(
    r"(albert|bert|camembert|distil(bert|gpt2|roberta)|gpt2|openai|roberta|t5|xlm|xlnet)(-|$)"
)
_SENTENCE_TUNED = re.compile(r"nli|stsb|msmarco|quora|paraphrase|multi-qa|-nq-")
"""Marks of models tuned for sentences; the other names above are plain models of other owners."""
_COLLECTIONS = frozenset({"all", "all-corpora", "all-nltk", "book", "popular", "tests", "third-party"})
"""Collections of NLTK, which download many packages."""


def decide_hub(need: ExternalNeed, files: NotebookFiles, collected: Collected) -> Decision:
    """Decide on an id of a hub: a local copy replaces it."""
    name = need.target
    if need.detail in ("from_pretrained", "sentence") and _is_local_path(name, files):
        return meet_need(need, FindingResolution.UNCHANGED, name, switches_off=False)
    if need.detail == "preset":
        return _decide_preset(need, files, collected)
    if need.detail == "call":
        return _decide_other(need, files)
    if need.detail == ARGUMENT and (hits := files.find_beside(name)):
        collected.serve_file(name, files.relative_name(hits[0]))
        return meet_need(need, FindingResolution.CHECKPOINT, files.relative_name(hits[0]), switches_off=False)
    if need.detail == "torch.hub":
        return leave_unresolved(
            need, "clone the repository next to the notebook and load it with source='local'"
        )
    if copies := _find_copies_beside(need, files):
        return _serve_copy(need, copies[0], files, collected)
    folder, file = name.rpartition("/")[2].strip("*") or "model", _file_in_repository(need)
    if "*" in name + file or literals.has_unknowns(name):
        unknown = name if "*" in name or literals.has_unknowns(name) else file
        return leave_unresolved(
            need, f"write '{unknown}' as a constant, or load from a folder: it is only known at run time"
        )
    is_dataset = need.detail.startswith("dataset ")
    words = ["hf download", _hub_id(need), file, "--repo-type dataset" if is_dataset else ""]
    option = f"--local-dir {'data' if is_dataset else 'models'}/{folder}"
    name_it = ", use that folder in the command" if need.detail == ARGUMENT and need.start < 0 else ""
    return leave_unresolved(
        need,
        f"run `{' '.join(filter(None, [*words, option]))}` here{name_it}, and adopt again: it goes into the kit",
    )


def _decide_preset(need: ExternalNeed, files: NotebookFiles, collected: Collected) -> Decision:
    """Decide on a preset of KerasHub: a folder, a Kaggle Model, a repository of a hub, or a name."""
    name = need.target
    scheme, _, handle = name.rpartition("://")
    if not scheme and _is_local_path(name, files):
        return meet_need(need, FindingResolution.UNCHANGED, name, switches_off=False)
    if scheme == "kaggle" and len(handle.split("/")) == 5 and "*" not in handle:
        collected.add_source("model", handle)
        folder = f'"{notebook_files.SHOWN_INPUT}/models/{handle}"'
        return meet_need(
            need, FindingResolution.SOURCE, f"model {handle}", switches_off=need.start >= 0, stand_in=folder
        )
    if scheme == "kaggle":
        return leave_unresolved(
            need, f"pin its version, as in 'kaggle://{handle}/1': Kaggle attaches one version of a model"
        )
    if scheme == "hf":
        return leave_unresolved(
            need,
            f"run `hf download {handle} --local-dir models/{handle.rpartition('/')[2]}` here, use that folder in the"
            " call, and adopt again: it goes into the kit",
        )
    return leave_unresolved(
        need,
        f"write '{name}' as its Kaggle Model with the version (`kaggle://keras/MODEL/keras/{name}/VERSION`, see its page"
        " on Kaggle), and adopt again: it is attached",
    )


def _file_in_repository(need: ExternalNeed) -> str:
    """Return the file of the repository to download, "" for all of it."""
    return need.detail.partition("file ")[2]


def _hub_id(need: ExternalNeed) -> str:
    """Return a model's id on the hub; sentence-transformers accepts its own models without the owner."""
    own = need.detail == "sentence" and "/" not in need.target
    plain = _PLAIN_TRANSFORMERS.match(need.target) and not _SENTENCE_TUNED.search(need.target)
    return f"sentence-transformers/{need.target}" if own and not plain else need.target


def _find_copies_beside(need: ExternalNeed, files: NotebookFiles) -> list[Path]:
    """Return local copies of what the hub would return: folders, or the file in them."""
    name, file = need.target, _file_in_repository(need)
    copies: list[Path] = []
    for folder in filter(None, (need.destination, name, name.replace("/", "--"), name.rpartition("/")[2])):
        for top in ("", "models/", "checkpoints/", "weights/", "data/", "datasets/"):
            path = f"{top}{folder}{'/' if file else ''}{file}"
            hits = files.find_beside(path) if "*" not in path else ()
            copies += [hit for hit in hits[:1] if (hit.is_file() if file else hit.is_dir())]
    return copies if need.start >= 0 else []


def _serve_copy(need: ExternalNeed, copy: Path, files: NotebookFiles, collected: Collected) -> Decision:
    path = files.relative_name(copy)
    collected.serve_file(path, path)
    if need.destination:
        collected.laid_out[
            notebook_files.join_run_path("", f"{need.destination}/{_file_in_repository(need)}".rstrip("/"))
        ] = path
    inside = f"{notebook_files.WORKING}/{path}"
    stand_in = inside if need.detail == ARGUMENT else f'"{inside}"'
    return meet_need(
        need,
        FindingResolution.CHECKPOINT,
        path,
        stand_in=None if need.detail.endswith("command") else stand_in,
    )


def _decide_other(need: ExternalNeed, files: NotebookFiles) -> Decision:
    """Decide on any other download; the destination says how the call reads a local copy."""
    if need.target and "*" not in need.target and files.find_beside(need.target):
        return meet_need(need, FindingResolution.UNCHANGED, need.target, switches_off=False)
    file = f" as '{need.target}'" if re.fullmatch(r"[\w.-]+\.\w+", need.target) else ""
    hint = f" ({need.destination})" if need.destination else ""
    return leave_unresolved(
        need, f"put what it downloads next to the notebook{file}, read it from there{hint}, and adopt again"
    )


def _is_local_path(name: str, files: NotebookFiles) -> bool:
    if notebook_files.MOUNT.match(name) or name.startswith(("/", "./", "../", "~")):
        return True
    return bool(files.find_beside(name))


def decide_pretrained(need: ExternalNeed, code: NotebookCode) -> Decision:
    """Decide on an argument that downloads pretrained weights: off if a checkpoint replaces all of them."""
    write = need.stand_in.lstrip(", ") if "=" in need.stand_in else f"{need.destination}={need.stand_in}"
    loaded = need.detail in code.strictly_loaded if need.detail else bool(code.strictly_loaded)
    if loaded and need.start >= 0:
        value = f"{write}: a checkpoint replaces the weights"
        return meet_need(need, FindingResolution.SWITCHED_OFF, value)
    keras = "keras" in need.target
    if need.detail in code.loosely_loaded or (not need.detail and code.loosely_loaded):
        loads = "load_weights(skip_mismatch=True)" if keras else "load_state_dict(strict=False)"
        return leave_unresolved(
            need,
            f"`{loads}` may leave weights uninitialised: check that no key is missing, then write {write}",
        )
    save = "model.save_weights('model.weights.h5')" if keras else "torch.save(model.state_dict(), ...)"
    return leave_unresolved(
        need,
        f"the weights of '{need.target}' are downloaded: save them ({save}), load them in the notebook, and write"
        f" {write}",
    )


def decide_corpus(need: ExternalNeed, files: NotebookFiles, collected: Collected) -> Decision:
    """Decide on data of NLTK, which is shipped as a folder, and on models of spaCy, which are packages."""
    if need.detail.startswith("spacy"):
        if need.detail == "spacy.load" and not _is_missing_model(need.target, files, collected):
            return meet_need(
                need, FindingResolution.UNCHANGED, f"'{need.target}' is installed", switches_off=False
            )
        if re.fullmatch(r"[a-z]{2}_\w+", need.target) and (version := files.image.public_version("spacy")):
            # models are released for a minor version of spaCy: https://spacy.io/usage/models#model-versioning
            series = ".".join(version.split(".")[:2])
            line = f"{need.target} @ {_SPACY.format(need.target, series + '.0')}"
            collected.requirements[line] = None
            return meet_need(need, FindingResolution.REQUIREMENT, line, switches_off=need.detail == "spacy")
        return leave_unresolved(
            need, "add the model's wheel to the requirements, by the URL on its release page"
        )
    hits = files.find_beside("nltk_data")
    # https://www.nltk.org/data.html
    names = [package for package in need.target.split() if package not in _COLLECTIONS and "*" not in package]
    missing = [package for package in names if not (hits and _has_corpus(hits[0], package))]
    if not hits or missing:
        packages = " ".join(missing or need.target.split()) or "..."
        return leave_unresolved(
            need,
            f"run `python -m nltk.downloader -d nltk_data {packages}` next to the notebook, and adopt again: it goes into the kit",
        )
    collected.serve_file("nltk_data", files.relative_name(hits[0]))
    return meet_need(need, FindingResolution.CHECKPOINT, files.relative_name(hits[0]))


def _has_corpus(data: Path, name: str) -> bool:
    """Whether a data folder of NLTK has a package, zipped or not."""
    return any(data.glob(f"*/{name}")) or any(data.glob(f"*/{name}.zip"))


def _is_missing_model(model: str, files: NotebookFiles, collected: Collected) -> bool:
    """Whether a model of spaCy is neither in the image nor required, and no folder either."""
    name = model.replace("_", "-")
    if not re.fullmatch(r"[a-z]{2,3}_\w+_(sm|md|lg|trf)", model) or name in files.image.packages:
        return False
    return not any(
        re.match(rf"{model}|{name}", line) for line in collected.requirements
    ) and not files.find_beside(model)
