"""Adopt a notebook that works with the internet on: what it needs becomes configuration, its cells stay."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from offline_kit.adopt import inspect, read_notebook, render_adopted, rewrite
from offline_kit.adopt.findings import Adoption, Became, Found, Kind, Sources
from offline_kit.core import files, processes
from offline_kit.core.errors import OfflineKitError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.init import competition as contest
from offline_kit.init import file_tree, toml_text
from offline_kit.init.proposal import Setting
from offline_kit.project import config
from offline_kit.project import images as image
from offline_kit.project.accelerators import machine_shape
from offline_kit.project.config import Config
from offline_kit.project.config_keys import KEYS
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import dataset_slug

_HEAD = "# What {} installs and imports; written by `offline-kit adopt`, and yours to change.\n"


_SURE = frozenset({"checkpoints", "modules"})
"""Keys that a build or the notebook's imports cannot do without; so are requirements files that it installs."""


@dataclass(frozen=True, kw_only=True)
class _Lack:
    """What a key that is there lacks."""

    key: str
    """The key."""
    missing: tuple[str, ...]
    """What it lacks."""
    said: str
    """What it lacks, and why that is wanted."""
    line: str
    """Its line as it has to be."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What adopting a notebook would write, and why."""

    adoption: Adoption
    """The notebook, looked through."""
    image: Image
    """The image that it was looked at against."""
    file: Path
    """The file of the configuration."""
    old: str
    """Its text; empty where there is none."""
    new: str
    """Its whole new text; the old one where nothing is to be added."""
    requirements: Path
    """The requirements file of the notebook."""
    lines: str
    """Its whole new text; empty where none is needed."""
    by_hand: tuple[str, ...] = ()
    """What has to be added to keys that are there already."""
    paste: tuple[str, ...] = ()
    """The line of each of these keys as it has to be."""
    fails: bool = False
    """Whether a build or the notebook fails for sure as long as they are not added."""

    @property
    def changes(self) -> bool:
        """Whether there is anything to write."""
        return self.new != self.old or self.lines not in ("", _read(self.requirements))

    @property
    def diff(self) -> str:
        """All changes as one unified diff: the configuration, the requirements, the notebook's percent script."""
        old = _read(self.requirements)
        parts = (
            _diff(self.old, self.new, self.file.name),
            _diff(old, self.lines or old, self.requirements.name),
            rewrite.diff(self.adoption.cells, self.adoption.changed, self.adoption.notebook.name),
        )
        return "".join(parts)


def propose(
    notebook: Path, project: Path, report: Reporter = SILENT, imports: Mapping[str, str] | None = None
) -> Proposal:
    """Look a notebook through and return what adopting it would write; nothing is written, run or fetched.

    `imports` says which distribution an import comes from, for those that nothing else tells.

    Raises UsageError for a notebook that is not there or lies elsewhere than the project, and for a wrong
    configuration; ProjectError for a file that is no notebook in Python.
    """
    root = project.expanduser().absolute()
    source = _source(notebook, root)
    report.step(f"Looking through '{source}'")
    loaded = config.load(root, {})
    seen = file_tree.scan(root)
    accelerator, said = _accelerator(loaded, root / source)
    chosen = image.load(loaded.image, accelerator=accelerator or "none", project=root)
    found = {one.key: one for one in contest.find(seen).settings}
    attached = _attached(loaded, str(found["competition"].value or ""))
    said_imports = [f"{distribution}  # import {name}" for name, distribution in (imports or {}).items()]
    lines = (*said_imports, *render_adopted.answers(root, source))
    adoption = replace(inspect.look(root / source, root, chosen, attached, lines), accelerator=said)
    adoption = replace(adoption, requirements=(*adoption.requirements, *said_imports))
    return _proposal(loaded, source, adoption, chosen, found)


def write(proposal: Proposal) -> tuple[Path, ...]:
    """Write what was proposed and return the files that changed; OutsideError where one cannot be written."""
    written = []
    for path, old, new in (
        (proposal.requirements, _read(proposal.requirements), proposal.lines),
        (proposal.file, proposal.old, proposal.new),
    ):
        if new and new != old:
            files.write_atomic(path.resolve(), new.encode("utf-8"))
            written.append(path)
    return tuple(written)


def _source(notebook: Path, root: Path) -> str:
    path = notebook.expanduser().absolute()
    if not path.is_file():
        raise UsageError(f"there is no notebook '{notebook}'", hint="name the .ipynb file to adopt")
    if not path.is_relative_to(root):
        raise UsageError(
            f"'{notebook}' lies outside of the project '{root}'",
            hint="name the project's folder behind the notebook, or copy the notebook into it",
        )
    return path.relative_to(root).as_posix()


