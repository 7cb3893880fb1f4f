"""The settings of notebooks that predict with models: the template's variables, and what is wrong or unused in them."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.checkpoints.frameworks import framework_table, sklearn
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.core.errors import ProjectError, UsageError, suggest_name
from offline_kit.notebook import scripts
from offline_kit.project import references
from offline_kit.project.config_keys import MODEL_KEYS, NOTEBOOK_KEYS, PARAMS
from offline_kit.project.references import CallParameters
from offline_kit.project.types import Checkpoint, Finding, Member, NotebookSettings, Severity

BATCHES = {"tabular": 65536, "images": 32, "text": 256}  # default batch size by task: rows, images or texts
WORDS = {
    word.partition(":")[0]: word
    for word in ("", "argmax", "threshold:0.5", "labels:0.5", "clip:0:1", "round")
}
"""The built-in values of `postprocess`, each with an example of its numbers."""
TRANSFORM_INPUTS = {"images": "the path of a picture", "text": "the texts"}
"""What `transform` gets, by task; a table in any other."""
REFERENCE = re.compile(r"([\w.]+|[^:]+\.py):[A-Za-z_][\w.]*")
_SHARED_WORDS = ("labels", "text")  # params that act on any member, whatever its framework
_TEXT_WORDS = frozenset({"text", "tokenizer", "max_length"})  # params that only affect texts
_NOTEBOOK_WORDS = ("test", "labels")  # params of the notebook that the templates read
_SERVER_WORDS = ("server", "data_paths", "gateway")  # additional params of the template `server`
_NOTEBOOK_ONLY = frozenset({"test", "backend", *_SERVER_WORDS})
"""Params that one model cannot have for itself."""


def predict_facts(
    settings: NotebookSettings, members: Sequence[Member], preprocessing: Mapping[str, str], project: Path
) -> dict[str, Any]:
    """Return the variables of the template `predict`; raises UsageError for settings that contradict each other."""
    other_templates = set(scripts.built_in_templates()) - {"predict"}
    if settings.template in other_templates and not members:
        return {"preprocessing": dict(preprocessing)}
    if problems := list(_check_ensemble(settings)):
        raise UsageError(
            "the settings of the notebook are invalid",
            code="notebook-settings-invalid",
            hint="correct them in [tool.offline-kit.notebook]; docs/configuration.md lists what each takes",
            details=problems,
        )
    # A draft has no members yet.
    task = choose_task(settings, members) if members else settings.task or "tabular"
    columns, categories = read_columns(project / settings.columns) if settings.columns else ({}, {})
    frameworks = [
        {
            "name": name,
            "title": framework_table.BY_NAME[name].title,
            "members": [member.name for member in members if member.framework == name],
        }
        for name in dict.fromkeys(member.framework for member in members)
    ]
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
        # Members that want the test set in their own way, and that say what their columns stand for.
        "apart": any(member.transform or member.batch_size or "text" in member.params for member in members),
        "named": any("labels" in member.params for member in members),
        "postprocess_word": not is_reference(settings.postprocess),
        "frameworks": frameworks,
    }


def _describe_member(member: Member) -> dict[str, Any]:
    # What neither its framework nor the notebook reads goes to the constructor.
    framework = framework_table.BY_NAME[member.framework]
    words: set[str] = set(member.params)
    if framework.takes_arguments(member):
        words = {*framework.param_names, *_SHARED_WORDS}
    known = {file.original: [file.size, file.sha256] for file in member.files}
    entry: dict[str, Any] = {
        "name": member.name,
        "framework": member.framework,
        "path": member.kit_path,
        "source": member.origin or None,
        "known": known if member.origin else None,
        "model": member.model or None,
        "weight": None if member.weight == 1 else member.weight,
        "transform": member.transform or None,
        "batch_size": member.batch_size or None,
        "params": {name: value for name, value in member.params.items() if name in words} or None,
        "arguments": {name: value for name, value in member.params.items() if name not in words} or None,
    }
    return {key: value for key, value in entry.items() if value is not None}


def choose_task(settings: NotebookSettings, members: Sequence[Member]) -> str:
    """Return the configured task, or the usual one of the members' frameworks."""
    if settings.task:
        return settings.task
    usual = {framework_table.BY_NAME[member.framework].task for member in members}
    if len(usual) == 1 and (task := usual.pop()):
        return task
    raise UsageError(
        "`task` is missing, and the models' frameworks do not determine it",
        code="task-missing",
        hint='set `task` in [tool.offline-kit.notebook] to "tabular", "images" or "text"',
    )


