"""Resolve the members of the notebook's ensemble: which files are a model, and which framework loads it."""

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints.frameworks import framework_table, pytorch, sklearn
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.checkpoints.frameworks.framework_table import BY_NAME
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

# Files beside models that code may read
_TEXT_SUFFIXES = frozenset({".json", ".csv", ".tsv", ".txt", ".yaml", ".yml"})
_KNOWN_NAMES = ", ".join(BY_NAME)


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
    entries = settings.models or tuple(ModelSpec(files=candidate.original) for candidate in sources[""][0])
    problems: list[str] = []
    members: list[Member] = []
    for entry in entries:
        spec = replace(entry, model=entry.model or settings.model)
        for result in _resolve_entry(spec, sources.get(spec.origin)):
            if isinstance(result, str):
                problems.append(result)
            else:
                members.append(replace(result, own_model=bool(entry.model and result.files)))
    if problems:
        raise ProjectError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the models of the notebook",
            hint="describe them in [[tool.offline-kit.notebook.models]], or set `function` to code that predicts",
            code="model-unresolved",
            details=problems,
        )
    # Shorten names to the last parts of their paths that still differ.
    for steps in range(1, 20):
        short = ["/".join(member.name.split("/")[-steps:]) for member in members]
        if len(set(short)) == len(short):
            return tuple(replace(member, name=name) for member, name in zip(members, short, strict=True))
    return tuple(replace(member, name=f"{member.name} ({n})") for n, member in enumerate(members, 1))


def _is_undecided(settings: NotebookSettings) -> bool:
    """Whether the configuration leaves it to the files what the notebook does."""
    return settings.automatic and settings.template == "plain" and not settings.source


def choose_template(settings: NotebookSettings, checkpoints: Sequence[Checkpoint]) -> NotebookSettings:
    """Return the settings with the template `predict` if nothing else is configured and the checkpoints suffice.

    That is: no template, model or function is set, and each checkpoint's framework needs no further settings and has
    the same usual task.
    """
    if not _is_undecided(settings) or not checkpoints:
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
    matched = match_checkpoints(settings, checkpoints) if _is_undecided(settings) else {}
    incomplete = list_incomplete(matched)
    if len(incomplete) == len(matched):
        return ()
    remedy = (
        'set `task`, and list the models in `models`: { files = "…" } for each, with `model` for this one; or set '
        'template = "plain"'
    )
    what = "keeps the notebook from predicting with the other models"
    return tuple(
        Finding(severity=Severity.WARN, about=name, what=f"{what}: {reason}", remedy=remedy)
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
        framework, path = candidate.framework, candidate.path
        if len(candidate.files) > 1 or candidate.original in explicit:
            continue
        if framework is None and path.suffix.lower() in _TEXT_SUFFIXES:
            non_models[candidate.original] = "is a text file, not a model"
        elif framework is sklearn.SKLEARN and sklearn.is_preprocessor(path):
            non_models[candidate.original] = "prepares data and cannot predict"
    return non_models


def check_members(members: Iterable[Member]) -> tuple[Finding, ...]:
    """Return the frameworks' findings on their members, except those of a source without a local copy."""
    present = (member for member in members if member.path.exists())
    findings = (finding for member in present for finding in BY_NAME[member.framework].check_member(member))
    return tuple(dict.fromkeys(findings))


def check_column_order(settings: NotebookSettings, members: Iterable[Member]) -> tuple[Finding, ...]:
    """Warn if models take columns by position and nothing configures the columns of the training."""
    explicit = settings.columns or settings.transform or settings.function
    if settings.task != "tabular" or settings.template not in ("predict", "server") or explicit:
        return ()
    positional = [member.name for member in members if BY_NAME[member.framework].uses_column_order(member)]
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
    members: Sequence[Member], other_files: Iterable[Checkpoint] = ()
) -> tuple[str, ...]:
    """Return the distributions that the notebook imports to load these members and other files, sorted.

    Pickles name the libraries of everything in them: an encoder, a booster at the end of a pipeline.
    """
    pickles = [*(file for member in members for file in member.files), *other_files]
    # The cells of every model take tables or arrays
    always = ("numpy", "pandas") if members else ()
    packages = (name for member in members for name in BY_NAME[member.framework].packages)
    return tuple(sorted({*always, *list_pickle_packages(pickles), *packages}))


