"""What becomes of each wish: a requirement, a checkpoint, a source, nothing at all, or a question to the person."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from offline_kit.adopt import file_places, hub_models, shell
from offline_kit.adopt.calls import Code
from offline_kit.adopt.file_places import Ground
from offline_kit.adopt.findings import Became, Kind, Wish
from offline_kit.adopt.outcomes import Basket, Verdict, asked, found_of, serve
from offline_kit.core.redaction import redact_urls
from offline_kit.packages.own import code_files as own_sources

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
        return hub_models.hub(wish, ground, basket)
    if wish.kind is Kind.PRETRAINED:
        return hub_models.pretrained(wish, code)
    if wish.kind is Kind.CORPUS:
        return hub_models.corpus(wish, ground, basket)
    if wish.detail == "colab":
        return asked(
            wish, "put the files that it brings beside the notebook, read them from there, and take this out"
        )
    if wish.kind is Kind.ACCOUNT:
        why = "secrets of the account cannot be asked for offline: empty"
        value = why if wish.detail == "secret" else "no account is needed offline"
        return Verdict(found=found_of(wish, Became.SWITCHED_OFF, value), off=True)
    return _system(wish)


def _system(wish: Wish) -> Verdict:
    if not wish.detail:
        return asked(
            wish, "programs of the system cannot be installed offline: do without, or find a Python package"
        )
    names = " and ".join(f"'{name}'" for name in wish.detail.split())
    return asked(
        wish,
        f"conda installs nothing offline: write {names} into the requirements as PyPI calls it, and take this out",
    )


def _install(wish: Wish, ground: Ground, basket: Basket) -> Verdict:
    words = shlex.split(wish.target)
    wanted = shell.pip_of(words)
    if wanted is None:
        if wish.detail == "uninstall":
            # It made way for what the line behind it installed; the kit's packages come first as it is.
            value = "nothing is taken out: the kit's packages come before the image's"
            return Verdict(found=found_of(wish, Became.SWITCHED_OFF, value), off=True)
        return asked(
            wish, "bundle the packages instead: write them into the requirements, and remove the line"
        )
    if wanted.offline or (wanted.local and not (wanted.requirements or wanted.files or wanted.folders)):
        return Verdict(found=found_of(wish, Became.KEPT, "installs from mounted files"))
    if holes := [each for each in wanted.requirements if shell.has_holes(each)]:
        return asked(wish, f"what '{holes[0]}' is is known only when it runs: write it out")
    return _bundled(wish, wanted, ground, basket)


def _bundled(wish: Wish, wanted: shell.Pip, ground: Ground, basket: Basket) -> Verdict:
    """Return the verdict on a line whose packages are to come with the kit."""
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
        return asked(wish, "; ".join(problems))
    bare = [redact_urls(line) for line in lines]
    secret, lines = bare != lines, bare
    basket.requirements |= dict.fromkeys(lines)
    if lines or wanted.files:
        basket.indexes |= dict.fromkeys(map(redact_urls, wanted.index))
    if not (lines or wanted.files or wanted.folders):
        return Verdict(found=found_of(wish, Became.SWITCHED_OFF, "nothing is installed offline"), off=True)
    own = [each for each in wanted.folders if not _clone_of(_in_run(wish, each), basket)]
    value = ", ".join([*lines, *(f"-r {_in_run(wish, file)}" for file in wanted.files), *own])
    left_out = _left_out(wanted, clones=len(own) < len(wanted.folders), secret=secret)
    return Verdict(found=found_of(wish, Became.REQUIREMENT, value, left_out), off=True)


def _left_out(wanted: shell.Pip, *, clones: bool, secret: bool) -> str:
    """Return what of a call of pip its requirements do not say.

    `clones` is whether it installs some, `secret` whether an address had user, password or token in it.
    """
    if secret:
        return (
            "written without the credentials of its address: put them into ~/.netrc, or name a variable of the"
            " environment in the requirements (https://${NAME}@...)"
        )
    if clones and any("[" in each for each in wanted.folders):
        return "its repository is asked for without extras: name the package with them in the requirements"
    return ""


def _in_run(install: Wish, word: str) -> str:
    """Return a folder or file that pip is given as `places.joined` writes it: no extras, no dots."""
    return file_places.joined(install.into, re.sub(r"\[.*\]$", "", word))


def _put(path: str, words: str, basket: Basket) -> str:
    clone = _clone_of(path, basket)
    wanted = f"clone '{file_places.beside_name(clone)}'" if clone else words
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
    folder = file_places.joined("", wish.into)
    if shell.has_holes(wish.target) or "*" in wish.target:
        return asked(wish, "write its address out: what it is is known only when it runs")
    if not folder:
        basket.clones[folder] = wish.target
        plain = shell.cloned(("git", "clone", wish.target))
        return asked(
            wish,
            f"clone it into a folder of its own (`git clone {wish.target} {plain.into if plain else 'repository'}`), step"
            " into that with %cd, and adopt again",
        )
    hits = ground.beside(file_places.beside_name(folder))
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
        return asked(
            wish,
            f"run `git clone {f'-b {wish.detail} ' if wish.detail else ''}{wish.target}"
            f" {file_places.beside_name(folder)}` beside the notebook, and adopt again: it travels",
        )
    basket.made[folder] = name
    if not any(hits[0].rglob("*.py")):
        serve(file_places.beside_name(folder), hits[0], ground, basket)
        return Verdict(found=found_of(wish, Became.CHECKPOINT, name), off=True)
    basket.modules[name] = None
    return Verdict(found=found_of(wish, Became.MODULE, name, _stays_behind(hits[0], ground)), off=True)


def _stays_behind(clone: Path, ground: Ground) -> str:
    """Return what to do about trained files of a clone: modules bring code and its small companions alone."""
    shipped = set(own_sources.list_module_files(clone))
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
    into = file_places.joined("", wish.into) if wish.into else ""
    name = file_places.beside_name(into) or re.split(r"[?#]", wish.target)[0].rpartition("/")[2]
    hits = ground.beside(name) if name and "*" not in name else ()
    if not hits or not hits[0].is_file():
        return asked(wish, _to_download(wish.target, name))
    serve(name, hits[0], ground, basket)
    if into:
        basket.made[into] = ground.name(hits[0])
    stand_in = f'"{file_places.WORKING}/{name}"' if wish.detail == "read" else None
    return Verdict(found=found_of(wish, Became.CHECKPOINT, ground.name(hits[0])), off=True, stand_in=stand_in)


def _to_download(address: str, name: str) -> str:
    """Return what a person has to do about a file that is downloaded and not here."""
    if "*" in name or shell.has_holes(name):
        return f"write its address out: what '{name}' is is known only when it runs"
    if "." not in name and ("drive.google.com" in address or "://" not in address) and name:
        name = ""
        how = "; say in the line what it is called (`-O NAME`, `output=`)"
    else:
        how = ""
    where = f"'{name}'" if name else "a file"
    return f"download it to {where} beside the notebook{how}, and adopt again: it travels as a checkpoint"


def _kaggle(wish: Wish, basket: Basket) -> Verdict:
    name = wish.target.strip("/")
    parts = len(name.split("/"))
    wanted = {"competition": 1, "dataset": 2, "notebook": 2, "model": 5}[wish.detail]
    if "*" in name or not name:
        return asked(wish, "write its name out, so that it can be attached")
    if wish.detail == "model" and parts == 4:
        return asked(wish, f"pin its version, as in '{name}/1': offline, a model is attached at one version")
    if parts > wanted and wish.detail != "model":
        name = "/".join(name.split("/")[:wanted])  # a version, which cannot be attached
    elif parts != wanted:
        return asked(wish, f"'{name}' is no {wish.detail} as Kaggle names them")
    basket.attach(wish.detail, name)
    if (
        wish.stand_in or wish.into == "api"
    ):  # the client unpacks into the working folder, where nothing will be
        return asked(
            wish, f"it is attached now: read it below {file_places.INPUT}, and take this line out", name
        )
    group = f"{wish.detail}s"
    path = f"{file_places.SHOWN}/{group}/{name}{f'/{wish.into}' if wish.into else ''}"
    return Verdict(
        found=found_of(wish, Became.SOURCE, f"{wish.detail} {name}"), off=True, stand_in=f'"{path}"'
    )