def read_columns(path: Path) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Read names and dtypes of the training's columns, and the categories of those that have some."""
    reason = "it has no table of columns, or categories of none"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        columns, categories = dict(content["columns"]), dict(content.get("categories", {}))
        is_good = bool(columns) and all(isinstance(dtype, str) for dtype in columns.values())
        is_good &= all(isinstance(values, list) and name in columns for name, values in categories.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        is_good, reason = False, str(error)
    if not is_good:
        raise ProjectError(
            f"'{path}' does not hold the columns of training: {reason}",
            code="columns-file-invalid",
            hint='write {"columns": {"name": "dtype", ...}} at training: '
            'json.dump({"columns": X.dtypes.astype(str).to_dict()}, open(...))',
        )
    return columns, categories


def is_reference(postprocess: str) -> bool:
    """Whether `postprocess` names a function instead of a built-in value."""
    return ":" in postprocess and postprocess.partition(":")[0] not in WORDS


def _check_ensemble(settings: NotebookSettings) -> Iterator[str]:
    if settings.ensemble == "mean" and any(model.weight != 1 for model in settings.models):
        yield "ensemble = 'mean' ignores the weights of `models`: take 'weighted', 'rank' or 'vote'"
    text = settings.postprocess
    word, *limits = text.split(":")
    if word in WORDS:
        # Limits are finite and rise; of the two of "clip", one may be left out.
        filled = [limit for limit in limits if limit]
        is_complete = len(filled) == len(limits) or (word == "clip" and bool(filled))
        try:
            numbers = [float(limit) for limit in filled]
        except ValueError:
            numbers = [math.nan]
        rises = all(map(math.isfinite, numbers)) and numbers == sorted(numbers)
        if len(limits) != WORDS[word].count(":") or not is_complete or not rises:
            one_sided = ", or with one limit as in 'clip:0:'" if word == "clip" else ""
            yield f"postprocess = '{text}' should be as in '{WORDS[word]}'{one_sided}"
    elif not REFERENCE.fullmatch(text):
        known_words = ", ".join(f"'{known_word}'" for known_word in WORDS if known_word)
        yield f"postprocess = '{text}' is neither one of {known_words} nor a reference such as 'file.py:function'"


def warn_of_unused(
    settings: NotebookSettings, members: Sequence[Member], preprocessing: Sequence[Checkpoint]
) -> tuple[Finding, ...]:
    """Warn of each scikit-learn scaler or encoder in the preprocessing that nothing applies."""
    # A user's function or a param may name it, and a pipeline has one of the same classes inside.
    functions = (settings.function, settings.transform, settings.tta, is_reference(settings.postprocess))
    if settings.template not in ("predict", "server") or not members or any(functions):
        return ()
    files = [file for member in members for file in member.files]
    inside = {name for file in files for name in sklearn.list_preprocessors(file.path)}
    named_files = {value for value in settings.params.values() if isinstance(value, str)}
    findings = []
    for checkpoint in preprocessing:
        classes = sklearn.list_preprocessors(checkpoint.path)
        if classes - inside and not named_files & {checkpoint.original, Path(checkpoint.original).name}:
            key, argument = "transform", TRANSFORM_INPUTS.get(settings.task, "the table")
            if all(name.startswith("sklearn.preprocessing._label.") for name in classes):
                # The encoder of a target has its turn when the predictions are there.
                key, argument = "postprocess", "the predictions, the ids"
            remedy = f'set {key} = "file.py:function"; it gets {argument} and `preprocessing`'
            what = "is in the kit, but nothing in the notebook uses it"
            finding = Finding(severity=Severity.WARN, about=checkpoint.original, what=what, remedy=remedy)
            findings.append(finding)
    return tuple(findings)


@dataclass(frozen=True, kw_only=True)
class ParamCheck:
    """The check of the params of the notebook and of its models: whether something reads each of them."""

    settings: NotebookSettings
    members: Sequence[Member]
    task: str
    project: Path
    roots: tuple[Path, ...]  # folders that the project's modules are imported from

    def raise_problems(self) -> None:
        """Raise UsageError with every param and key that has no effect or a wrong value."""
        # A user's template may read any param.
        if self.settings.template not in ("predict", "server") or not self.members:
            return
        problems = [line for member in self.members for line in self._check_member(member)]
        problems += self._check_notebook_params()
        if problems:
            raise UsageError(
                "the params of the notebook's models are invalid",
                code="model-params-invalid",
                hint="correct them in [tool.offline-kit.notebook]; docs/configuration.md lists what each framework reads",
                details=list(dict.fromkeys(problems)),
            )

    def _find_parameters(self, reference: str) -> CallParameters | None:
        """Return the parameters of a reference; None if the project has no source for it."""
        try:
            (source,) = references.resolve_references(self.project, [reference], self.roots).values()
        except UsageError:
            return None  # where it leads nowhere, whoever collects the code says so
        return references.read_parameters(source, reference.rpartition(":")[2]) if source else None

    def _read_words(self, framework: Framework) -> tuple[str, ...]:
        """Return the params of one model that its framework's cell reads for this task."""
        words = (*framework.param_names, *_SHARED_WORDS)
        return tuple(word for word in words if self.task == "text" or word not in _TEXT_WORDS)

    def _check_member(self, member: Member) -> Iterator[str]:
        framework, label = framework_table.BY_NAME[member.framework], f"'{member.name}'"
        if member.own_model and not framework.takes_model:
            yield f"{label}: `model` has no effect: {framework.title} files contain the model"
        if member.batch_size and self.settings.template == "server":
            yield f"{label}: `batch_size` has no effect in a server: the gateway decides how many rows it sends"
        parameters = self._find_parameters(member.model) if framework.takes_arguments(member) else None
        names = parameters.names if parameters else ()
        words = self._read_words(framework)
        # A typing error here costs a run on Kaggle: nothing would read the param, and nothing complain.
        for name, value in member.params.items():
            if name not in words:
                if problem := _explain_unknown(name, framework, member, words, parameters):
                    yield f"{label}: {problem}"
            elif wrong := PARAMS[name].check(value):
                yield f"{label}: {name} {wrong}, not {value!r}"
            elif name in names and name in ("activation", *_SHARED_WORDS):
                yield (
                    f"{label}: `{name}` in `params` is the notebook's own word, and a parameter of its `model` too: "
                    "let `model` name a function that sets it and returns the model"
                )

    def _check_notebook_params(self) -> Iterator[str]:
        # A class that is built from the params takes any of them by name.
        known_words = {*_NOTEBOOK_WORDS, *(_SERVER_WORDS if self.settings.template == "server" else ())}
        known_words |= {"text"} if self.task == "text" else set()
        open_ended = self._hooks_read_params()
        for member in self.members:
            framework = framework_table.BY_NAME[member.framework]
            known_words |= {*self._read_words(framework)} - {"activation" if framework.own_activation else ""}
            known_words |= {"backend"} if member.framework == "keras" else set()
            if framework.takes_arguments(member) and member.framework not in ("timm", "keras"):
                parameters = self._find_parameters(member.model)
                open_ended |= parameters is None
                known_words |= set(parameters.names) if parameters else set()
        for name, value in self.settings.params.items():
            if name in known_words or (open_ended and name in PARAMS):
                if name in PARAMS and (wrong := PARAMS[name].check(value)):
                    yield f"[notebook.params] {name} {wrong}, not {value!r}"
            elif not open_ended:
                yield f"[notebook.params] `{name}` is not read{suggest_name(name, known_words)}"

    def _hooks_read_params(self) -> bool:
        """Whether a function of the project receives the notebook's params, which may then have any name."""
        settings, transforms = self.settings, (member.transform for member in self.members)
        hooks = {settings.transform, settings.tta, settings.postprocess, *transforms}
        known_parameters = map(self._find_parameters, filter(REFERENCE.fullmatch, hooks))
        return any(parameters is None or "params" in parameters.names for parameters in known_parameters)


def _explain_unknown(
    name: str, framework: Framework, member: Member, words: Sequence[str], parameters: CallParameters | None
) -> str:
    """Return what is wrong with a param that its framework does not read; empty for a constructor argument."""
    if parameters and (name in parameters.names or parameters.open_ended):
        return ""
    if name in MODEL_KEYS:
        return f"`{name}` belongs next to `files`, not in `params`"
    if name in _NOTEBOOK_ONLY:
        return f"`{name}` is for the whole notebook: set it in [tool.offline-kit.notebook.params]"
    if name in _TEXT_WORDS & {*framework.param_names, *_SHARED_WORDS}:
        return f'`{name}` only applies to texts, with task = "text"'
    if name in NOTEBOOK_KEYS:
        return f"`{name}` is for the whole notebook: set it in [tool.offline-kit.notebook]"
    if framework.takes_arguments(member) and parameters is None and name not in PARAMS:
        return ""  # its source does not tell; the constructor will
    if name == "activation":
        return f"`activation` has no effect: {framework.title} predicts probabilities or numbers"
    known_words = (*words, *(parameters.names if parameters else ()))
    whose = f"{framework.title} or '{member.model}'" if parameters else framework.title
    return f"`{name}` in `params` is not a param of {whose}{suggest_name(name, known_words)}"
