"""The members of the notebook's ensemble: which files are a model, and which framework loads it."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import framework_table, sklearn
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.checkpoints.pickle_packages import list_pickle_packages
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

_TEXT_SUFFIXES = frozenset({".json", ".csv", ".tsv", ".txt", ".yaml", ".yml"})
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


def resolve_members(
    settings: NotebookSettings,
    checkpoints: Sequence[Checkpoint],
    other_sources: Mapping[str, Sequence[Checkpoint]] | None = None,
) -> tuple[Member, ...]:
    """Return the members, in the order of the configuration, else of the checkpoints' names.

    A folder that a framework claims as a whole is one member. `other_sources` holds what lies in local copies of
    other sources, by source. Raises ProjectError with every entry that names no file, every file that no
    framework knows, and every key that is missing.
    """
    sources = {"": _FileSource(checkpoints, layout.name_checkpoints(checkpoints))}
    for origin, files in (other_sources or {}).items():
        sources[origin] = _FileSource(files, {candidate.original: candidate.original for candidate in files})
    candidates = sources[""].candidates
    entries = settings.models or tuple(ModelSpec(files=candidate.original) for candidate in candidates)
    specs = tuple(replace(candidate, model=candidate.model or settings.model) for candidate in entries)
    problems: list[str] = []
    members: list[Member] = []
    for entry, spec in zip(entries, specs, strict=True):
        source = sources.get(spec.origin)
        if source is None:
            problems += _add_unseen_member(spec, members)
            continue
        matches = [candidate for candidate in source.candidates if _matches_pattern(spec.files, candidate)]
        if not matches:
            problems.append(_describe_missing(spec, source.candidates))
        for candidate in matches:
            framework = _choose_framework(spec, candidate)
            problem = _describe_problem(spec, candidate, framework)
            if problem or framework is None:
                problems.append(problem)
                continue
            member = _build_member(spec, candidate, framework, source.kit_paths)
            members.append(replace(member, own_model=bool(entry.model)))
    if problems:
        raise ProjectError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the models of the notebook",
            hint="say what they are in [[tool.offline-kit.notebook.models]], or name a `function` that predicts",
            details=problems,
        )
    return _shorten_names(members)


def _choose_framework(spec: ModelSpec, candidate: _Candidate) -> Framework | None:
    if spec.framework:
        return framework_table.find_framework(spec.framework)
    return framework_table.match_reference(spec.model, candidate.framework) or candidate.framework


class _FileSource:
    """Where files are that members can be: the kit, or another source."""

    def __init__(self, files: Sequence[Checkpoint], inside: dict[str, str]) -> None:
        self.candidates = _list_candidates(files)
        self.kit_paths = inside


def _add_unseen_member(spec: ModelSpec, members: list[Member]) -> list[str]:
    """Take a member of a source without a local copy on trust, if its framework is said."""
    framework = framework_table.find_framework(spec.framework)
    if framework is None:
        known_names = ", ".join(framework.name for framework in framework_table.FRAMEWORKS)
        remedy = f"name a local copy of the source under `copies`, or set `framework` (one of {known_names})"
        return [f"'{spec.files}' of '{spec.origin}': nothing tells its framework; {remedy}"]
    if problem := _describe_missing_keys(spec, spec.files, framework):
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


def choose_template(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> NotebookSettings:
    """Return the settings with the template `predict` where nothing else is said and the checkpoints tell enough.

    That is: no template, model or function is named, and each checkpoint is claimed by a framework that
    needs nothing more to be said and whose usual task is the same.
    """
    if not settings.automatic or settings.template != "plain" or settings.source or not checkpoints:
        return settings
    matched = match_checkpoints(settings, checkpoints).values()
    tasks = {framework.task if framework and not framework.required_keys else "" for framework in matched}
    return settings if "" in tasks or len(tasks) != 1 else replace(settings, template="predict")


def match_checkpoints(
    settings: NotebookSettings, checkpoints: Sequence[Checkpoint]
) -> dict[str, Framework | None]:
    """Return who claims each model among the checkpoints, by original name, None for nobody; `aside` names no models."""
    non_models = find_non_models(settings, checkpoints)
    return {
        candidate.original: candidate.framework
        for candidate in _list_candidates(checkpoints)
        if candidate.original not in non_models
    }


def list_incomplete(matched: Mapping[str, Framework | None]) -> dict[str, str]:
    """Return the models that no framework loads without a further word, and what each lacks."""
    return {
        name: f"{framework.title} needs {' and '.join(f'`{key}`' for key in framework.required_keys)} for it"
        if framework
        else "no framework is known to have made it"
        for name, framework in matched.items()
        if not framework or framework.required_keys
    }


def check_undecided(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> tuple[Finding, ...]:
    """Warn of the files that keep a notebook without a template from predicting with the other models."""
    if not settings.automatic or settings.template != "plain" or settings.source:
        return ()
    matched = match_checkpoints(settings, checkpoints)
    incomplete = list_incomplete(matched)
    if len(incomplete) == len(matched):
        return ()
    return tuple(
        Finding(
            severity=Severity.WARN,
            about=name,
            what=f"keeps the notebook from predicting with the other models: {reason}",
            remedy='set `task`, and list the models in `models`: { files = "…" } for each, with `model` for this one; or'
            ' set template = "plain"',
        )
        for name, reason in incomplete.items()
    )


def find_non_models(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the checkpoints that are no models, by original name, and what each is instead.

    These are scalers and encoders of scikit-learn, and texts that no framework claims, such as a map of
    labels; not what an entry of `models` names outright.
    """
    explicit = {candidate.files for candidate in settings.models}
    non_models = {}
    for candidate in _list_candidates(checkpoints):
        if len(candidate.files) > 1 or candidate.original in explicit:
            continue
        if candidate.framework is None and candidate.path.suffix.lower() in _TEXT_SUFFIXES:
            non_models[candidate.original] = "is a text, and no model"
        elif (
            candidate.framework
            and candidate.framework.name == "sklearn"
            and sklearn.is_preprocessor(candidate.path)
        ):
            non_models[candidate.original] = "prepares data, and cannot predict"
    return non_models