def _accelerator(loaded: Config, notebook: Path) -> tuple[str, str]:
    """Return the accelerator to choose an image for, and the one to write into the configuration."""
    wanted = read_notebook.beside(notebook).accelerator
    if loaded.accelerator not in ("", "none"):
        return loaded.accelerator, ""
    try:
        return (wanted, wanted) if machine_shape(wanted) else ("", "")
    except OfflineKitError:
        return "", ""  # asked for: see `looking`


def _attached(loaded: Config, competition: str) -> Sources:
    competitions = (loaded.competition or competition, *loaded.notebook.competition_sources)
    return Sources(
        competitions=tuple(filter(None, competitions)),
        datasets=loaded.notebook.dataset_sources,
        notebooks=loaded.notebook.kernel_sources,
        models=loaded.notebook.model_sources,
    )


def _proposal(
    loaded: Config, source: str, adoption: Adoption, chosen: Image, found: Mapping[str, Setting]
) -> Proposal:
    root = loaded.project
    place = loaded.source or _default_place(root)
    old = _read(place)
    told = tomllib.loads(old)
    nested = place.name == "pyproject.toml" or "offline-kit" in told.get("tool", {})
    table = told.get("tool", {}).get("offline-kit", {}) if nested else told
    if "accelerator" in table:
        adoption = replace(adoption, found=tuple(filter(_is_open, adoption.found)))
    needed, lines = _requirements(root, source, adoption)
    settings = [*_settings(loaded, source, adoption, chosen, found), *_needs(needed, lines, adoption, root)]
    lacks: tuple[_Lack, ...] = ()
    if loaded.source is None:
        new = toml_text.begun(old, settings, nested=nested, where=str(place))
    else:
        new, lacks = _extended(old, table, settings, nested=nested, where=str(place))
    return Proposal(
        adoption=adoption,
        image=chosen,
        file=place,
        old=old,
        new=new,
        requirements=needed,
        lines=lines,
        by_hand=tuple(one.said for one in lacks),
        paste=tuple(one.line for one in lacks),
        fails=any(_is_sure(one, adoption) for one in lacks),
    )


def _is_open(one: Found) -> bool:
    """Whether a thing is found that a configuration with an accelerator does not settle."""
    return one.kind is not Kind.SETTING or one.became is not Became.ASKED


def _default_place(root: Path) -> Path:
    pyproject = root / "pyproject.toml"
    return pyproject if pyproject.is_file() else root / "offline-kit.toml"


def _extended(
    old: str, table: Mapping[str, Any], settings: Iterable[Setting], *, nested: bool, where: str
) -> tuple[str, tuple[_Lack, ...]]:
    """Return the file with the keys that it lacks, and what is missing in keys that it has."""
    notebook = table.get("notebook", {})
    fresh, lacks = [], []
    for one in settings:
        there = notebook if one.notebook else table
        if one.value is None or (one.key == "image" and "accelerator" in table):
            continue
        if one.key not in there:
            fresh.append(one)
        elif missing := _missing(there[one.key], one.value):
            lacks.append(_lack(one, there[one.key], missing, Path(where).name))
    return (toml_text.extended(old, fresh, nested=nested, where=where) if fresh else old), tuple(lacks)


def _lack(one: Setting, there: object, missing: Sequence[str], file: str) -> _Lack:
    whole: object = one.value
    if isinstance(there, list):
        whole = [*there, *missing]
    elif isinstance(there, dict) and isinstance(one.value, dict):
        whole = {**there, **{name: one.value[name] for name in missing}}
    line = toml_text.block([Setting(key=one.key, value=whole, why="")], nested=False).strip()
    said = ", ".join(repr(each) for each in missing)
    return _Lack(
        key=one.key,
        missing=tuple(missing),
        said=f"`{one.key}` in '{file}' lacks {said}: add it there ({one.why})",
        line=line,
    )


def _is_sure(lack: _Lack, adoption: Adoption) -> bool:
    """Whether the notebook fails without it: packages of the file that adopt writes may stand in another one."""
    return lack.key in _SURE or bool({*lack.missing} & {*adoption.requirement_files})


def _missing(there: object, wanted: object) -> list[str]:
    if isinstance(there, list) and isinstance(wanted, list):
        return [each for each in wanted if not any(_covers(own, each) for own in there)]
    if isinstance(there, dict) and isinstance(wanted, dict):
        return [each for each in wanted if each not in there]
    return [str(wanted)] if there != wanted and isinstance(there, str) and not there else []


def _covers(own: str, name: str) -> bool:
    """Whether an entry of a list means this name: itself, a folder above it, a pattern."""
    return own == name or name.startswith(f"{own.rstrip('/')}/") or fnmatchcase(name, own)


