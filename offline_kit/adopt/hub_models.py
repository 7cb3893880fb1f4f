"""What becomes of models, weights and data of libraries that a notebook fetches."""

import re
from pathlib import Path

from offline_kit.adopt import file_places, shell
from offline_kit.adopt.calls import NotebookCode
from offline_kit.adopt.file_places import NotebookFiles
from offline_kit.adopt.findings import ARGUMENT, ExternalNeed, Resolution
from offline_kit.adopt.outcomes import Collected, Decision, leave_unresolved, resolve_need, serve_file

_SPACY = "https://github.com/explosion/spacy-models/releases/download/{0}-{1}/{0}-{1}-py3-none-any.whl"
_PLAIN_TRANSFORMERS = re.compile(
    r"(albert|bert|camembert|distil(bert|gpt2|roberta)|gpt2|openai|roberta|t5|xlm|xlnet)(-|$)"
)
_SENTENCE_TUNED = re.compile(r"nli|stsb|msmarco|quora|paraphrase|multi-qa|-nq-")
"""Models that sentence-transformers takes from others: such names, unless they tell of tuning for sentences."""
_COLLECTIONS = frozenset({"all", "all-corpora", "all-nltk", "book", "popular", "tests", "third-party"})
"""What NLTK downloads many packages by."""


def decide_hub(wish: ExternalNeed, ground: NotebookFiles, basket: Collected) -> Decision:
    """Decide on what a hub calls by an id: a folder of it beside the notebook takes its place."""
    name = wish.target
    if wish.detail in ("from_pretrained", "sentence") and _is_local_path(name, ground):
        return Decision(resolved=resolve_need(wish, Resolution.UNCHANGED, name))
    if wish.detail == "preset":
        return _decide_preset(wish, ground, basket)
    if wish.detail == "call":
        return _decide_other(wish, ground)
    if wish.detail == ARGUMENT and (hits := ground.find_beside(name)):
        serve_file(name, hits[0], ground, basket)  # the command finds it there under this very name
        return Decision(resolved=resolve_need(wish, Resolution.CHECKPOINT, ground.relative_name(hits[0])))
    if wish.detail == "torch.hub":
        return leave_unresolved(
            wish, "clone the repository beside the notebook and load it with source='local'"
        )
    if copies := _find_copies_beside(wish, ground):
        return _serve_copy(wish, copies[0], ground, basket)
    folder, file = name.rpartition("/")[2].strip("*") or "model", _file_in_repository(wish)
    if "*" in name + file or shell.has_unknowns(name):
        unknown = name if "*" in name or shell.has_unknowns(name) else file
        return leave_unresolved(
            wish, f"write it out, or load from a folder: what '{unknown}' is is known only when it runs"
        )
    is_dataset = wish.detail.startswith("dataset ")
    words = ["hf download", _hub_id(wish), file, "--repo-type dataset" if is_dataset else ""]
    option = f"--local-dir {'data' if is_dataset else 'models'}/{folder}"
    name_it = ", name that folder in the command" if wish.detail == ARGUMENT and wish.start < 0 else ""
    return leave_unresolved(
        wish, f"run `{' '.join(filter(None, [*words, option]))}` here{name_it}, and adopt again: it travels"
    )


def _decide_preset(wish: ExternalNeed, ground: NotebookFiles, basket: Collected) -> Decision:
    """Decide on a preset of KerasHub: a folder, a Kaggle Model, a repository of the hub, or a name in its catalogue."""
    name = wish.target
    scheme, _, handle = name.rpartition("://")
    if not scheme and _is_local_path(name, ground):
        return Decision(resolved=resolve_need(wish, Resolution.UNCHANGED, name))
    if scheme == "kaggle" and len(handle.split("/")) == 5 and "*" not in handle:
        basket.add_source("model", handle)
        folder = f'"{file_places.SHOWN_INPUT}/models/{handle}"'
        return Decision(
            resolved=resolve_need(wish, Resolution.SOURCE, f"model {handle}"),
            switches_off=wish.start >= 0,
            stand_in=folder,
        )
    if scheme == "kaggle":
        return leave_unresolved(
            wish, f"pin its version, as in 'kaggle://{handle}/1': offline, a model is attached at one version"
        )
    if scheme == "hf":
        return leave_unresolved(
            wish,
            f"run `hf download {handle} --local-dir models/{handle.rpartition('/')[2]}` here, name that folder in the"
            " call, and adopt again: it travels",
        )
    return leave_unresolved(
        wish,
        f"name the Kaggle Model of '{name}' with its version (`kaggle://keras/MODEL/keras/{name}/VERSION`, from its page"
        " on Kaggle), and adopt again: it is attached",
    )


def _file_in_repository(wish: ExternalNeed) -> str:
    """Return the file of a repository that is wanted, "" for all of it."""
    return wish.detail.partition("file ")[2]


def _hub_id(wish: ExternalNeed) -> str:
    """Return what the hub calls a model; sentence-transformers leaves out its own name."""
    own = wish.detail == "sentence" and "/" not in wish.target
    plain = _PLAIN_TRANSFORMERS.match(wish.target) and not _SENTENCE_TUNED.search(wish.target)
    return f"sentence-transformers/{wish.target}" if own and not plain else wish.target


def _find_copies_beside(wish: ExternalNeed, ground: NotebookFiles) -> list[Path]:
    """Return the folders beside the notebook, or the files in them, that a hub would give."""
    name, file = wish.target, _file_in_repository(wish)
    copies: list[Path] = []
    for folder in filter(None, (wish.destination, name, name.replace("/", "--"), name.rpartition("/")[2])):
        for top in ("", "models/", "checkpoints/", "weights/", "data/", "datasets/"):
            path = f"{top}{folder}{'/' if file else ''}{file}"
            hits = ground.find_beside(path) if "*" not in path else ()
            copies += [hit for hit in hits[:1] if (hit.is_file() if file else hit.is_dir())]
    return copies if wish.start >= 0 else []


