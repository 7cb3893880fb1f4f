"""Resolve the members of the notebook's ensemble: which files are a model, and which framework loads it."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import framework_table, sklearn
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.checkpoints.pickle_streams import list_pickle_packages
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
    """A file, or a folder of files, that may be one model."""

    original: str
    path: Path
    files: tuple[Checkpoint, ...]
    framework: Framework | None


def resolve_members(
    settings: NotebookSettings,
    checkpoints: Sequence[Checkpoint],
    other_sources: Mapping[str, Sequence[Checkpoint]] | None = None,
) -> tuple[Member, ...]:
    """Return the members, in the order of the configuration, else of the checkpoints' names.

    A folder that a framework loads as a whole is one member. `other_sources` holds the files in local copies of other
    sources, by source. Raises ProjectError with every entry that names no file, every file that no framework knows,
    and every missing key.
    """
    sources = {"": (_list_candidates(checkpoints), layout.name_checkpoints(checkpoints))}
    for origin, files in (other_sources or {}).items():
        sources[origin] = (_list_candidates(files), {file.original: file.original for file in files})
    candidates = sources[""][0]
    entries = settings.models or tuple(ModelSpec(files=candidate.original) for candidate in candidates)
    specs = tuple(replace(candidate, model=candidate.model or settings.model) for candidate in entries)
    problems: list[str] = []
    members: list[Member] = []
    for entry, spec in zip(entries, specs, strict=True):
        if spec.origin not in sources:
            problems += _add_unseen_member(spec, members)
            continue
        candidates, kit_paths = sources[spec.origin]
        matches = [candidate for candidate in candidates if _matches_pattern(spec.files, candidate)]
        if not matches:
            problems.append(_describe_missing(spec, candidates))
        for candidate in matches:
            framework = _choose_framework(spec, candidate)
            problem = _describe_problem(spec, candidate, framework)
            if problem or framework is None:
                problems.append(problem)
                continue
            member = _build_member(spec, candidate, framework, kit_paths)
            members.append(replace(member, own_model=bool(entry.model)))
    if problems:
        raise ProjectError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the models of the notebook",
            hint="describe them in [[tool.offline-kit.notebook.models]], or set `function` to code that predicts",
            code="model-unresolved",
            details=problems,
        )
    return _shorten_names(members)


def _choose_framework(spec: ModelSpec, candidate: _Candidate) -> Framework | None:
    if spec.framework:
        return framework_table.find_framework(spec.framework)
    return framework_table.match_reference(spec.model, candidate.framework) or candidate.framework


def _add_unseen_member(spec: ModelSpec, members: list[Member]) -> list[str]:
    """Add a member of a source without a local copy if its framework is configured; else return the problem."""
    framework = framework_table.find_framework(spec.framework)
    if framework is None:
        known_names = ", ".join(framework.name for framework in framework_table.FRAMEWORKS)
        remedy = f"name a local copy of the source under `copies`, or set `framework` (one of {known_names})"
        return [f"'{spec.files}' of '{spec.origin}': its framework is unknown; {remedy}"]
    if problem := _describe_missing_keys(spec, spec.files, framework):
        return [problem]
    members.append(_create_member(spec, framework, spec.files, Path(spec.files), spec.files))
    return []


def choose_template(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> NotebookSettings:
    """Return the settings with the template `predict` if nothing else is configured and the checkpoints suffice.

    That is: no template, model or function is set, and each checkpoint's framework needs no further settings and has
    the same usual task.
    """
    if not settings.automatic or settings.template != "plain" or settings.source or not checkpoints:
        return settings
    matched = match_checkpoints(settings, checkpoints).values()
    tasks = {framework.task if framework and not framework.required_keys else "" for framework in matched}
    return settings if "" in tasks or len(tasks) != 1 else replace(settings, template="predict")


def match_checkpoints(
    settings: NotebookSettings, checkpoints: Sequence[Checkpoint]
) -> dict[str, Framework | None]:
    """Return the framework of each model among the checkpoints, by original name; None if it is unknown."""
    non_models = find_non_models(settings, checkpoints)
    return {
        candidate.original: candidate.framework
        for candidate in _list_candidates(checkpoints)
        if candidate.original not in non_models
    }


def list_incomplete(matched: Mapping[str, Framework | None]) -> dict[str, str]:
    """Return the models that no framework loads without further settings, and what each lacks."""
    return {
        name: f"{framework.title} needs {' and '.join(f'`{key}`' for key in framework.required_keys)} for it"
        if framework
        else "no known framework made it"
        for name, framework in matched.items()
        if not framework or framework.required_keys
    }


def check_undecided(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> tuple[Finding, ...]:
    """Warn of files because of which the notebook does not predict with the other models."""
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

    These are scalers and encoders of scikit-learn, and text files of no framework, such as a map of labels, unless an
    entry of `models` names them.
    """
    explicit = {candidate.files for candidate in settings.models}
    non_models = {}
    for candidate in _list_candidates(checkpoints):
        if len(candidate.files) > 1 or candidate.original in explicit:
            continue
        if candidate.framework is None and candidate.path.suffix.lower() in _TEXT_SUFFIXES:
            non_models[candidate.original] = "is a text file, not a model"
        elif (
            candidate.framework
            and candidate.framework.name == "sklearn"
            and sklearn.is_preprocessor(candidate.path)
        ):
            non_models[candidate.original] = "prepares data and cannot predict"
    return non_models


