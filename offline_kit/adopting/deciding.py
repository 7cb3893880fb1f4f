"""What becomes of each wish: a requirement, a checkpoint, a source, nothing at all, or a question to the person."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from offline_kit.adopting import places, shell
from offline_kit.adopting.calls import Code
from offline_kit.adopting.nouns import Became, Found, Kind, Sources, Wish
from offline_kit.adopting.places import Ground
from offline_kit.own import sources as own_sources
from offline_kit.redaction import without_secrets

_PACKAGE_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_SPACY = "https://github.com/explosion/spacy-models/releases/download/{0}-{1}/{0}-{1}-py3-none-any.whl"
_LOADS = ("from_pretrained", "snapshot")
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
_SHORT = 120


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of one wish."""

    found: Found
    """For the person."""
    off: bool = False
    """Whether its line can be switched off: what it fetches is there."""
    stand_in: str | None = None
    """What is written in its place, where the wish does not say it."""


@dataclass
class Basket:
    """What was gathered so far, in the notebook's order."""

    requirements: dict[str, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)
    packages: dict[str, None] = field(default_factory=dict)
    checkpoints: dict[str, None] = field(default_factory=dict)
    modules: dict[str, None] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    """What lines that are switched off would have made, and the project's file or folder that is laid there."""
    clones: dict[str, str] = field(default_factory=dict)
    """Folder of each clone: the line that installs it."""
    guesses: dict[str, str] = field(default_factory=dict)
    """Requirements that are guessed from an import, and its name."""
    sources: Sources = field(default_factory=Sources)

    def attach(self, kind: str, name: str) -> None:
        """Add a source."""
        key = {
            "competition": "competitions",
            "dataset": "datasets",
            "notebook": "notebooks",
            "model": "models",
        }[kind]
        there = getattr(self.sources, key)
        self.sources = replace(self.sources, **{key: tuple(dict.fromkeys((*there, name)))})


def found_of(wish: Wish, became: Became, value: str = "", remedy: str = "") -> Found:
    """Return what is told of a wish; on screens, in logs and in the notebook: tokens and passwords are left out."""
    text = " ".join(without_secrets(wish.text).split())
    return Found(
        kind=wish.kind,
        cell=wish.cell,
        line=wish.line,
        text=text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…",
        became=became,
        value=without_secrets(value),
        remedy=without_secrets(remedy),
    )


def decide(wish: Wish, code: Code, ground: Ground, basket: Basket, others: Sequence[Wish]) -> Verdict:
    """Return what becomes of a wish, and put what it needs into the basket; `others` are all wishes."""
    if wish.kind is Kind.INSTALL:
        return _install(wish, ground, basket)
    if wish.kind is Kind.CLONE:
        return _clone(wish, ground, basket, others)
    if wish.kind is Kind.DOWNLOAD:
        return _download(wish, ground, basket)
    if wish.kind is Kind.KAGGLE:
        return _kaggle(wish, basket)
    if wish.kind is Kind.HUB:
        return _hub(wish, ground, basket)
    if wish.kind is Kind.PRETRAINED:
        return _pretrained(wish, code)
    if wish.kind is Kind.CORPUS:
        return _corpus(wish, ground, basket)
    if wish.detail == "colab":
        return _asked(
            wish, "put the files that it brings beside the notebook, read them from there, and take this out"
        )
    if wish.kind is Kind.ACCOUNT:
        return Verdict(found=found_of(wish, Became.SWITCHED_OFF, "no account is needed offline"), off=True)
    return _asked(
        wish, "programs of the system cannot be installed offline: do without, or find a Python package"
    )


def _asked(wish: Wish, remedy: str, value: str = "") -> Verdict:
    return Verdict(found=found_of(wish, Became.ASKED, value or wish.target, remedy))


