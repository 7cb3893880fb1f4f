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


_REMEDY = (
    "write a subclass with __init__(self, folder) and submission(self, predictions), and set it as `data` in "
    "[tool.offline-kit.notebook]"
)


def check_data_class(project: Path, data: str, params: Mapping[str, object]) -> tuple[Finding, ...]:
    """Return what a data class lacks; `data` is its reference, `params` are the notebook's."""
    code = project_code.find_code(file_tree.scan_tree(project))
    data_class = _find_class(data, code.data)
    if data_class is None:
        return ()
    family = project_code.class_family(data_class, project_code.group_by_name(code.data))
    bases = {base for member in family for base in member.bases}
    foreign = bases - {member.name for member in family} - _OUTSIDE_BASES
    problems = []
    if data_class.name not in code.submitting and not foreign:
        problems.append("has no method submission(predictions), which returns the submission's rows")
    first = next((member.first for member in family if member.first is not None), None)
    if first and first[0] not in params and _cannot_be_folder(*first):
        problems.append(f"gets the competition's folder as its first parameter '{first[0]}'")
    about = f"{data_class.file}:{data_class.name}"
    return tuple(
        Finding(severity=Severity.WARN, about=about, what=problem, remedy=_REMEDY) for problem in problems
    )


def _cannot_be_folder(name: str, annotation: str, default: str) -> bool:
    number = re.fullmatch(r"-?[\d.]+(e-?\d+)?|True|False", default)
    file = re.search(r"\.\w{2,5}['\"]$", default)
    return bool(not name or _NO_FOLDER.search(name) or _NO_FOLDER_TYPES.search(annotation) or number or file)


def check_model_class(
    project: Path, model: str, params: Mapping[str, object], checkpoints: Iterable[Checkpoint]
) -> tuple[Finding, ...]:
    """Return the constructor's required parameters that neither a checkpoint nor the notebook's params contain."""
    code = project_code.find_code(file_tree.scan_tree(project))
    classes = [*code.models, *code.plain_models]
    model_class = _find_class(model, classes)
    if model_class is None:
        return ()
    family = project_code.class_family(model_class, project_code.group_by_name(classes))
    needs = next((item.needs for item in family if item.first is not None), ())
    findings: dict[tuple[str, ...], Finding] = {}  # one for all checkpoints that lack the same
    for item in checkpoints:
        saved = file_downloads.read_pickle_texts(item)
        known = {*params, *(needs if saved is None else saved)}
        if missing := tuple(parameter for parameter in needs if parameter not in known):
            stated = " and ".join(f"`{parameter} = …`" for parameter in missing)
            finding = Finding(
                severity=Severity.WARN,
                about=item.original,
                what=f"holds no hyper-parameter {', '.join(map(repr, missing))}, which '{model}' requires",
                remedy=f"set {stated} in [tool.offline-kit.notebook.params]",
            )
            findings.setdefault(missing, finding)
    return tuple(findings.values())


def _find_class(reference: str, classes: Iterable[DetectedClass]) -> DetectedClass | None:
    """Return the class of a reference; None unless exactly one fits."""
    module, _, name = reference.partition(":")
    fitting = []
    for item in classes:
        dotted = item.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if item.name == name and (item.file == module or f".{dotted}".endswith(f".{module}")):
            fitting.append(item)
    return fitting[0] if len(fitting) == 1 else None
