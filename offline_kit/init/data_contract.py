"""Check model and data classes against the template `lightning`, in their source alone."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from offline_kit.checkpoints import file_downloads
from offline_kit.init import file_tree, project_code
from offline_kit.init.project_code import DetectedClass
from offline_kit.project.types import Checkpoint, Finding, Severity

_OUTSIDE_BASES = frozenset({"LightningDataModule", "Dataset", "object", "ABC", "Generic"})
"""Base classes outside the project that have no method `submission`."""
_NO_FOLDER = re.compile(
    r"(^|_)(csv|file|df|table|frame|json|batch|size|lr|transforms?|aug\w*|split|folds?|seed|workers?)(_|$)"
)
_NO_FOLDER_TYPES = re.compile(
    r"\b(int|float|bool|DataFrame|Module|dict|list|Sequence|Callable)\b", re.IGNORECASE
)


def check_data_class(project: Path, data: str, params: Mapping[str, object]) -> tuple[Finding, ...]:
    """Return what a data class lacks; `data` is its reference, `params` are the notebook's."""
    code = project_code.find_code(file_tree.scan_tree(project))
    data_class = _find_class(data, code.data)
    if data_class is None:
        return ()
    family = _class_family(data_class, {member.name: member for member in code.data})
    foreign = (
        {base for member in family for base in member.bases}
        - {member.name for member in family}
        - _OUTSIDE_BASES
    )
    problems = []
    if data_class.name not in code.submitting and not foreign:
        problems.append("has no method submission(predictions), which returns the submission's rows")
    first = next((member.first for member in family if member.first is not None), None)
    if first and first[0] not in params and _cannot_be_folder(*first):
        problems.append(f"gets the competition's folder as its first parameter '{first[0]}'")
    return tuple(
        Finding(
            severity=Severity.WARN, about=f"{data_class.file}:{data_class.name}", what=problem, remedy=_REMEDY
        )
        for problem in problems
    )


def check_model_class(
    project: Path, model: str, params: Mapping[str, object], checkpoints: Iterable[Checkpoint]
) -> tuple[Finding, ...]:
    """Return the constructor's required parameters that neither a checkpoint nor the notebook's params contain."""
    code = project_code.find_code(file_tree.scan_tree(project))
    classes = (*code.models, *code.plain_models)
    model_class = _find_class(model, classes)
    if model_class is None:
        return ()
    family = _class_family(model_class, {item.name: item for item in classes})
    needs = next((item.needs for item in family if item.first is not None), ())
    missing_by_checkpoint: dict[tuple[str, ...], list[str]] = {}
    for item in checkpoints:
        saved = file_downloads.read_pickle_texts(item)
        missing = tuple(
            parameter
            for parameter in needs
            if saved is not None and parameter not in saved and parameter not in params
        )
        missing_by_checkpoint.setdefault(missing, []).append(item.original)
    return tuple(
        Finding(
            severity=Severity.WARN,
            about=originals[0],
            what=f"holds no hyper-parameter {', '.join(map(repr, missing))}, which '{model}' requires",
            remedy=f"set {' and '.join(f'`{parameter} = …`' for parameter in missing)} in [tool.offline-kit.notebook.params]",
        )
        for missing, originals in missing_by_checkpoint.items()
        if missing
    )


_REMEDY = (
    "write a subclass with __init__(self, folder) and submission(self, predictions), and set it as `data` in "
    "[tool.offline-kit.notebook]"
)


def _find_class(reference: str, classes: Iterable[DetectedClass]) -> DetectedClass | None:
    """Return the class of a reference; None unless exactly one fits."""
    module, _, name = reference.partition(":")
    fitting = [item for item in classes if item.name == name and _is_defined_in(item, module)]
    return fitting[0] if len(fitting) == 1 else None


def _is_defined_in(detected: DetectedClass, module: str) -> bool:
    if module.endswith(".py"):
        return detected.file == module
    plain = detected.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return plain == module or plain.endswith(f".{module}")


def _class_family(detected: DetectedClass, named: Mapping[str, DetectedClass]) -> list[DetectedClass]:
    """Return a class and its base classes in the project, the nearest first."""
    family = [detected]
    for member in family:  # grows while it is walked
        family += [named[base] for base in member.bases if base in named and named[base] not in family]
    return family


def _cannot_be_folder(name: str, annotation: str, default: str) -> bool:
    number = re.fullmatch(r"-?[\d.]+(e-?\d+)?|True|False", default)
    file = re.search(r"\.\w{2,5}['\"]$", default)
    return bool(not name or _NO_FOLDER.search(name) or _NO_FOLDER_TYPES.search(annotation) or number or file)
