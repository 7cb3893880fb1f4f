"""The variables of the template `predict`: its members, the columns of training, the settings."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_kit.checkpoints.frameworks import framework_table, sklearn
from offline_kit.checkpoints.pickle_streams import read_globals
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.notebook import member_params, scripts
from offline_kit.project.types import Checkpoint, Finding, Member, NotebookSettings, Severity

BATCHES = {"tabular": 65536, "images": 32, "text": 256}
"""Default batch size by task: rows, images or texts."""
WORDS = {
    word.partition(":")[0]: word
    for word in ("", "argmax", "threshold:0.5", "labels:0.5", "clip:0:1", "round")
}
"""The built-in values of `postprocess`, each with an example of its numbers."""
TRANSFORM_INPUTS = {"images": "the path of a picture", "text": "the texts"}
"""What `transform` gets, by task; a table in any other."""
_REGRESSOR = r"Regressor$|\.(?:Ridge|Lasso|Lars|ElasticNet|LassoLars|BayesianRidge|KernelRidge|LinearRegression|\w*SVR)(?:CV)?$"
"""Classes of models whose answers are numbers of any size."""
REFERENCE = r"([\w.]+|[^:]+\.py):[A-Za-z_][\w.]*"


def predict_facts(
    settings: NotebookSettings, members: Sequence[Member], preprocessing: Mapping[str, str], project: Path
) -> dict[str, Any]:
    """Return the variables of the template `predict`.

    Raises: UsageError for settings that contradict each other, ProjectError for an invalid file of columns.
    """
    other_templates = set(scripts.built_in_templates()) - {"predict"}
    if settings.template in other_templates and not members:
        return {"preprocessing": dict(preprocessing)}
    problems = [*_check_postprocess(settings), *_check_references(settings), *_check_weights(settings)]
    if problems:
        raise UsageError(
            "the settings of the notebook are invalid",
            code="notebook-settings-invalid",
            hint="correct them in [tool.offline-kit.notebook]; docs/configuration.md lists what each takes",
            details=problems,
        )
    task = (
        choose_task(settings, members) if members else settings.task or "tabular"
    )  # a draft has no members yet
    columns, categories = read_columns(project / settings.columns) if settings.columns else ({}, {})
    used = dict.fromkeys(member.framework for member in members)
    return {
        "task": task,
        "members": [_describe_member(member) for member in members],
        "ensemble": settings.ensemble or ("weighted" if any(m.weight != 1 for m in members) else "mean"),
        "batch_size": settings.batch_size or BATCHES[task],
        "columns": columns,
        "categories": categories,
        "preprocessing": dict(preprocessing),
        # Several outputs under a threshold are questions of their own; under anything else they are classes.
        "each": settings.ensemble == "vote" and settings.postprocess.startswith(("labels:", "threshold:")),
        "elsewhere": any(member.origin for member in members),
        # Members that want the test set in their own way, and that say what their columns stand for.
        "apart": any(member.transform or member.batch_size or "text" in member.params for member in members),
        "named": any("labels" in member.params for member in members),
        "postprocess_word": not is_reference(settings.postprocess),
        "frameworks": [
            {
                "name": name,
                "title": framework.title,
                "runtime": framework.runtime,
                "members": [member.name for member in members if member.framework == name],
            }
            for name in used
            if (framework := framework_table.find_framework(name))
        ],
    }


def warn_of_unused(
    settings: NotebookSettings, members: Sequence[Member], preprocessing: Sequence[Checkpoint]
) -> tuple[Finding, ...]:
    """Warn of each scikit-learn scaler or encoder in the preprocessing that nothing applies.

    Skipped if a user's function may apply it, if a param names the file, or if a model's pickle already
    contains one of the same classes, as a pipeline does.
    """
    if not _predicts_by_models(settings, members):
        return ()
    inside = {
        name for member in members for file in member.files for name in sklearn.list_preprocessors(file.path)
    }
    named_files = {value for value in settings.params.values() if isinstance(value, str)}
    findings = []
    for checkpoint in preprocessing:
        classes = sklearn.list_preprocessors(checkpoint.path)
        if classes - inside and not named_files & {checkpoint.original, Path(checkpoint.original).name}:
            # The encoder of a target has its turn when the predictions are there.
            after = all(name.startswith("sklearn.preprocessing._label.") for name in classes)
            key, argument = (
                ("postprocess", "the predictions, the ids")
                if after
                else ("transform", TRANSFORM_INPUTS.get(settings.task, "the table"))
            )
            findings.append(
                Finding(
                    severity=Severity.WARN,
                    about=checkpoint.original,
                    what="is in the kit, but nothing in the notebook uses it",
                    remedy=f'set {key} = "file.py:function"; it gets {argument} and `preprocessing`',
                )
            )
    return tuple(findings)


def warn_of_unnamed(
    settings: NotebookSettings, members: Sequence[Member], checkpoints: Sequence[Checkpoint]
) -> tuple[Finding, ...]:
    """Warn of each checkpoint that no entry of `models` names and no function of the user's may load."""
    if not _predicts_by_models(settings, members):
        return ()
    used = {file.original for member in members for file in member.files}
    used |= {value for value in settings.params.values() if isinstance(value, str)}
    return tuple(
        Finding(
            severity=Severity.WARN,
            about=checkpoint.original,
            what="is in the kit, but no entry of `models` names it",
            remedy=f'add {{ files = "{checkpoint.original}" }} to `models` (with `model` for weights alone), or leave it out of '
            "`checkpoints`",
        )
        for checkpoint in checkpoints
        if not {checkpoint.original, Path(checkpoint.original).name} & used
    )


