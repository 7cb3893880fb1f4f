"""Check the params of the notebook's models: read by a framework, taken by a constructor, or unused."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.core.errors import UsageError, suggest_name
from offline_kit.project import references
from offline_kit.project.config_keys import MODEL_KEYS, NOTEBOOK_KEYS, PARAMS
from offline_kit.project.references import CallParameters
from offline_kit.project.types import Member, NotebookSettings

_SHARED_WORDS = ("labels", "text")
"""Words that act on any member, whatever its framework."""
_TEXT_WORDS = frozenset({"text", "tokenizer", "max_length"})
"""Params that only affect texts."""
_NOTEBOOK_WORDS = ("test", "labels")
"""Words of the notebook's params that the templates read."""
_SERVER_WORDS = ("server", "data_paths", "gateway")
"""Additional params of the template `server`."""
_NOTEBOOK_ONLY = frozenset({"test", "backend", *_SERVER_WORDS})
"""Words that one model cannot have for itself."""

_REFERENCE = re.compile(r"[^:]+:[A-Za-z_][\w.]*")


@dataclass(frozen=True, kw_only=True)
class CodeLookup:
    """Where the classes and functions of the configuration are defined."""

    project: Path
    """The project's folder."""
    roots: tuple[Path, ...]
    """Folders that its modules are imported from."""

    def find_parameters(self, reference: str) -> CallParameters | None:
        """Return the parameters of a reference; None if the project has no source for it."""
        try:
            (source,) = references.resolve_references(self.project, [reference], self.roots)
        except UsageError:
            return None  # where it leads nowhere, whoever collects the code says so
        name = reference.rpartition(":")[2]
        return references.read_parameters(source.file, name) if source.file else None


def split_params(member: Member) -> tuple[dict[str, object], dict[str, object]]:
    """Return the params that a member's cell reads, and those that its constructor gets."""
    framework = framework_table.find_framework(member.framework)
    if framework is None or not framework.takes_arguments(member):
        return dict(member.params), {}
    words = {*framework.param_names, *_SHARED_WORDS}
    read = {name: value for name, value in member.params.items() if name in words}
    return read, {name: value for name, value in member.params.items() if name not in words}


def check_params(settings: NotebookSettings, members: Sequence[Member], task: str, code: CodeLookup) -> None:
    """Raise UsageError with every param and key that has no effect or a wrong value.

    Checks the built-in templates that predict with models; a user's template may read any param.
    """
    if settings.template not in ("predict", "server") or not members:
        return
    problems = [line for member in members for line in _check_member(member, settings, task, code)]
    problems += _check_notebook_params(settings, members, task, code)
    if problems:
        raise UsageError(
            "the params of the notebook's models are invalid",
            code="model-params-invalid",
            hint="correct them in [tool.offline-kit.notebook]; docs/configuration.md lists what each framework reads",
            details=list(dict.fromkeys(problems)),
        )


def _check_member(member: Member, settings: NotebookSettings, task: str, code: CodeLookup) -> Iterator[str]:
    framework = framework_table.find_framework(member.framework)
    if framework is None:
        return
    label = f"'{member.name}'"
    if member.own_model and not framework.takes_model:
        yield f"{label}: `model` has no effect: {framework.title} files contain the model"
    if member.batch_size and settings.template == "server":
        yield f"{label}: `batch_size` has no effect in a server: the gateway decides how many rows it sends"
    parameters = code.find_parameters(member.model) if framework.takes_arguments(member) else None
    words = tuple(
        word for word in (*framework.param_names, *_SHARED_WORDS) if task == "text" or word not in _TEXT_WORDS
    )
    for name, value in member.params.items():
        if name in words:
            yield from _check_value(label, name, value, parameters)
        elif problem := _explain_unknown(name, framework, member, words, parameters):
            yield f"{label}: {problem}"


def _check_value(label: str, name: str, value: object, parameters: CallParameters | None) -> Iterator[str]:
    if wrong := PARAMS[name].check(value):
        yield f"{label}: {name} {wrong}, not {value!r}"
    elif parameters and name in parameters.names and name in ("activation", *_SHARED_WORDS):
        yield (
            f"{label}: `{name}` in `params` is the notebook's own word, and a parameter of its `model` too: "
            "let `model` name a function that sets it and returns the model"
        )


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


def _check_notebook_params(
    settings: NotebookSettings, members: Sequence[Member], task: str, code: CodeLookup
) -> Iterator[str]:
    known_words = {*_NOTEBOOK_WORDS, *(_SERVER_WORDS if settings.template == "server" else ())}
    known_words |= {"text"} if task == "text" else set()
    open_ended = _hooks_read_params(settings, members, code)
    for member in members:
        framework = framework_table.find_framework(member.framework)
        if framework is None:
            continue
        own_words = {"activation"} if framework.own_activation else set()
        known_words |= {
            word for word in framework.param_names if task == "text" or word not in _TEXT_WORDS
        } - own_words
        known_words |= {"backend"} if member.framework == "keras" else set()
        if framework.takes_arguments(member) and member.framework not in ("timm", "keras"):
            parameters = code.find_parameters(member.model)
            open_ended |= parameters is None
            known_words |= set(parameters.names) if parameters else set()
    for name, value in settings.params.items():
        if name in known_words or (open_ended and name in PARAMS):
            if name in PARAMS and (wrong := PARAMS[name].check(value)):
                yield f"[notebook.params] {name} {wrong}, not {value!r}"
        elif not open_ended:
            yield f"[notebook.params] `{name}` is not read{suggest_name(name, known_words)}"


def _hooks_read_params(settings: NotebookSettings, members: Sequence[Member], code: CodeLookup) -> bool:
    """Whether a function of the project receives the notebook's params, which may then have any name."""
    hooks = {
        settings.transform,
        settings.tta,
        settings.postprocess,
        *(member.transform for member in members),
    }
    for reference in filter(_REFERENCE.fullmatch, hooks):
        parameters = code.find_parameters(reference)
        if parameters is None or "params" in parameters.names:
            return True
    return False