def _install(wish: Wish, ground: Ground, basket: Basket) -> Verdict:
    words = shlex.split(wish.target)
    wanted = shell.pip_of(words)
    if wanted is None:
        if wish.detail == "uninstall":
            # It made way for what the line behind it installed; the kit's packages come first as it is.
            value = "nothing is taken out: the kit's packages come before the image's"
            return Verdict(found=found_of(wish, Became.SWITCHED_OFF, value), off=True)
        return _asked(
            wish, "bundle the packages instead: write them into the requirements, and remove the line"
        )
    if wanted.offline or (wanted.local and not (wanted.requirements or wanted.files or wanted.folders)):
        return Verdict(found=found_of(wish, Became.KEPT, "installs from mounted files"))
    if holes := [each for each in wanted.requirements if shell.has_holes(each)]:
        return _asked(wish, f"what '{holes[0]}' is is known only when it runs: write it out")
    lines = [line for line in wanted.requirements if line.lower() not in _TOOLS]
    problems: list[str] = []
    for folder in wanted.folders:
        _folder(_in_run(wish, folder), ground, basket, lines, problems)
    for file in wanted.files:
        path = _in_run(wish, file)
        if hits := ground.beside(path):
            basket.files[ground.name(hits[0])] = None
        else:
            problems.append(_put(path, f"put '{path}'", basket))
    if problems:
        return _asked(wish, "; ".join(problems))
    basket.requirements |= dict.fromkeys(lines)
    if not (lines or wanted.files or wanted.folders):
        return Verdict(found=found_of(wish, Became.SWITCHED_OFF, "nothing is installed offline"), off=True)
    own = [each for each in wanted.folders if not _clone_of(_in_run(wish, each), basket)]
    value = ", ".join([*lines, *(f"-r {_in_run(wish, file)}" for file in wanted.files), *own])
    return Verdict(
        found=found_of(wish, Became.REQUIREMENT, value, _left_out(wanted, len(own) < len(wanted.folders))),
        off=True,
    )


def _left_out(wanted: shell.Pip, clones: bool) -> str:
    """Return what of a call of pip its requirements do not say; `clones` is whether it installs some."""
    if clones and any("[" in each for each in wanted.folders):
        return "its repository is asked for without extras: name the package with them in the requirements"
    return f"it asked '{wanted.index}': name that index in pip's configuration" if wanted.index else ""


def _in_run(install: Wish, word: str) -> str:
    """Return a folder or file that pip is given as `places.joined` writes it: no extras, no dots."""
    return places.joined(install.into, re.sub(r"\[.*\]$", "", word))


def _put(path: str, words: str, basket: Basket) -> str:
    clone = _clone_of(path, basket)
    wanted = f"clone '{places.beside_name(clone)}'" if clone else words
    return f"{wanted} beside the notebook, and adopt again"


def _folder(folder: str, ground: Ground, basket: Basket, lines: list[str], problems: list[str]) -> None:
    """Take a folder that pip installs: a clone by its address, a package of the project as it is."""
    if clone := _clone_of(folder, basket):
        below = folder.removeprefix(clone).strip("/")
        lines.append(basket.clones[clone] + (f"#subdirectory={below}" if below else ""))
        return
    hits = ground.beside(folder) if folder else ground.bases
    if hits and any((hits[0] / each).is_file() for each in _PACKAGE_FILES):
        basket.packages[ground.name(hits[0]) or "."] = None
    else:
        problems.append(_put(folder, f"put the source of '{folder}'", basket))


def _clone_of(path: str, basket: Basket) -> str:
    """Return the folder of the clone that a path leads into; "" for none."""
    return next((each for each in basket.clones if f"{path}/".startswith(f"{each}/")), "")


