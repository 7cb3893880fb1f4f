"""Choose the template that fits a project's code, as settings of the notebook."""

from pathlib import PurePosixPath
from typing import Any

from offline_kit.init.config_toml import DetectedSettings, Setting
from offline_kit.init.file_tree import FileTree
from offline_kit.init.project_code import Definition, ProjectCode
from offline_kit.init.trained_files import TrainedFiles

_MAX_LISTED = 8  # largest number of alternatives that are listed
# Usual names of the parameter of a function written for the template
_CONTEXTS = frozenset({"context", "ctx", "kit", "kaggle"})


def choose_template(
    code: ProjectCode, trained: TrainedFiles, refer: "ReferenceWriter", detected: DetectedSettings
) -> None:
    """Add the settings `template` or `task`, `model`, `data` and `function`; unused ones as comments.

    In order of preference: a model with data that has `submission`, a function written for the template, a model
    with other data, trained files that a framework loads, any `predict` that takes one argument, trained files of
    which a framework loads less than half.
    """
    usable = [function for function in code.functions if function.callable_with_one]
    written_for_it = [function for function in usable if set(function.needs) & _CONTEXTS]
    if code.models and code.data and (code.submitting or not written_for_it):
        _propose_lightning(code, refer, detected)
    elif trained.frameworks and not written_for_it and (trained.mostly_known or not usable):
        _propose_predict(code, trained, refer, detected)
    elif usable:
        _propose_function((written_for_it or usable)[0], code, refer, detected)
    else:
        reason = "restores the kit but predicts nothing; the templates predict, lightning and function do"
        detected.notes.append(
            "found no LightningModule with a data class, no function `predict` and no models that a framework loads by "
            "itself: the notebook would restore the kit and predict nothing; set them in "
            f"{refer.table}, or use the template `predict` (task, models) for models in files"
        )
        detected.add(_notebook_setting("template", "plain", reason), *_unused_settings(code, refer))
    detected.notes += code.notes


class ReferenceWriter:
    """Write references to a project's code and its configuration."""

    def __init__(self, tree: FileTree, *, packaged: bool, table: str) -> None:
        """Take the project's files; `packaged`: it is built into a wheel; `table`: header of the notebook's table."""
        self.table = table
        self._files = frozenset(tree.files)
        self._packaged = packaged

    def __call__(self, definition: Definition) -> str:
        """Return "package.module:Name" for code in a wheel, else "folder/file.py:Name"."""
        path = PurePosixPath(definition.file)
        top = path.parent
        while str(top) != "." and str(top.parent / "__init__.py") in self._files:
            top = top.parent
        root = PurePosixPath("src" if path.parts[0] == "src" else ".")  # of the modules in the wheel
        in_package = top.parent == root and str(top / "__init__.py") in self._files
        if not self._packaged or not (in_package or str(root) == "src"):
            return f"{definition.file}:{definition.name}"
        parts = path.relative_to(root).with_suffix("").parts
        return f"{'.'.join(parts[:-1] if parts[-1] == '__init__' else parts)}:{definition.name}"


def _propose_lightning(code: ProjectCode, refer: ReferenceWriter, detected: DetectedSettings) -> None:
    model, data = code.models[0], code.data[0]
    detected.notes += dict.fromkeys((*_note_import(model), *_note_import(data)))
    data_reason = "reads the competition's folder and writes the submission"
    if data.name not in code.submitting:
        data_reason = "still needs a method submission(predictions)"
        add = "add one that takes the predictions and returns the submission's rows"
        detected.notes.append(f"'{data.name}' has no method `submission`: {add}")
    model_reason = "the LightningModule"
    if code.rivals:
        model_reason = "one of several candidates: check it, and `data`"
        detected.notes.append(
            f"'{refer(model)}' is one of {1 + len(code.rivals)} models in different folders: check `model` and `data` "
            f"in {refer.table}, or pass --competition, whose words choose the folder"
        )
    models, datasets = list(map(refer, code.models)), list(map(refer, code.data))
    detected.add(
        *_unused_settings(code, refer),
        _notebook_setting("template", "lightning", "model and data were found"),
        _notebook_setting("model", models[0], model_reason, comments=_list_alternatives(models[1:])),
        _notebook_setting("data", datasets[0], data_reason, comments=_list_alternatives(datasets[1:])),
    )


