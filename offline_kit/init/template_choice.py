"""Which template a project's code fits, as the notebook's settings."""

from pathlib import PurePosixPath

from offline_kit.init.file_tree import Tree
from offline_kit.init.project_code import ClassFound, Code, FunctionFound
from offline_kit.init.proposal import Findings, Setting
from offline_kit.init.trained_kinds import Kinds

SHOWN = 8
"""Further candidates that are named."""
_CONTEXTS = frozenset({"context", "ctx", "kit", "kaggle"})
"""What the argument of a function is called that was written for the template."""


def find(code: Code, kinds: Kinds, refer: "Refer") -> Findings:
    """Return `template` or `task`, `model`, `data` and `function`; those that are not used become commented lines.

    A model with data that knows its submission comes first, then a function written for the template, then
    a model with other data, then trained files that a framework loads, then any `predict` that takes one argument,
    then trained files of which a framework loads the smaller part.
    """
    complete = bool(code.models and code.data and code.submitting)
    usable = [one for one in code.functions if one.callable_with_one]
    meant = [one for one in usable if set(one.takes) & _CONTEXTS]
    if complete or (code.models and code.data and not meant):
        return _lightning(code, refer)
    chosen = (meant or usable)[:1]
    if kinds.frameworks and not meant and (kinds.mostly_known or not chosen):
        return _predict(code, kinds, refer)
    return _function(chosen[0], code, refer) if chosen else _plain(code, refer)


class Refer:
    """Writes references to code of one project, and to its configuration."""

    def __init__(self, tree: Tree, *, packaged: bool, table: str) -> None:
        """Take what references follow from; `packaged`: the project is built to a wheel; `table`: how the notebook's table is headed."""
        self.table = table
        self._files = frozenset(tree.files)
        self._packaged = packaged

    def __call__(self, found: ClassFound | FunctionFound) -> str:
        """Return "package.module:Name" for what a wheel holds, else "folder/file.py:Name"."""
        path = PurePosixPath(found.file)
        root = self._import_root(path)
        if root is None:
            return f"{found.file}:{found.name}"
        parts = path.relative_to(root).with_suffix("").parts
        dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return f"{dotted}:{found.name}"

    def _import_root(self, path: PurePosixPath) -> PurePosixPath | None:
        """Return the folder from which a file's module is imported, where a wheel brings it."""
        top = path.parent
        while str(top) != "." and str(top.parent / "__init__.py") in self._files:
            top = top.parent
        in_package = str(top / "__init__.py") in self._files
        inside = [PurePosixPath("src")] if path.parts[0] == "src" else []
        roots = [PurePosixPath("."), PurePosixPath("src")]
        good = self._packaged and (bool(inside) or (in_package and top.parent in roots))
        return (inside[0] if inside else top.parent) if good else None


def _lightning(code: Code, refer: Refer) -> Findings:
    model, data = code.models[0], code.data[0]
    notes = [*_on_import(model), *_on_import(data)]
    why = "reads the competition's folder and writes the submission"
    if data.name not in code.submitting:
        why = "still needs a method submission(predictions)"
        notes.append(
            f"'{data.name}' has no method `submission`: the template calls it with the predictions, "
            "and it returns the rows of the submission"
        )
    which = "the LightningModule"
    if code.rivals:
        which = "one of several that no name tells apart: check it, and `data`"
        notes.append(
            f"'{refer(model)}' is one of {1 + len(code.rivals)} models in different folders: check `model` and `data` "
            f"in {refer.table}, or name the competition with --competition, whose words choose the folder"
        )
    settings = (
        Setting(key="template", value="lightning", why="model and data were found", notebook=True),
        _setting("model", refer(model), which, [refer(one) for one in code.models[1:]]),
        _setting("data", refer(data), why, [refer(one) for one in code.data[1:]]),
        _unused_function(code, refer),
    )
    return Findings(settings=settings, notes=tuple(dict.fromkeys((*notes, *code.notes))))


def _function(chosen: FunctionFound, code: Code, refer: Refer) -> Findings:
    others = [refer(one) for one in code.functions if one is not chosen]
    settings = (
        Setting(key="template", value="function", why="calls the function below", notebook=True),
        _setting(
            "function",
            refer(chosen),
            "called with one argument, the context: see docs/guide/templates.md",
            others,
        ),
        *_unused_classes(code, refer),
    )
    notes = [*_on_import(chosen), *code.notes]
    if not set(chosen.takes) & _CONTEXTS:
        notes.insert(
            0,
            f"'{refer(chosen)}' is called with a context (.input, .checkpoints, .submission, …): see that it takes one",
        )
    return Findings(settings=settings, notes=tuple(notes))