def _clone(wish: Wish, ground: Ground, basket: Basket, others: Sequence[Wish]) -> Verdict:
    folder = places.joined("", wish.into)
    if shell.has_holes(wish.target) or "*" in wish.target:
        return _asked(wish, "write its address out: what it is is known only when it runs")
    if not folder:
        basket.clones[folder] = wish.target
        plain = shell.cloned(("git", "clone", wish.target))
        return _asked(
            wish,
            f"clone it into a folder of its own (`git clone {wish.target} {plain.into if plain else 'repository'}`), step"
            " into that with %cd, and adopt again",
        )
    hits = ground.beside(places.beside_name(folder))
    name = ground.name(hits[0]) if hits and hits[0].is_dir() else ""
    line = basket.clones[folder] = shell.of_repository(wish.target, wish.detail)
    installed = [
        each for each in others if each.kind is Kind.INSTALL and each is not wish and _names(folder, each)
    ]
    if installed:
        basket.made[folder] = name  # lines step into it, and may run what lies in it
        basket.checkpoints |= {name: None} if name else {}
        note = (
            "installed from there; if cells read its files, clone it beside the notebook too, and adopt again"
        )
        return Verdict(found=found_of(wish, Became.REQUIREMENT, line, "" if name else note), off=True)
    if not name:
        return _asked(
            wish,
            f"run `git clone {f'-b {wish.detail} ' if wish.detail else ''}{wish.target}"
            f" {places.beside_name(folder)}` beside the notebook, and adopt again: it travels",
        )
    basket.made[folder] = name
    if not any(hits[0].rglob("*.py")):
        serve(places.beside_name(folder), hits[0], ground, basket)
        return Verdict(found=found_of(wish, Became.CHECKPOINT, name), off=True)
    basket.modules[name] = None
    return Verdict(found=found_of(wish, Became.MODULE, name, _stays_behind(hits[0], ground)), off=True)


def _stays_behind(clone: Path, ground: Ground) -> str:
    """Return what to do about trained files of a clone: modules bring code and its small companions alone."""
    shipped = set(own_sources.module_files(clone))
    left = sorted(path for path in clone.rglob("*") if path.suffix in _TRAINED and path not in shipped)
    if not left:
        return ""
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return f"'{ground.name(left[0])}'{more} stays behind: if cells read it, name it in `checkpoints`"


def _names(folder: str, install: Wish) -> bool:
    wanted = shell.pip_of(shlex.split(install.target))
    named = [_in_run(install, each) for each in wanted.folders] if wanted else []
    return any(f"{each}/".startswith(f"{folder}/") for each in named)


def _download(wish: Wish, ground: Ground, basket: Basket) -> Verdict:
    into = places.joined("", wish.into) if wish.into else ""
    name = places.beside_name(into) or re.split(r"[?#]", wish.target)[0].rpartition("/")[2]
    hits = ground.beside(name) if name and "*" not in name else ()
    if not hits or not hits[0].is_file():
        where = f"'{name}'" if name else "a file"
        return _asked(
            wish, f"download it to {where} beside the notebook, and adopt again: it travels as a checkpoint"
        )
    serve(name, hits[0], ground, basket)
    if into:
        basket.made[into] = ground.name(hits[0])
    stand_in = f'"{places.WORKING}/{name}"' if wish.detail == "read" else None
    return Verdict(found=found_of(wish, Became.CHECKPOINT, ground.name(hits[0])), off=True, stand_in=stand_in)


def serve(path: str, file: Path, ground: Ground, basket: Basket) -> None:
    """Have a file or folder of the project travel, and be found at a path of the notebook's."""
    name = ground.name(file)
    basket.checkpoints[name] = None
    basket.served[path.removeprefix("./")] = name


