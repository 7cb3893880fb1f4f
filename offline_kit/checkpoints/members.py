"""The members of the notebook's ensemble: which files are a model, and which framework loads it."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks import framework_table, pickled, sklearn
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.core.errors import ProjectError, suggest_name
from offline_kit.core.files import matches_glob
from offline_kit.kit import layout
from offline_kit.project.types import (
    Checkpoint,
    CheckpointKind,
    Finding,
    Member,
    ModelSpec,
    NotebookSettings,
    Severity,
)

_TEXTS = frozenset({".json", ".csv", ".tsv", ".txt", ".yaml", ".yml"})
"""Files beside models that code may read."""


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A file, or a folder of files, that a framework may claim."""

    original: str
    """Its name among the checkpoints."""
    path: Path
    """Where it lies."""
    files: tuple[Checkpoint, ...]
    """What it consists of."""
    framework: Framework | None
    """Who claims it."""


def resolve(
    settings: NotebookSettings,
    checkpoints: Sequence[Checkpoint],
    elsewhere: Mapping[str, Sequence[Checkpoint]] | None = None,
) -> tuple[Member, ...]:
    """Return the members, in the order of the configuration, else of the checkpoints' names.

    A folder that a framework claims as a whole is one member. `elsewhere` holds what lies in local copies of
    other sources, by source. Raises ProjectError with every entry that names no file, every file that no
    framework knows, and every key that is missing.
    """
    places = {"": _Place(checkpoints, layout.name_checkpoints(checkpoints))}
    for origin, files in (elsewhere or {}).items():
        places[origin] = _Place(files, {each.original: each.original for each in files})
    candidates = places[""].candidates
    given = settings.models or tuple(ModelSpec(files=each.original) for each in candidates)
    specs = tuple(replace(each, model=each.model or settings.model) for each in given)
    problems: list[str] = []
    members: list[Member] = []
    for said, spec in zip(given, specs, strict=True):
        place = places.get(spec.origin)
        if place is None:
            problems += _unseen(spec, members)
            continue
        found = [each for each in place.candidates if _meant(spec.files, each)]
        if not found:
            problems.append(_no_file(spec, place.candidates))
        for each in found:
            framework = _framework_of(spec, each)
            problem = _problem(spec, each, framework)
            if problem or framework is None:
                problems.append(problem)
                continue
            made = _member(spec, each, framework, place.inside)
            members.append(replace(made, own_model=bool(said.model)))
    if problems:
        raise ProjectError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the models of the notebook",
            hint="say what they are in [[tool.offline-kit.notebook.models]], or name a `function` that predicts",
            details=problems,
        )
    return _named_apart(members)


def _framework_of(spec: ModelSpec, candidate: _Candidate) -> Framework | None:
    if spec.framework:
        return framework_table.named(spec.framework)
    return framework_table.of_model(spec.model, candidate.framework) or candidate.framework


class _Place:
    """Where files are that members can be: the kit, or another source."""

    def __init__(self, files: Sequence[Checkpoint], inside: dict[str, str]) -> None:
        self.candidates = _candidates(files)
        self.inside = inside


def _unseen(spec: ModelSpec, members: list[Member]) -> list[str]:
    """Take a member of a source without a local copy on trust, if its framework is said."""
    framework = framework_table.named(spec.framework)
    if framework is None:
        known = ", ".join(each.name for each in framework_table.FRAMEWORKS)
        ways = f"name a local copy of the source under `copies`, or set `framework` (one of {known})"
        return [f"'{spec.files}' of '{spec.origin}': nothing tells its framework; {ways}"]
    if problem := _lacking(spec, spec.files, framework):
        return [problem]
    members.append(
        Member(
            name=spec.files,
            framework=framework.name,
            path=Path(spec.files),
            kit_path=spec.files,
            model=spec.model,
            weight=spec.weight,
            params=dict(spec.params),
            origin=spec.origin,
            transform=spec.transform,
            batch_size=spec.batch_size,
        )
    )
    return []