def _list_candidates(checkpoints: Sequence[Checkpoint]) -> list[_Candidate]:
    """Return the folders that a framework loads as a whole, and the files in none of them, sorted by name."""
    folders: dict[str, Path] = {}
    for checkpoint in checkpoints:
        path = checkpoint.path
        for parent in PurePosixPath(checkpoint.original).parents:
            path = path.parent
            if parent.name and path.name == parent.name:
                folders[parent.as_posix()] = path
    candidates: list[_Candidate] = []
    rest = list(checkpoints)
    # Outer folders first: what lies in a claimed one belongs to it.
    for folder, path in sorted(folders.items(), key=lambda item: (item[0].count("/"), item[0])):
        files = tuple(file for file in rest if file.original.startswith(f"{folder}/"))
        framework = framework_table.match_framework(path) if files else None
        if framework:
            candidates.append(_Candidate(original=folder, path=path, files=files, framework=framework))
            rest = [file for file in rest if file not in files]
    for file in rest:
        framework = framework_table.match_framework(file.path)
        candidates.append(
            _Candidate(original=file.original, path=file.path, files=(file,), framework=framework)
        )
    return sorted(candidates, key=lambda candidate: candidate.original)


def _matches_pattern(pattern: str, candidate: _Candidate) -> bool:
    pattern = pattern.rstrip("/").removeprefix("./")
    if candidate.original.startswith(f"{pattern}/"):
        return True
    # A file inside of a model's folder stands for the folder.
    inside = candidate.files if len(candidate.files) > 1 else ()
    names = [candidate.original, *(file.original for file in inside)]
    return any(name == pattern or matches_glob(name, pattern) for name in names)


def _resolve_entry(
    spec: ModelSpec, source: tuple[list[_Candidate], dict[str, str]] | None
) -> Iterator[Member | str]:
    """Yield the members of an entry of `models`, or what is wrong with it."""
    if source is None:
        # Nothing is known of a source without a local copy: the configuration must tell the framework.
        if framework := BY_NAME.get(spec.framework):
            problem = _describe_missing_keys(spec, spec.files, framework)
            yield problem or _make_member(spec, framework, spec.files, Path(spec.files), spec.files)
        else:
            remedy = (
                f"name a local copy of the source under `copies`, or set `framework` (one of {_KNOWN_NAMES})"
            )
            yield f"'{spec.files}' of '{spec.origin}': its framework is unknown; {remedy}"
        return
    candidates, kit_paths = source
    matches = [candidate for candidate in candidates if _matches_pattern(spec.files, candidate)]
    if not matches:
        names = [candidate.original for candidate in candidates]
        guess = suggest_name(spec.files, names) or f"; there are: {', '.join(names[:5]) or 'none'}"
        yield f"files = '{spec.files}' matches none of the kit's checkpoints{guess}"
    for candidate in matches:
        name = candidate.original
        framework = BY_NAME.get(spec.framework) if spec.framework else candidate.framework
        weights_alone = (None, pytorch.LIGHTNING, pytorch.SAFETENSORS, pytorch.TORCH_STATE_DICT)
        if not spec.framework and framework in weights_alone and spec.model.startswith(pytorch.TIMM_PREFIX):
            framework = pytorch.TIMM  # `model` names an architecture: "timm:resnet18"
        if framework:
            problem = _describe_missing_keys(spec, name, framework)
            yield problem or _build_member(spec, candidate, framework, kit_paths)
        elif spec.framework:
            guess = suggest_name(spec.framework, BY_NAME) or f"; take one of {_KNOWN_NAMES}"
            yield f"'{name}': there is no framework '{spec.framework}'{guess}"
        else:
            kind = candidate.files[0].kind
            note = "" if kind is CheckpointKind.OTHER else f" (its format is {kind})"
            yield f"'{name}': no known framework made it{note}; set `framework` for it (one of {_KNOWN_NAMES})"


def _describe_missing_keys(spec: ModelSpec, name: str, framework: Framework) -> str:
    missing = [key for key in framework.required_keys if not getattr(spec, key)]
    if not missing:
        return ""
    keys = " and ".join(f"`{key}`" for key in missing)
    return f"'{name}': {framework.title} needs {keys} for it, such as {missing[0]} = \"src/model.py:Net\""


def _build_member(
    spec: ModelSpec, candidate: _Candidate, framework: Framework, kit_paths: dict[str, str]
) -> Member:
    first_file = candidate.files[0]
    # A folder lies in the kit where its first file does
    suffix = first_file.original.removeprefix(candidate.original)
    kit_path = kit_paths[first_file.original].removesuffix(suffix)
    member = _make_member(spec, framework, candidate.original, candidate.path, kit_path)
    version = installed = framework.read_version(candidate.path)
    if framework.library and not version:
        # This tool's environment is the project's if both share it.
        with suppress(importlib.metadata.PackageNotFoundError):
            installed = importlib.metadata.version(framework.library)
    return replace(member, files=candidate.files, version=installed, version_said=bool(version))


def _make_member(spec: ModelSpec, framework: Framework, name: str, path: Path, kit_path: str) -> Member:
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
