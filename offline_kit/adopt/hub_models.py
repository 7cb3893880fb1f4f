"""What becomes of models, weights and data of libraries that a notebook fetches."""

import re
from pathlib import Path

from offline_kit.adopt import file_places, shell
from offline_kit.adopt.calls import Code
from offline_kit.adopt.file_places import Ground
from offline_kit.adopt.findings import ARGUMENT, Became, Wish
from offline_kit.adopt.outcomes import Basket, Verdict, asked, found_of, serve

_SPACY = "https://github.com/explosion/spacy-models/releases/download/{0}-{1}/{0}-{1}-py3-none-any.whl"
_PLAIN = re.compile(
    r"(albert|bert|camembert|distil(bert|gpt2|roberta)|gpt2|openai|roberta|t5|xlm|xlnet)(-|$)"
)
_TUNED = re.compile(r"nli|stsb|msmarco|quora|paraphrase|multi-qa|-nq-")
"""Models that sentence-transformers takes from others: such names, unless they tell of tuning for sentences."""
_COLLECTIONS = frozenset({"all", "all-corpora", "all-nltk", "book", "popular", "tests", "third-party"})
"""What NLTK downloads many packages by."""


def hub(wish: Wish, ground: Ground, basket: Basket) -> Verdict:
    """Decide on what a hub calls by an id: a folder of it beside the notebook takes its place."""
    name = wish.target
    if wish.detail in ("from_pretrained", "sentence") and _is_path(name, ground):
        return Verdict(found=found_of(wish, Became.KEPT, name))
    if wish.detail == "preset":
        return _preset(wish, ground, basket)
    if wish.detail == "call":
        return _fetched(wish, ground)
    if wish.detail == ARGUMENT and (hits := ground.beside(name)):
        serve(name, hits[0], ground, basket)  # the command finds it there under this very name
        return Verdict(found=found_of(wish, Became.CHECKPOINT, ground.name(hits[0])))
    if wish.detail == "torch.hub":
        return asked(wish, "clone the repository beside the notebook and load it with source='local'")
    if there := _beside(wish, ground):
        return _served(wish, there[0], ground, basket)
    folder, file = name.rpartition("/")[2].strip("*") or "model", _file(wish)
    if "*" in name + file or shell.has_holes(name):
        unknown = name if "*" in name or shell.has_holes(name) else file
        return asked(
            wish, f"write it out, or load from a folder: what '{unknown}' is is known only when it runs"
        )
    data = wish.detail.startswith("dataset ")
    words = ["hf download", _id(wish), file, "--repo-type dataset" if data else ""]
    place = f"--local-dir {'data' if data else 'models'}/{folder}"
    name_it = ", name that folder in the command" if wish.detail == ARGUMENT and wish.start < 0 else ""
    return asked(
        wish, f"run `{' '.join(filter(None, [*words, place]))}` here{name_it}, and adopt again: it travels"
    )


def _preset(wish: Wish, ground: Ground, basket: Basket) -> Verdict:
    """Decide on a preset of KerasHub: a folder, a Kaggle Model, a repository of the hub, or a name in its catalogue."""
    name = wish.target
    scheme, _, handle = name.rpartition("://")
    if not scheme and _is_path(name, ground):
        return Verdict(found=found_of(wish, Became.KEPT, name))
    if scheme == "kaggle" and len(handle.split("/")) == 5 and "*" not in handle:
        basket.attach("model", handle)
        folder = f'"{file_places.SHOWN}/models/{handle}"'
        return Verdict(
            found=found_of(wish, Became.SOURCE, f"model {handle}"), off=wish.start >= 0, stand_in=folder
        )
    if scheme == "kaggle":
        return asked(
            wish, f"pin its version, as in 'kaggle://{handle}/1': offline, a model is attached at one version"
        )
    if scheme == "hf":
        return asked(
            wish,
            f"run `hf download {handle} --local-dir models/{handle.rpartition('/')[2]}` here, name that folder in the"
            " call, and adopt again: it travels",
        )
    return asked(
        wish,
        f"name the Kaggle Model of '{name}' with its version (`kaggle://keras/MODEL/keras/{name}/VERSION`, from its page"
        " on Kaggle), and adopt again: it is attached",
    )


def _file(wish: Wish) -> str:
    """Return the file of a repository that is wanted, "" for all of it."""
    return wish.detail.partition("file ")[2]


def _id(wish: Wish) -> str:
    """Return what the hub calls a model; sentence-transformers leaves out its own name."""
    own = wish.detail == "sentence" and "/" not in wish.target
    plain = _PLAIN.match(wish.target) and not _TUNED.search(wish.target)
    return f"sentence-transformers/{wish.target}" if own and not plain else wish.target


def _beside(wish: Wish, ground: Ground) -> list[Path]:
    """Return the folders beside the notebook, or the files in them, that a hub would give."""
    name, file = wish.target, _file(wish)
    found: list[Path] = []
    for folder in filter(None, (wish.into, name, name.replace("/", "--"), name.rpartition("/")[2])):
        for top in ("", "models/", "checkpoints/", "weights/", "data/", "datasets/"):
            place = f"{top}{folder}{'/' if file else ''}{file}"
            hits = ground.beside(place) if "*" not in place else ()
            found += [hit for hit in hits[:1] if (hit.is_file() if file else hit.is_dir())]
    return found if wish.start >= 0 else []


