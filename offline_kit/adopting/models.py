"""What becomes of models, weights and data of libraries that a notebook fetches."""

import re

from offline_kit.adopting import places
from offline_kit.adopting.calls import Code
from offline_kit.adopting.nouns import Became, Wish
from offline_kit.adopting.places import Ground
from offline_kit.adopting.verdicts import Basket, Verdict, asked, found_of, serve

_SPACY = "https://github.com/explosion/spacy-models/releases/download/{0}-{1}/{0}-{1}-py3-none-any.whl"
_LOADS = ("from_pretrained", "snapshot")


def hub(wish: Wish, ground: Ground, basket: Basket) -> Verdict:
    """Decide on what a hub calls by an id: a folder of it beside the notebook takes its place."""
    name = wish.target
    if wish.detail == "from_pretrained" and _is_path(name, ground):
        return Verdict(found=found_of(wish, Became.KEPT, name))
    if wish.detail == "call":
        return _fetched(wish, ground)
    candidates = [wish.into, name, name.replace("/", "--"), name.rpartition("/")[2]]
    for folder in filter(None, candidates):
        for place in (folder, f"models/{folder}", f"checkpoints/{folder}", f"weights/{folder}"):
            hits = ground.beside(place) if "*" not in place else ()
            if hits and hits[0].is_dir() and wish.detail in _LOADS and wish.start >= 0:
                path = ground.name(hits[0])
                serve(path, hits[0], ground, basket)
                return Verdict(
                    found=found_of(wish, Became.CHECKPOINT, path),
                    off=True,
                    stand_in=f'"{places.WORKING}/{path}"',
                )
    if wish.detail == "torch.hub":
        return asked(wish, "clone the repository beside the notebook and load it with source='local'")
    folder = name.rpartition("/")[2].strip("*") or "model"
    if "*" in name:
        return asked(
            wish, f"write the id out, or load from a folder: what '{name}' is is known only when it runs"
        )
    return asked(
        wish, f"run `hf download {name} --local-dir models/{folder}` here, and adopt again: it travels"
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
    if places.MOUNT.match(name) or name.startswith(("/", "./", "../", "~")):
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
    if not hits:
        names = wish.target or "..."
        return asked(
            wish,
            f"run `python -m nltk.downloader -d nltk_data {names}` beside the notebook, and adopt again: it travels",
        )
    serve("nltk_data", hits[0], ground, basket)
    return Verdict(found=found_of(wish, Became.CHECKPOINT, ground.name(hits[0])), off=True)


def _is_lacking(model: str, ground: Ground, basket: Basket) -> bool:
    """Whether a model of spaCy's comes from nowhere: neither image nor requirements, and no folder."""
    name = model.replace("_", "-")
    if not re.fullmatch(r"[a-z]{2,3}_\w+_(sm|md|lg|trf)", model) or name in ground.image.packages:
        return False
    return not any(re.match(rf"{model}|{name}", line) for line in basket.requirements) and not ground.beside(
        model
    )