def check_members(members: Iterable[Member]) -> tuple[Finding, ...]:
    """Return the frameworks' findings on their members, except those of a source without a local copy."""
    findings: list[Finding] = []
    for member in members:
        framework = framework_table.find_framework(member.framework)
        findings += framework.check_member(member) if framework and member.path.exists() else ()
    return tuple(dict.fromkeys(findings))


def check_column_order(settings: NotebookSettings, members: Iterable[Member]) -> tuple[Finding, ...]:
    """Warn if models take columns by position and nothing configures the columns of the training."""
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
            what=f"takes columns by position{suffix}: a test set with another order or other columns than in"
            " training gives wrong predictions without an error",
            remedy='at training, json.dump({"columns": X.dtypes.astype(str).to_dict()}, open("columns.json", "w")), and'
            ' set columns = "columns.json"; or choose them in a `transform`',
        ),
    )


def list_member_packages(
    members: Iterable[Member], other_files: Iterable[Checkpoint] = ()
) -> tuple[str, ...]:
    """Return the distributions that the notebook imports to load these members and other files, sorted.

    Pickles name the libraries of everything in them: an encoder, a booster at the end of a pipeline.
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
    """Return the folders that a framework loads as a whole, and the files in none of them, sorted by name."""
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
    """Return every folder of the checkpoints, outer ones first, with its path."""
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
    return f"files = '{spec.files}' matches none of the kit's checkpoints{guess}"


def _describe_problem(spec: ModelSpec, candidate: _Candidate, framework: Framework | None) -> str:
    name = candidate.original
    known_names = ", ".join(framework.name for framework in framework_table.FRAMEWORKS)
    if spec.framework and not framework:
        guess = suggest_name(spec.framework, [framework.name for framework in framework_table.FRAMEWORKS])
        return f"'{name}': there is no framework '{spec.framework}'{guess or f'; take one of {known_names}'}"
    if framework is None:
        kind = candidate.files[0].kind
        format_note = "" if kind is CheckpointKind.OTHER else f" (its format is {kind})"
        return f"'{name}': no known framework made it{format_note}; set `framework` for it (one of {known_names})"
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
    kit_path = kit_paths[first_file.original].removesuffix(suffix)
    member = _create_member(spec, framework, candidate.original, candidate.path, kit_path)
    member = replace(member, files=candidate.files)
    version = framework.read_version(member)
    return replace(
        member, version=version or _installed_version(framework.library), version_said=bool(version)
    )


def _create_member(spec: ModelSpec, framework: Framework, name: str, path: Path, kit_path: str) -> Member:
    return Member(
        name=name,
        framework=framework.name,
        path=path,
        kit_path=kit_path,
        model=spec.model,
        weight=spec.weight,
        params=dict(spec.params),
        origin=spec.origin,
        transform=spec.transform,
        batch_size=spec.batch_size,
    )


def _installed_version(library: str) -> str:
    """Return the version in this tool's environment, which is the project's if both share it."""
    try:
        return importlib.metadata.version(library) if library else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _shorten_names(members: list[Member]) -> tuple[Member, ...]:
    """Shorten names to the last parts of their paths that still differ."""
    names = [member.name for member in members]
    for steps in range(1, 20):
        short = ["/".join(name.split("/")[-steps:]) for name in names]
        if len(set(short)) == len(short):
            return tuple(replace(member, name=name) for member, name in zip(members, short, strict=True))
    return tuple(replace(member, name=f"{member.name} ({n})") for n, member in enumerate(members, 1))