def _served(wish: Wish, there: Path, ground: Ground, basket: Basket) -> Verdict:
    path = ground.name(there)
    serve(path, there, ground, basket)
    if wish.into:
        basket.made[file_places.joined("", f"{wish.into}/{_file(wish)}".rstrip("/"))] = path
    inside = f"{file_places.WORKING}/{path}"
    stand_in = inside if wish.detail == ARGUMENT else f'"{inside}"'
    return Verdict(
        found=found_of(wish, Became.CHECKPOINT, path),
        off=True,
        stand_in=None if wish.detail.endswith("command") else stand_in,
    )


def _fetched(wish: Wish, ground: Ground) -> Verdict:
    """Decide on a call that fetches for itself; `into` is how it reads what is there."""
    if wish.target and "*" not in wish.target and ground.beside(wish.target):
        return Verdict(found=found_of(wish, Became.KEPT, wish.target))
    file = f" as '{wish.target}'" if re.fullmatch(r"[\w.-]+\.\w+", wish.target) else ""
    how = f" ({wish.into})" if wish.into else ""
    return asked(
        wish, f"put what it fetches beside the notebook{file}, read it from there{how}, and adopt again"
    )


def _is_path(name: str, ground: Ground) -> bool:
    if file_places.MOUNT.match(name) or name.startswith(("/", "./", "../", "~")):
        return True
    return bool(ground.beside(name))  # told of where paths are looked at


def pretrained(wish: Wish, code: Code) -> Verdict:
    """Decide on an argument that fetches weights: off where a checkpoint surely replaces them."""
    write = wish.stand_in.lstrip(", ") if "=" in wish.stand_in else f"{wish.into}={wish.stand_in}"
    loaded = wish.detail in code.loaded if wish.detail else bool(code.loaded)
    if loaded and wish.start >= 0:
        value = f"{write}: a checkpoint replaces the weights"
        return Verdict(found=found_of(wish, Became.SWITCHED_OFF, value), off=True)
    keras = "keras" in wish.target
    if wish.detail in code.loosely or (not wish.detail and code.loosely):
        loads = "load_weights(skip_mismatch=True)" if keras else "load_state_dict(strict=False)"
        return asked(
            wish,
            f"`{loads}` may leave weights as they were built: see that no key is missing, then write {write}",
        )
    save = "model.save_weights('model.weights.h5')" if keras else "torch.save(model.state_dict(), ...)"
    return asked(
        wish,
        f"the weights of '{wish.target}' are fetched: save them here ({save}), load them in the notebook, and write"
        f" {write}",
    )


def corpus(wish: Wish, ground: Ground, basket: Basket) -> Verdict:
    """Decide on data of NLTK, which travels as a folder, and on models of spaCy, which are packages."""
    if wish.detail.startswith("spacy"):
        if wish.detail == "spacy.load" and not _is_lacking(wish.target, ground, basket):
            return Verdict(found=found_of(wish, Became.KEPT, f"'{wish.target}' is there"))
        if re.fullmatch(r"[a-z]{2}_\w+", wish.target) and (version := ground.image.public_version("spacy")):
            series = ".".join(version.split(".")[:2])
            line = f"{wish.target} @ {_SPACY.format(wish.target, series + '.0')}"
            basket.requirements[line] = None
            return Verdict(found=found_of(wish, Became.REQUIREMENT, line), off=wish.detail == "spacy")
        return asked(
            wish, "name the wheel of the model in the requirements: its address stands on its release page"
        )
    hits = ground.beside("nltk_data")
    names = [each for each in wish.target.split() if each not in _COLLECTIONS and "*" not in each]
    missing = [each for each in names if not (hits and _has(hits[0], each))]
    if not hits or missing:
        wanted = " ".join(missing or wish.target.split()) or "..."
        return asked(
            wish,
            f"run `python -m nltk.downloader -d nltk_data {wanted}` beside the notebook, and adopt again: it travels",
        )
    serve("nltk_data", hits[0], ground, basket)
    return Verdict(found=found_of(wish, Became.CHECKPOINT, ground.name(hits[0])), off=True)


def _has(data: Path, name: str) -> bool:
    """Whether a folder of NLTK's data has a package, zipped or not."""
    return any(data.glob(f"*/{name}")) or any(data.glob(f"*/{name}.zip"))


def _is_lacking(model: str, ground: Ground, basket: Basket) -> bool:
    """Whether a model of spaCy's comes from nowhere: neither image nor requirements, and no folder."""
    name = model.replace("_", "-")
    if not re.fullmatch(r"[a-z]{2,3}_\w+_(sm|md|lg|trf)", model) or name in ground.image.packages:
        return False
    return not any(re.match(rf"{model}|{name}", line) for line in basket.requirements) and not ground.beside(
        model
    )