def _serve_copy(wish: ExternalNeed, there: Path, ground: NotebookFiles, basket: Collected) -> Decision:
    path = ground.relative_name(there)
    serve_file(path, there, ground, basket)
    if wish.destination:
        basket.laid_out[
            file_places.join_run_path("", f"{wish.destination}/{_file_in_repository(wish)}".rstrip("/"))
        ] = path
    inside = f"{file_places.WORKING}/{path}"
    stand_in = inside if wish.detail == ARGUMENT else f'"{inside}"'
    return Decision(
        resolved=resolve_need(wish, Resolution.CHECKPOINT, path),
        switches_off=True,
        stand_in=None if wish.detail.endswith("command") else stand_in,
    )


def _decide_other(wish: ExternalNeed, ground: NotebookFiles) -> Decision:
    """Decide on a call that fetches for itself; `into` is how it reads what is there."""
    if wish.target and "*" not in wish.target and ground.find_beside(wish.target):
        return Decision(resolved=resolve_need(wish, Resolution.UNCHANGED, wish.target))
    file = f" as '{wish.target}'" if re.fullmatch(r"[\w.-]+\.\w+", wish.target) else ""
    hint = f" ({wish.destination})" if wish.destination else ""
    return leave_unresolved(
        wish, f"put what it fetches beside the notebook{file}, read it from there{hint}, and adopt again"
    )


def _is_local_path(name: str, ground: NotebookFiles) -> bool:
    if file_places.MOUNT.match(name) or name.startswith(("/", "./", "../", "~")):
        return True
    return bool(ground.find_beside(name))  # told of where paths are looked at


def decide_pretrained(wish: ExternalNeed, code: NotebookCode) -> Decision:
    """Decide on an argument that fetches weights: off where a checkpoint surely replaces them."""
    write = wish.stand_in.lstrip(", ") if "=" in wish.stand_in else f"{wish.destination}={wish.stand_in}"
    loaded = wish.detail in code.strictly_loaded if wish.detail else bool(code.strictly_loaded)
    if loaded and wish.start >= 0:
        value = f"{write}: a checkpoint replaces the weights"
        return Decision(resolved=resolve_need(wish, Resolution.SWITCHED_OFF, value), switches_off=True)
    keras = "keras" in wish.target
    if wish.detail in code.loosely_loaded or (not wish.detail and code.loosely_loaded):
        loads = "load_weights(skip_mismatch=True)" if keras else "load_state_dict(strict=False)"
        return leave_unresolved(
            wish,
            f"`{loads}` may leave weights as they were built: see that no key is missing, then write {write}",
        )
    save = "model.save_weights('model.weights.h5')" if keras else "torch.save(model.state_dict(), ...)"
    return leave_unresolved(
        wish,
        f"the weights of '{wish.target}' are fetched: save them here ({save}), load them in the notebook, and write"
        f" {write}",
    )


def decide_corpus(wish: ExternalNeed, ground: NotebookFiles, basket: Collected) -> Decision:
    """Decide on data of NLTK, which travels as a folder, and on models of spaCy, which are packages."""
    if wish.detail.startswith("spacy"):
        if wish.detail == "spacy.load" and not _is_missing_model(wish.target, ground, basket):
            return Decision(resolved=resolve_need(wish, Resolution.UNCHANGED, f"'{wish.target}' is there"))
        if re.fullmatch(r"[a-z]{2}_\w+", wish.target) and (version := ground.image.public_version("spacy")):
            series = ".".join(version.split(".")[:2])
            line = f"{wish.target} @ {_SPACY.format(wish.target, series + '.0')}"
            basket.requirements[line] = None
            return Decision(
                resolved=resolve_need(wish, Resolution.REQUIREMENT, line), switches_off=wish.detail == "spacy"
            )
        return leave_unresolved(
            wish, "name the wheel of the model in the requirements: its address stands on its release page"
        )
    hits = ground.find_beside("nltk_data")
    names = [package for package in wish.target.split() if package not in _COLLECTIONS and "*" not in package]
    missing = [package for package in names if not (hits and _has_corpus(hits[0], package))]
    if not hits or missing:
        packages = " ".join(missing or wish.target.split()) or "..."
        return leave_unresolved(
            wish,
            f"run `python -m nltk.downloader -d nltk_data {packages}` beside the notebook, and adopt again: it travels",
        )
    serve_file("nltk_data", hits[0], ground, basket)
    return Decision(
        resolved=resolve_need(wish, Resolution.CHECKPOINT, ground.relative_name(hits[0])), switches_off=True
    )


def _has_corpus(data: Path, name: str) -> bool:
    """Whether a folder of NLTK's data has a package, zipped or not."""
    return any(data.glob(f"*/{name}")) or any(data.glob(f"*/{name}.zip"))


def _is_missing_model(model: str, ground: NotebookFiles, basket: Collected) -> bool:
    """Whether a model of spaCy's comes from nowhere: neither image nor requirements, and no folder."""
    name = model.replace("_", "-")
    if not re.fullmatch(r"[a-z]{2,3}_\w+_(sm|md|lg|trf)", model) or name in ground.image.packages:
        return False
    return not any(
        re.match(rf"{model}|{name}", line) for line in basket.requirements
    ) and not ground.find_beside(model)