def chosen(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> NotebookSettings:
    """Return the settings with the template `predict` where nothing else is said and the checkpoints tell enough.

    That is: no template, model or function is named, and each checkpoint is claimed by a framework that
    needs nothing more to be said and whose usual task is the same.
    """
    if not settings.automatic or settings.template != "plain" or settings.source or not checkpoints:
        return settings
    claimed = claimants(settings, checkpoints).values()
    tasks = {framework.task if framework and not framework.needs else "" for framework in claimed}
    return settings if "" in tasks or len(tasks) != 1 else replace(settings, template="predict")


def claimants(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> dict[str, Framework | None]:
    """Return who claims each model among the checkpoints, by original name, None for nobody; `aside` names no models."""
    besides = aside(settings, checkpoints)
    return {
        each.original: each.framework for each in _candidates(checkpoints) if each.original not in besides
    }


def unplaced(claimed: Mapping[str, Framework | None]) -> dict[str, str]:
    """Return the models that no framework loads without a further word, and what each lacks."""
    return {
        name: f"{framework.title} needs {' and '.join(f'`{key}`' for key in framework.needs)} for it"
        if framework
        else "no framework is known to have made it"
        for name, framework in claimed.items()
        if not framework or framework.needs
    }


def undecided(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> tuple[Finding, ...]:
    """Warn of the files that keep a notebook without a template from predicting with the other models."""
    if not settings.automatic or settings.template != "plain" or settings.source:
        return ()
    claimed = claimants(settings, checkpoints)
    lacking = unplaced(claimed)
    if len(lacking) == len(claimed):
        return ()
    return tuple(
        Finding(
            severity=Severity.WARN,
            about=name,
            what=f"keeps the notebook from predicting with the other models: {what}",
            remedy='set `task`, and list the models in `models`: { files = "…" } for each, with `model` for this one; or'
            ' set template = "plain"',
        )
        for name, what in lacking.items()
    )


def aside(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the checkpoints that are no models, by original name, and what each is instead.

    These are scalers and encoders of scikit-learn, and texts that no framework claims, such as a map of
    labels; not what an entry of `models` names outright.
    """
    named = {each.files for each in settings.models}
    found = {}
    for each in _candidates(checkpoints):
        if len(each.files) > 1 or each.original in named:
            continue
        if each.framework is None and each.path.suffix.lower() in _TEXTS:
            found[each.original] = "is a text, and no model"
        elif each.framework and each.framework.name == "sklearn" and sklearn.is_preprocessor(each.path):
            found[each.original] = "prepares data, and cannot predict"
    return found


def findings(members: Iterable[Member]) -> tuple[Finding, ...]:
    """Return what the frameworks see in their members; those of a source without a local copy are not there to see."""
    found: list[Finding] = []
    for member in members:
        framework = framework_table.named(member.framework)
        found += framework.findings(member) if framework and member.path.exists() else ()
    return tuple(dict.fromkeys(found))


def by_position(settings: NotebookSettings, members: Iterable[Member]) -> tuple[Finding, ...]:
    """Warn that models take a table's columns by their places, where nothing says which these were in training.

    Not where a function of the user's chooses them.
    """
    said = settings.columns or settings.transform or settings.function
    if settings.task != "tabular" or settings.template not in ("predict", "server") or said:
        return ()
    blind = [
        each.name
        for each in members
        if (framework := framework_table.named(each.framework)) and framework.by_position(each)
    ]
    if not blind:
        return ()
    others = f" (and {len(blind) - 1} other{'s' * (len(blind) > 2)})" * (len(blind) > 1)
    return (
        Finding(
            severity=Severity.WARN,
            about=blind[0],
            what=f"takes columns by position{others}: a test set that has them in another order than training, or"
            " others too, is predicted wrongly without a word",
            remedy='at training, json.dump({"columns": X.dtypes.astype(str).to_dict()}, open("columns.json", "w")), and'
            ' set columns = "columns.json"; or choose them in a `transform`',
        ),
    )


def packages(members: Iterable[Member], beside: Iterable[Checkpoint] = ()) -> tuple[str, ...]:
    """Return the distributions that the notebook imports to load these members and what is beside them, sorted.

    Pickles name the libraries of all that is in them: an encoder, a booster at the end of a pipeline.
    """
    members = tuple(members)
    inside = pickled.packages([*(file for member in members for file in member.files), *beside])
    used = [framework for member in members if (framework := framework_table.named(member.framework))]
    always = ("numpy", "pandas") if used else ()
    return tuple(sorted({*always, *inside, *(name for framework in used for name in framework.packages)}))


def _candidates(checkpoints: Sequence[Checkpoint]) -> list[_Candidate]:
    """Return the folders that a framework claims, then the files that lie in none of them, by name."""
    found: list[_Candidate] = []
    taken: set[str] = set()
    for folder, place in _folders(checkpoints):
        files = tuple(each for each in checkpoints if each.original.startswith(f"{folder}/"))
        if files[0].original in taken:
            continue
        framework = framework_table.find(place)
        if framework:
            found.append(_Candidate(original=folder, path=place, files=files, framework=framework))
            taken |= {each.original for each in files}
    for each in checkpoints:
        if each.original not in taken:
            seen = Sniffed(kind=each.kind, refused=each.refused)
            framework = framework_table.find(each.path, seen)
            found.append(
                _Candidate(original=each.original, path=each.path, files=(each,), framework=framework)
            )
    return sorted(found, key=lambda one: one.original)


def _folders(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, Path]]:
    """Return every folder that the checkpoints lie in, outer ones first, with its place on this disk."""
    found: dict[str, Path] = {}
    for each in checkpoints:
        place = each.path
        for parent in PurePosixPath(each.original).parents:
            place = place.parent
            if parent.name and place.name == parent.name:
                found[parent.as_posix()] = place
    return sorted(found.items(), key=lambda item: (item[0].count("/"), item[0]))


def _meant(pattern: str, candidate: _Candidate) -> bool:
    pattern = pattern.rstrip("/").removeprefix("./")
    name = candidate.original
    if name == pattern or name.startswith(f"{pattern}/") or matches_glob(name, pattern):
        return True
    # A file inside of a model's folder stands for the folder.
    return len(candidate.files) > 1 and any(
        each.original == pattern or matches_glob(each.original, pattern) for each in candidate.files
    )


def _no_file(spec: ModelSpec, candidates: Sequence[_Candidate]) -> str:
    names = [each.original for each in candidates]
    guess = suggest_name(spec.files, names) or f"; there are: {', '.join(names[:5]) or 'none'}"
    return f"files = '{spec.files}' names none of the kit's checkpoints{guess}"


def _problem(spec: ModelSpec, candidate: _Candidate, framework: Framework | None) -> str:
    name = candidate.original
    known = ", ".join(each.name for each in framework_table.FRAMEWORKS)
    if spec.framework and not framework:
        guess = suggest_name(spec.framework, [each.name for each in framework_table.FRAMEWORKS])
        return f"'{name}': there is no framework '{spec.framework}'{guess or f'; take one of {known}'}"
    if framework is None:
        kind = candidate.files[0].kind
        seen = "" if kind is CheckpointKind.OTHER else f" (its format is {kind})"
        return (
            f"'{name}': no framework is known to have made it{seen}; set `framework` for it (one of {known})"
        )
    return _lacking(spec, name, framework)


def _lacking(spec: ModelSpec, name: str, framework: Framework) -> str:
    lacking = [key for key in framework.needs if not getattr(spec, key)]
    return (
        f"'{name}': {framework.title} needs {' and '.join(f'`{key}`' for key in lacking)} for it, "
        f'such as {lacking[0]} = "src/model.py:Net"'
        if lacking
        else ""
    )


def _member(spec: ModelSpec, candidate: _Candidate, framework: Framework, inside: dict[str, str]) -> Member:
    first = candidate.files[0]
    below = first.original.removeprefix(candidate.original)
    member = Member(
        name=candidate.original,
        framework=framework.name,
        path=candidate.path,
        kit_path=inside[first.original].removesuffix(below) if below else inside[first.original],
        files=candidate.files,
        model=spec.model,
        weight=spec.weight,
        params=dict(spec.params),
        origin=spec.origin,
        transform=spec.transform,
        batch_size=spec.batch_size,
    )
    said = framework.version(member)
    return replace(member, version=said or _installed(framework.library), version_said=bool(said))


def _installed(library: str) -> str:
    """Return the version beside this tool, which is the project's own where both share an environment."""
    try:
        return importlib.metadata.version(library) if library else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _named_apart(members: list[Member]) -> tuple[Member, ...]:
    """Give short names: the last steps of the paths that tell them apart."""
    names = [member.name for member in members]
    for steps in range(1, 20):
        short = ["/".join(name.split("/")[-steps:]) for name in names]
        if len(set(short)) == len(short):
            return tuple(replace(member, name=name) for member, name in zip(members, short, strict=True))
    return tuple(replace(each, name=f"{each.name} ({n})") for n, each in enumerate(members, 1))