def _predicts_by_models(settings: NotebookSettings, members: Sequence[Member]) -> bool:
    """Whether the notebook predicts with its members only, and no user's function loads anything."""
    functions = (settings.function, settings.transform, settings.tta, is_reference(settings.postprocess))
    return settings.template in ("predict", "server") and bool(members) and not any(functions)


def warn_of_ranks(settings: NotebookSettings, members: Sequence[Member]) -> tuple[Finding, ...]:
    """Warn of a rank mean over regressors: ranks are between 0 and 1, targets need not be."""
    if settings.ensemble != "rank" or is_reference(settings.postprocess):
        return ()
    numbers = [
        member
        for member in members
        if any(re.search(_REGRESSOR, name) for file in member.files for name in read_globals(file.path))
    ]
    return tuple(
        Finding(
            severity=Severity.WARN,
            about=member.name,
            what='predicts numbers, and ensemble = "rank" makes mean ranks between 0 and 1 of them',
            remedy='use "mean" or "weighted", unless the metric only uses the order (AUC)',
        )
        for member in numbers[:1]
    )


def choose_task(settings: NotebookSettings, members: Sequence[Member]) -> str:
    """Return the configured task, or the usual one of the members' frameworks.

    Raises: UsageError if neither determines it.
    """
    if settings.task:
        return settings.task
    usual = {
        framework.task
        for member in members
        if (framework := framework_table.find_framework(member.framework))
    }
    if len(usual) == 1 and (task := usual.pop()):
        return task
    raise UsageError(
        "`task` is missing, and the models' frameworks do not determine it",
        code="task-missing",
        hint='set `task` in [tool.offline-kit.notebook] to "tabular", "images" or "text"',
    )


def read_columns(path: Path) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Read names and dtypes of the training's columns, and the categories of those that have some.

    Raises ProjectError for a file of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        columns, categories = content["columns"], content.get("categories", {})
        good = all(isinstance(dtype, str) for dtype in columns.values())
        good = good and all(
            isinstance(values, list) and name in columns for name, values in categories.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _columns_error(path, str(error)) from error
    if not good or not columns:
        raise _columns_error(path, "it has no table of columns, or categories of none")
    return dict(columns), dict(categories)


def _columns_error(path: Path, reason: str) -> ProjectError:
    return ProjectError(
        f"'{path}' does not hold the columns of training: {reason}",
        code="columns-file-invalid",
        hint='write {"columns": {"name": "dtype", ...}} at training: '
        'json.dump({"columns": X.dtypes.astype(str).to_dict()}, open(...))',
    )


def _describe_member(member: Member) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": member.name, "framework": member.framework, "path": member.kit_path}
    if member.origin:
        entry["source"] = member.origin
        entry["known"] = {file.original: [file.size, file.sha256] for file in member.files}
    if member.model:
        entry["model"] = member.model
    if member.weight != 1:
        entry["weight"] = member.weight
    if member.transform:
        entry["transform"] = member.transform
    if member.batch_size:
        entry["batch_size"] = member.batch_size
    params, arguments = member_params.split_params(member)
    return entry | ({"params": params} if params else {}) | ({"arguments": arguments} if arguments else {})


def is_reference(postprocess: str) -> bool:
    """Whether `postprocess` names a function instead of a built-in value."""
    return ":" in postprocess and postprocess.partition(":")[0] not in WORDS


def _check_postprocess(settings: NotebookSettings) -> list[str]:
    text = settings.postprocess
    word, *numbers = text.split(":")
    if word in WORDS:
        example = WORDS[word]
        good = len(numbers) == example.count(":") and _are_numbers(numbers, one_sided=word == "clip")
        one_sided_example = ", or with one limit as in 'clip:0:'" if word == "clip" else ""
        return [] if good else [f"postprocess = '{text}' should be as in '{example}'{one_sided_example}"]
    known_words = ", ".join(f"'{known_word}'" for known_word in WORDS if known_word)
    if re.fullmatch(REFERENCE, text):
        return []
    return [
        f"postprocess = '{text}' is neither one of {known_words} nor a reference such as 'file.py:function'"
    ]


def _are_numbers(words: Sequence[str], *, one_sided: bool) -> bool:
    """Tell whether these are numbers that rise; of two limits, one may be left out."""
    filled = [word for word in words if word]
    try:
        numbers = [float(word) for word in filled]
    except ValueError:
        return False
    is_complete = len(filled) == len(words) or (one_sided and bool(filled))
    return is_complete and all(map(math.isfinite, numbers)) and numbers == sorted(numbers)


def _check_references(settings: NotebookSettings) -> list[str]:
    references = {"tta": settings.tta, "transform": settings.transform}
    references |= {f"model of '{model.files}'": model.model for model in settings.models}
    references |= {f"transform of '{model.files}'": model.transform for model in settings.models}
    return [
        f'{key} = \'{value}\' is not understood: write "package.module:name" or "folder/file.py:name"'
        for key, value in references.items()
        if value and not re.fullmatch(REFERENCE, value)
    ]


def _check_weights(settings: NotebookSettings) -> list[str]:
    if settings.ensemble == "mean" and any(model.weight != 1 for model in settings.models):
        return ["ensemble = 'mean' ignores the weights of `models`: take 'weighted', 'rank' or 'vote'"]
    return []