def _kaggle(wish: Wish, basket: Basket) -> Verdict:
    name = wish.target.strip("/")
    parts = len(name.split("/"))
    wanted = {"competition": 1, "dataset": 2, "notebook": 2, "model": 5}[wish.detail]
    if "*" in name or not name:
        return _asked(wish, "write its name out, so that it can be attached")
    if wish.detail == "model" and parts == 4:
        return _asked(wish, f"pin its version, as in '{name}/1': offline, a model is attached at one version")
    if parts > wanted and wish.detail != "model":
        name = "/".join(name.split("/")[:wanted])  # a version, which cannot be attached
    elif parts != wanted:
        return _asked(wish, f"'{name}' is no {wish.detail} as Kaggle names them")
    basket.attach(wish.detail, name)
    if wish.stand_in:  # the command line unpacks into the working folder, where nothing will be
        return _asked(wish, f"it is attached now: read it below {places.INPUT}, and take this line out", name)
    group = f"{wish.detail}s"
    path = f"{places.SHOWN}/{group}/{name}{f'/{wish.into}' if wish.into else ''}"
    return Verdict(
        found=found_of(wish, Became.SOURCE, f"{wish.detail} {name}"), off=True, stand_in=f'"{path}"'
    )


def _hub(wish: Wish, ground: Ground, basket: Basket) -> Verdict:
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
        return _asked(wish, "clone the repository beside the notebook and load it with source='local'")
    folder = name.rpartition("/")[2].strip("*") or "model"
    if "*" in name:
        return _asked(
            wish, f"write the id out, or load from a folder: what '{name}' is is known only when it runs"
        )
    return _asked(
        wish, f"run `hf download {name} --local-dir models/{folder}` here, and adopt again: it travels"
    )


def _fetched(wish: Wish, ground: Ground) -> Verdict:
    """Decide on a call that fetches for itself; `into` is how it reads what is there."""
    if wish.target and "*" not in wish.target and ground.beside(wish.target):
        return Verdict(found=found_of(wish, Became.KEPT, wish.target))
    file = f" as '{wish.target}'" if re.fullmatch(r"[\w.-]+\.\w+", wish.target) else ""
    how = f" ({wish.into})" if wish.into else ""
    return _asked(
        wish, f"put what it fetches beside the notebook{file}, read it from there{how}, and adopt again"
    )


def _is_path(name: str, ground: Ground) -> bool:
    if places.MOUNT.match(name) or name.startswith(("/", "./", "../", "~")):
        return True
    return bool(ground.beside(name))  # told of where paths are looked at


def _pretrained(wish: Wish, code: Code) -> Verdict:
    write = wish.stand_in.lstrip(", ") if "=" in wish.stand_in else f"{wish.into}={wish.stand_in}"
    loaded = wish.detail in code.loaded if wish.detail else bool(code.loaded)
    if loaded and wish.start >= 0:
        value = f"{write}: a checkpoint replaces the weights"
        return Verdict(found=found_of(wish, Became.SWITCHED_OFF, value), off=True)
    keras = "keras" in wish.target
    if wish.detail in code.loosely or (not wish.detail and code.loosely):
        loads = "load_weights(skip_mismatch=True)" if keras else "load_state_dict(strict=False)"
        return _asked(
            wish,
            f"`{loads}` may leave weights as they were built: see that no key is missing, then write {write}",
        )
    save = "model.save_weights('model.weights.h5')" if keras else "torch.save(model.state_dict(), ...)"
    return _asked(
        wish,
        f"the weights of '{wish.target}' are fetched: save them here ({save}), load them in the notebook, and write"
        f" {write}",
    )


def _corpus(wish: Wish, ground: Ground, basket: Basket) -> Verdict:
    if wish.detail.startswith("spacy"):
        if wish.detail == "spacy.load" and not _is_lacking(wish.target, ground, basket):
            return Verdict(found=found_of(wish, Became.KEPT, f"'{wish.target}' is there"))
        if re.fullmatch(r"[a-z]{2}_\w+", wish.target) and (version := ground.image.public_version("spacy")):
            series = ".".join(version.split(".")[:2])
            line = f"{wish.target} @ {_SPACY.format(wish.target, series + '.0')}"
            basket.requirements[line] = None
            return Verdict(found=found_of(wish, Became.REQUIREMENT, line), off=wish.detail == "spacy")
        return _asked(
            wish, "name the wheel of the model in the requirements: its address stands on its release page"
        )
    hits = ground.beside("nltk_data")
    if not hits:
        names = wish.target or "..."
        return _asked(
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
