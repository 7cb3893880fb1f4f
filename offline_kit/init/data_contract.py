"""What the template `lightning` asks of model and data class, checked in their source: nothing is imported."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from offline_kit.checkpoints import hyper_parameters
from offline_kit.init import file_tree, project_code
from offline_kit.init.project_code import ClassFound
from offline_kit.project.types import Checkpoint, Finding, Severity

_BASES = frozenset({"LightningDataModule", "Dataset", "object", "ABC", "Generic"})
"""Bases outside the project that have no `submission`."""
_NO_FOLDER = re.compile(
    r"(^|_)(csv|file|df|table|frame|json|batch|size|lr|transforms?|aug\w*|split|folds?|seed|workers?)(_|$)"
)
_NO_FOLDER_TYPES = re.compile(
    r"\b(int|float|bool|DataFrame|Module|dict|list|Sequence|Callable)\b", re.IGNORECASE
)


def findings(project: Path, data: str, params: Mapping[str, object]) -> tuple[Finding, ...]:
    """Return what a data class lacks; `data` is its reference, `params` are those of the notebook."""
    where, _, name = data.partition(":")
    seen = project_code.find(file_tree.scan(project))
    candidates = [each for each in seen.data if each.name == name and _is_from(each, where)]
    if len(candidates) != 1:
        return ()
    found = candidates[0]
    family = _family(found, {each.name: each for each in seen.data})
    foreign = {base for each in family for base in each.bases} - {each.name for each in family} - _BASES
    problems = []
    if name not in seen.submitting and not foreign:
        problems.append("has no method submission(predictions), which returns the rows of the submission")
    first = next((each.first for each in family if each.first is not None), None)
    if first and first[0] not in params and _is_no_folder(*first):
        problems.append(f"gets the competition's folder as its first parameter, which is '{first[0]}'")
    return tuple(
        Finding(severity=Severity.WARN, about=f"{found.file}:{name}", what=what, remedy=_REMEDY)
        for what in problems
    )


def model_findings(
    project: Path, model: str, params: Mapping[str, object], checkpoints: Iterable[Checkpoint]
) -> tuple[Finding, ...]:
    """Return what a model's constructor wants and neither a checkpoint nor the notebook's params give."""
    where, _, name = model.partition(":")
    seen = project_code.find(file_tree.scan(project))
    known = (*seen.models, *seen.plain_models)
    candidates = [each for each in known if each.name == name and _is_from(each, where)]
    if len(candidates) != 1:
        return ()
    family = _family(candidates[0], {each.name: each for each in known})
    needs = next((each.needs for each in family if each.first is not None), ())
    lacking: dict[tuple[str, ...], list[str]] = {}
    for each in checkpoints:
        saved = hyper_parameters.read_pickle_texts(each)
        missing = tuple(one for one in needs if saved is not None and one not in saved and one not in params)
        lacking.setdefault(missing, []).append(each.original)
    return tuple(
        Finding(
            severity=Severity.WARN,
            about=originals[0],
            what=f"holds no hyper-parameter {', '.join(map(repr, missing))}, which '{model}' cannot be made without",
            remedy=f"give {' and '.join(f'`{one} = …`' for one in missing)} in [tool.offline-kit.notebook.params]",
        )
        for missing, originals in lacking.items()
        if missing
    )


_REMEDY = (
    "write a subclass with __init__(self, folder) and submission(self, predictions), and name it as `data` in "
    "[tool.offline-kit.notebook]"
)


def _is_from(found: ClassFound, where: str) -> bool:
    if where.endswith(".py"):
        return found.file == where
    plain = found.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return plain == where or plain.endswith(f".{where}")


def _family(found: ClassFound, named: Mapping[str, ClassFound]) -> list[ClassFound]:
    """Return a class and its bases inside the project, the nearest first."""
    family = [found]
    for each in family:  # grows while it is walked
        family += [named[base] for base in each.bases if base in named and named[base] not in family]
    return family


def _is_no_folder(name: str, annotation: str, default: str) -> bool:
    number = re.fullmatch(r"-?[\d.]+(e-?\d+)?|True|False", default)
    file = re.search(r"\.\w{2,5}['\"]$", default)
    return bool(not name or _NO_FOLDER.search(name) or _NO_FOLDER_TYPES.search(annotation) or number or file)