def check_members(members: Iterable[Member]) -> tuple[Finding, ...]:
    """Return what the frameworks see in their members; those of a source without a local copy are not there to see."""
    findings: list[Finding] = []
    for member in members:
        framework = framework_table.find_framework(member.framework)
        findings += framework.check_member(member) if framework and member.path.exists() else ()
    return tuple(dict.fromkeys(findings))


def check_column_order(settings: NotebookSettings, members: Iterable[Member]) -> tuple[Finding, ...]:
    """Warn that models take a table's columns by their places, where nothing says which these were in training.

    Not where a function of the user's chooses them.
    """
    explicit = settings.columns or settings.transform or settings.function
    if settings.task != "tabular" or settings.template not in ("predict", "server") or explicit:
        return ()
    positional = [
        member.name
        for member in members
        if (framework := framework_table.find_framework(member.framework))
        and framework.uses_column_order(member)
    ]
    if not positional:
        return ()
    suffix = f" (and {len(positional) - 1} other{'s' * (len(positional) > 2)})" * (len(positional) > 1)
    return (
        Finding(
            severity=Severity.WARN,
            about=positional[0],
            what=f"takes columns by position{suffix}: a test set that has them in another order than training, or"
            " others too, is predicted wrongly without a word",
            remedy='at training, json.dump({"columns": X.dtypes.astype(str).to_dict()}, open("columns.json", "w")), and'
            ' set columns = "columns.json"; or choose them in a `transform`',
        ),
    )


def list_member_packages(
    members: Iterable[Member], other_files: Iterable[Checkpoint] = ()
) -> tuple[str, ...]:
    """Return the distributions that the notebook imports to load these members and what is beside them, sorted.

    Pickles name the libraries of all that is in them: an encoder, a booster at the end of a pipeline.
    """
    members = tuple(members)
    pickled_packages = list_pickle_packages(
        [*(file for member in members for file in member.files), *other_files]
    )
    frameworks = [
        framework for member in members if (framework := framework_table.find_framework(member.framework))
    ]
    always = ("numpy", "pandas") if frameworks else ()
    return tuple(
        sorted(
            {*always, *pickled_packages, *(name for framework in frameworks for name in framework.packages)}
        )
    )


def _list_candidates(checkpoints: Sequence[Checkpoint]) -> list[_Candidate]:
    """Return the folders that a framework claims, then the files that lie in none of them, by name."""
    candidates: list[_Candidate] = []
    claimed: set[str] = set()
    for folder, folder_path in _list_folders(checkpoints):
        files = tuple(
            checkpoint for checkpoint in checkpoints if checkpoint.original.startswith(f"{folder}/")
        )
        if files[0].original in claimed:
            continue
        framework = framework_table.match_framework(folder_path)
        if framework:
            candidates.append(_Candidate(original=folder, path=folder_path, files=files, framework=framework))
            claimed |= {checkpoint.original for checkpoint in files}
    for checkpoint in checkpoints:
        if checkpoint.original not in claimed:
            classified = ClassifiedFile(kind=checkpoint.kind, refused=checkpoint.refused)
            framework = framework_table.match_framework(checkpoint.path, classified)
            candidates.append(
                _Candidate(
                    original=checkpoint.original,
                    path=checkpoint.path,
                    files=(checkpoint,),
                    framework=framework,
                )
            )
    return sorted(candidates, key=lambda candidate: candidate.original)