def _predict(code: Code, kinds: Kinds, refer: Refer) -> Findings:
    """Leave the template out: `predict` follows from the task."""
    of = " and ".join(kinds.frameworks)
    task = Setting(
        key="task",
        value=kinds.task or None,
        example="images",
        why=f'what the models of {of} predict on ("tabular", "images", "text"): the template is `predict`',
        needed="" if kinds.task else "so that the template `predict` predicts with the models",
        notebook=True,
    )
    unplaced, more = _unplaced(code, kinds, refer)
    classes = _unused_classes(code, refer) if code.models or code.data else ()
    functions = (_unused_function(code, refer),) if code.functions else ()
    note = (
        f"the checkpoints are models of {of}: the template `predict` loads them, predicts on the competition's "
        f"test data and writes the submission; `transform` and `models` in {refer.table} say more"
    )
    return Findings(settings=(task, *unplaced, *classes, *functions), notes=(note, *more, *code.notes))


def _unplaced(code: Code, kinds: Kinds, refer: Refer) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """Return `models` with those that a framework loads, and what to do about each of the others."""
    if not kinds.unplaced:
        return (), ()
    found = [refer(one) for one in (*code.models, *code.plain_models)]
    asked = f'model = "{found[0] if len(found) == 1 else "package.module:Net"}"'
    known = [{"files": pattern} for pattern in kinds.patterns]
    lines = tuple(f"not used: {name}: {what}" for name, what in kinds.unplaced.items())
    shown = (*lines[:SHOWN], f"and {len(lines) - SHOWN} more") if len(lines) > SHOWN else lines
    name = next(iter(kinds.unplaced))
    if name in kinds.whole:
        asked = "params = { weights_only = false }"
    step = f'add {{ files = "{name}", {asked} }}'
    models = Setting(
        key="models", value=known, why=f"loaded without a class; {step}", more=shown, notebook=True
    )
    others = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    note = (
        f"'{name}'{others} {'are' if others else 'is'} not used: {kinds.unplaced[name]}; {step} to `models` in {refer.table}, "
        "or remove it from `checkpoints`"
    )
    return (models,), (note,)


def _plain(code: Code, refer: Refer) -> Findings:
    template = Setting(
        key="template",
        value="plain",
        why="restores the kit and predicts nothing yet; predict, lightning and function predict",
        notebook=True,
    )
    nothing = (
        "no LightningModule with a data class, no function `predict` and no models that a framework loads by "
        "itself were found: the notebook would restore the kit and predict nothing; name them in "
        f"{refer.table}, or take the template `predict` (task, models) for models in files"
    )
    return Findings(
        settings=(template, *_unused_classes(code, refer), _unused_function(code, refer)),
        notes=(nothing, *code.notes),
    )


def _setting(key: str, value: str, why: str, others: list[str]) -> Setting:
    return Setting(key=key, value=value, why=why, more=_also(others), notebook=True)


def _also(others: list[str]) -> tuple[str, ...]:
    """Return a comment on further candidates; of many the first."""
    if not others:
        return ()
    rest = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return (f"also found: {', '.join(others[:SHOWN])}{rest}",)


def _unused_classes(code: Code, refer: Refer) -> tuple[Setting, Setting]:
    models = [refer(one) for one in code.models or code.plain_models]
    data = [refer(one) for one in code.data]
    why = "for the template lightning"
    lone = why if models and data else f"{why}, which takes model and data"
    return (
        Setting(
            key="model",
            example=models[0] if models else "package.module:LitModel",
            why=f"found; {lone}" if models else why,
            more=_also(models[1:]),
            notebook=True,
        ),
        Setting(
            key="data",
            example=data[0] if data else "package.module:Data",
            why=f"found; {lone}" if data else why,
            notebook=True,
        ),
    )


def _unused_function(code: Code, refer: Refer) -> Setting:
    if not code.functions:
        return Setting(
            key="function", example="predict.py:predict", why="for the template function", notebook=True
        )
    found = code.functions[0]
    why = "found; for the template function"
    if not found.callable_with_one:
        why = f"found; it takes {', '.join(found.takes)}, and the template gives one context"
    return Setting(key="function", example=refer(found), why=why, notebook=True)


def _on_import(found: ClassFound | FunctionFound) -> tuple[str, ...]:
    if not found.runs:
        return ()
    line = (
        f"'{found.file}' does work when it is imported, and the notebook imports it: put that work under"
        ' `if __name__ == "__main__":`, or move the class or function to a file of its own'
    )
    return (line,)