def _propose_function(
    chosen: Definition, code: ProjectCode, refer: ReferenceWriter, detected: DetectedSettings
) -> None:
    others = [refer(function) for function in code.functions if function is not chosen]
    reason = "called with one argument, the context: see docs/guide/templates.md"
    detected.add(
        *_unused_settings(code, refer),
        _notebook_setting("template", "function", "calls the function below"),
        _notebook_setting("function", refer(chosen), reason, comments=_list_alternatives(others)),
    )
    check = f"'{refer(chosen)}' is called with a context (.input, .checkpoints, .submission, …): check that it accepts one"
    detected.notes += [] if set(chosen.needs) & _CONTEXTS else [check]
    detected.notes += _note_import(chosen)


def _propose_predict(
    code: ProjectCode, trained: TrainedFiles, refer: ReferenceWriter, detected: DetectedSettings
) -> None:
    """Add the settings of `predict`; the template is not set, because it follows from the task."""
    frameworks = " and ".join(trained.frameworks)
    task = _notebook_setting(
        "task",
        trained.task or None,
        f'what the models of {frameworks} predict on ("tabular", "images", "text"): the template is `predict`',
        example="images",
        needed_for="" if trained.task else "to predict with the models",
    )
    detected.add(task)
    detected.notes.append(
        f"the checkpoints are models of {frameworks}: the template `predict` loads them, predicts on the competition's "
        f"test data and writes the submission; `transform` and `models` in {refer.table} say more"
    )
    if trained.unplaced:
        _propose_unplaced(code, trained, refer, detected)
    *classes, function = _unused_settings(code, refer)
    detected.add(*(classes if code.models or code.data else ()), *([function] if code.functions else ()))


def _propose_unplaced(
    code: ProjectCode, trained: TrainedFiles, refer: ReferenceWriter, detected: DetectedSettings
) -> None:
    """Add `models` with those that a framework loads, and a note on the others."""
    references = [refer(definition) for definition in (*code.models, *code.plain_models)]
    entry = f'model = "{references[0] if len(references) == 1 else "package.module:Net"}"'
    (name, problem), *others = trained.unplaced.items()
    if name in trained.whole_models:
        entry = "params = { weights_only = false }"
    step = f'add {{ files = "{name}", {entry} }}'
    lines = [f"not used: {file}: {reason}" for file, reason in trained.unplaced.items()]
    if len(lines) > _MAX_LISTED:
        lines = [*lines[:_MAX_LISTED], f"and {len(lines) - _MAX_LISTED} more"]
    models = [{"files": pattern} for pattern in trained.patterns]
    reason = f"loaded without a class; {step}"
    detected.add(_notebook_setting("models", models, reason, comments=tuple(lines)))
    are = f" and {len(others)} more are" if others else " is"
    detected.notes.append(
        f"'{name}'{are} not used: {problem}; {step} to `models` in {refer.table}, or remove it from `checkpoints`"
    )


def _notebook_setting(key: str, value: object, reason: str, **more: Any) -> Setting:
    return Setting(key=key, value=value, reason=reason, notebook=True, **more)


def _list_alternatives(others: list[str]) -> tuple[str, ...]:
    suffix = f" and {len(others) - _MAX_LISTED} more" if len(others) > _MAX_LISTED else ""
    return (f"also found: {', '.join(others[:_MAX_LISTED])}{suffix}",) if others else ()


def _unused_settings(code: ProjectCode, refer: ReferenceWriter) -> list[Setting]:
    """Return `model`, `data` and `function` as comments, with what was found for them."""
    models = [refer(definition) for definition in code.models or code.plain_models]
    data = [refer(definition) for definition in code.data]
    found_reason = "found; for the template lightning" + (
        "" if models and data else ", which takes model and data"
    )
    reasons = [found_reason if names else "for the template lightning" for names in (models, data)]
    example, reason = "predict.py:predict", "for the template function"
    if code.functions:
        function = code.functions[0]
        example, reason = refer(function), f"found; {reason}"
        if not function.callable_with_one:
            reason = f"found; it takes {', '.join(function.needs)}, and the template gives one context"
    examples = ([*models, "package.module:LitModel"][0], [*data, "package.module:Data"][0])
    comments = _list_alternatives(models[1:])
    return [
        _notebook_setting("model", None, reasons[0], example=examples[0], comments=comments),
        _notebook_setting("data", None, reasons[1], example=examples[1]),
        _notebook_setting("function", None, reason, example=example),
    ]


def _note_import(definition: Definition) -> list[str]:
    line = (
        f"'{definition.file}' runs code when the notebook imports it: put that code under"
        ' `if __name__ == "__main__":`, or move the class or function to its own file'
    )
    return [line] if definition.runs else []