def _list_folders(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, Path]]:
    """Return every folder that the checkpoints lie in, outer ones first, with its place on this disk."""
    folders: dict[str, Path] = {}
    for checkpoint in checkpoints:
        path = checkpoint.path
        for parent in PurePosixPath(checkpoint.original).parents:
            path = path.parent
            if parent.name and path.name == parent.name:
                folders[parent.as_posix()] = path
    return sorted(folders.items(), key=lambda item: (item[0].count("/"), item[0]))


def _matches_pattern(pattern: str, candidate: _Candidate) -> bool:
    pattern = pattern.rstrip("/").removeprefix("./")
    name = candidate.original
    if name == pattern or name.startswith(f"{pattern}/") or matches_glob(name, pattern):
        return True
    # A file inside of a model's folder stands for the folder.
    return len(candidate.files) > 1 and any(
        checkpoint.original == pattern or matches_glob(checkpoint.original, pattern)
        for checkpoint in candidate.files
    )


def _describe_missing(spec: ModelSpec, candidates: Sequence[_Candidate]) -> str:
    names = [candidate.original for candidate in candidates]
    guess = suggest_name(spec.files, names) or f"; there are: {', '.join(names[:5]) or 'none'}"
    return f"files = '{spec.files}' names none of the kit's checkpoints{guess}"


def _describe_problem(spec: ModelSpec, candidate: _Candidate, framework: Framework | None) -> str:
    name = candidate.original
    known_names = ", ".join(framework.name for framework in framework_table.FRAMEWORKS)
    if spec.framework and not framework:
        guess = suggest_name(spec.framework, [framework.name for framework in framework_table.FRAMEWORKS])
        return f"'{name}': there is no framework '{spec.framework}'{guess or f'; take one of {known_names}'}"
    if framework is None:
        kind = candidate.files[0].kind
        format_note = "" if kind is CheckpointKind.OTHER else f" (its format is {kind})"
        return f"'{name}': no framework is known to have made it{format_note}; set `framework` for it (one of {known_names})"
    return _describe_missing_keys(spec, name, framework)


def _describe_missing_keys(spec: ModelSpec, name: str, framework: Framework) -> str:
    missing = [key for key in framework.required_keys if not getattr(spec, key)]
    return (
        f"'{name}': {framework.title} needs {' and '.join(f'`{key}`' for key in missing)} for it, "
        f'such as {missing[0]} = "src/model.py:Net"'
        if missing
        else ""
    )


def _build_member(
    spec: ModelSpec, candidate: _Candidate, framework: Framework, kit_paths: dict[str, str]
) -> Member:
    first_file = candidate.files[0]
    suffix = first_file.original.removeprefix(candidate.original)
    member = Member(
        name=candidate.original,
        framework=framework.name,
        path=candidate.path,
        kit_path=kit_paths[first_file.original].removesuffix(suffix)
        if suffix
        else kit_paths[first_file.original],
        files=candidate.files,
        model=spec.model,
        weight=spec.weight,
        params=dict(spec.params),
        origin=spec.origin,
        transform=spec.transform,
        batch_size=spec.batch_size,
    )
    stated_version = framework.read_version(member)
    return replace(
        member,
        version=stated_version or _installed_version(framework.library),
        version_said=bool(stated_version),
    )


def _installed_version(library: str) -> str:
    """Return the version beside this tool, which is the project's own where both share an environment."""
    try:
        return importlib.metadata.version(library) if library else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _shorten_names(members: list[Member]) -> tuple[Member, ...]:
    """Give short names: the last steps of the paths that tell them apart."""
    names = [member.name for member in members]
    for steps in range(1, 20):
        short = ["/".join(name.split("/")[-steps:]) for name in names]
        if len(set(short)) == len(short):
            return tuple(replace(member, name=name) for member, name in zip(members, short, strict=True))
    return tuple(replace(member, name=f"{member.name} ({n})") for n, member in enumerate(members, 1))