def _requirements(root: Path, source: str, adoption: Adoption) -> tuple[Path, str]:
    """Return the notebook's requirements file and its new text."""
    own = root / f"{Path(source).stem}-requirements.in"
    plain = root / "requirements.in"
    taken = (root / "requirements.txt").is_file() or (plain.is_file() and not _is_ours(plain))
    path = own if own.is_file() or taken else plain
    there = _read(path)
    lines = there.splitlines()
    stated = {line.partition(" #")[0].strip() for line in lines}
    fresh = [line for line in adoption.requirements if line.partition(" #")[0].strip() not in stated]
    if not fresh and not (lines and adoption.requirements):
        return path, ""
    head = "" if there else _HEAD.format(source)
    return path, head + "".join(f"{line}\n" for line in [*lines, *fresh])


def _is_ours(path: Path) -> bool:
    return _read(path).startswith(_HEAD.partition("{")[0])


def _settings(
    loaded: Config, source: str, adoption: Adoption, chosen: Image, found: Mapping[str, Setting]
) -> list[Setting]:
    root, own = loaded.project, adoption.sources
    competition = next(iter(own.competitions), None)
    lists = (
        ("competition_sources", own.competitions[1:]),
        ("dataset_sources", own.datasets),
        ("kernel_sources", own.notebooks),
        ("model_sources", own.models),
    )
    machine = (
        Setting(key="accelerator", value=adoption.accelerator, why=f"from {adoption.said_in}")
        if adoption.accelerator
        else Setting(key="image", value=chosen.name, why="what the notebook was looked at against")
    )
    return [
        replace(found["competition"], value=competition, why="where the notebook reads its data", more=())
        if competition
        else found["competition"],
        _data(root, competition, found["competition_data"]),
        Setting(key="dataset", value=dataset_slug(loaded.name), why="private, and yours"),
        machine,
        *_copies(root, adoption),
        Setting(key="source", value=source, why="adopted: its cells stay", notebook=True),
        *(
            Setting(key=key, value=list(names), why="attached, as it was", notebook=True)
            for key, names in lists
            if names
        ),
    ]


def _data(root: Path, competition: str | None, found: Setting) -> Setting:
    if competition and (root / "input" / competition).is_dir():
        return replace(found, value=f"input/{competition}", why="a local copy, or part of it, for rehearsals")
    return found


def _needs(needed: Path, lines: str, adoption: Adoption, root: Path) -> list[Setting]:
    """Return the settings that say what travels; none of a kind is said where something would be found otherwise."""
    wanted = [*([needed.name] if lines else []), *adoption.requirement_files]
    pyproject = root / "pyproject.toml"
    about = tomllib.loads(_read(pyproject)).get("project", {}) if pyproject.is_file() else {}
    settings = []
    if wanted or about or any((root / name).is_file() for name in ("requirements.in", "requirements.txt")):
        why = (
            "what the notebook installs and imports"
            if wanted
            else "the image has all that the notebook needs"
        )
        settings.append(Setting(key="requirements", value=wanted, why=why))
    if adoption.packages or about:
        why = "built to wheels" if adoption.packages else "the notebook installs nothing of the project"
        settings.append(Setting(key="packages", value=list(adoption.packages), why=why))
    if adoption.modules:
        settings.append(Setting(key="modules", value=list(adoption.modules), why="imported by the notebook"))
    if adoption.checkpoints:
        settings.append(
            Setting(key="checkpoints", value=list(adoption.checkpoints), why="read by the notebook")
        )
    return settings


def _copies(root: Path, adoption: Adoption) -> Iterable[Setting]:
    """Yield where local copies of the attached sources lie, for rehearsals."""
    own = adoption.sources
    named = [("dataset", name) for name in own.datasets]
    named += [("notebook", name) for name in own.notebooks] + [("model", name) for name in own.models]
    found = {f"{kind}:{name}": place for kind, name in named if (place := _copy(root, kind, name))}
    if found and "copies" in KEYS:
        yield Setting(key="copies", value=found, why="local copies of what is attached, for rehearsals")


def _copy(root: Path, kind: str, name: str) -> str:
    rest = name.partition("/")[2]
    for place in (f"input/{kind}s/{name}", f"input/{rest}", f"input/{rest.partition('/')[0]}"):
        if (root / place).is_dir():
            return place
    environment = processes.copy_environment()
    home = Path(environment.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
    if kind == "model":
        return str(home / "models" / name) if (home / "models" / name).is_dir() else ""
    versions = home / f"{kind}s" / name / ("versions" if kind == "dataset" else "output/versions")
    numbers = sorted((int(each.name) for each in versions.glob("*") if each.name.isdigit()), reverse=True)
    return str(versions / str(numbers[0])) if numbers else ""


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read '{path}': {error}", hint="mend the file, or move it away") from error


def _diff(old: str, new: str, name: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{name} (as it is)", f"{name} (adopted)", lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)
