"""The params of the notebook's models: what each framework reads, what goes to a constructor, what nothing takes."""

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

_EVERY = ("labels", "text")
"""Words that act on any member, whatever its framework."""
_TEXTS = frozenset({"text", "tokenizer", "max_length"})
"""Words that mean something for texts alone."""
_WHOLE = ("test", "labels")
"""Words of the notebook's params that the templates read."""
_SERVING = ("server", "data_paths", "gateway")
"""Those that the template `server` reads besides."""
_OF_THE_NOTEBOOK = frozenset({"test", "backend", *_SERVING})
"""Words that one model cannot have for itself."""

_REFERENCE = re.compile(r"[^:]+:[A-Za-z_][\w.]*")


@dataclass(frozen=True, kw_only=True)
class Code:
    """Where the classes and functions of the configuration are defined."""

    project: Path
    """The project's folder."""
    roots: tuple[Path, ...]
    """Folders that its modules are imported from."""

    def parameters(self, reference: str) -> CallParameters | None:
        """Return what a reference is called with; None where no source of the project tells."""
        try:
            (found,) = references.resolve_references(self.project, [reference], self.roots)
        except UsageError:
            return None  # where it leads nowhere, whoever collects the code says so
        name = reference.rpartition(":")[2]
        return references.read_parameters(found.file, name) if found.file else None


def split(member: Member) -> tuple[dict[str, object], dict[str, object]]:
    """Return the params that a member's cell reads, and those that its constructor gets."""
    framework = framework_table.find_framework(member.framework)
    if framework is None or not framework.takes_arguments(member):
        return dict(member.params), {}
    words = {*framework.param_names, *_EVERY}
    read = {name: value for name, value in member.params.items() if name in words}
    return read, {name: value for name, value in member.params.items() if name not in words}


def check(settings: NotebookSettings, members: Sequence[Member], task: str, code: Code) -> None:
    """Raise UsageError with every param and key that would do nothing, or not what it says.

    For the built-in templates that predict by models: a template of the user's may read any word.
    """
    if settings.template not in ("predict", "server") or not members:
        return
    problems = [line for member in members for line in _of_member(member, settings, task, code)]
    problems += _of_notebook(settings, members, task, code)
    if problems:
        raise UsageError(
            "params of the notebook's models do not fit",
            hint="correct them in [tool.offline-kit.notebook]; docs/configuration.md lists what each framework reads",
            details=list(dict.fromkeys(problems)),
        )


def _of_member(member: Member, settings: NotebookSettings, task: str, code: Code) -> Iterator[str]:
    framework = framework_table.find_framework(member.framework)
    if framework is None:
        return
    about = f"'{member.name}'"
    if member.own_model and not framework.takes_model:
        yield f"{about}: `model` does nothing for it: {framework.title} brings the model itself"
    if member.batch_size and settings.template == "server":
        yield f"{about}: `batch_size` does nothing behind a server: the gateway decides how many rows it sends"
    taken = code.parameters(member.model) if framework.takes_arguments(member) else None
    words = tuple(word for word in (*framework.param_names, *_EVERY) if task == "text" or word not in _TEXTS)
    for name, value in member.params.items():
        if name in words:
            yield from _wrong_value(about, name, value, taken)
        elif problem := _unknown(name, framework, member, words, taken):
            yield f"{about}: {problem}"


def _wrong_value(about: str, name: str, value: object, taken: CallParameters | None) -> Iterator[str]:
    if wrong := PARAMS[name].check(value):
        yield f"{about}: {name} {wrong}, not {value!r}"
    elif taken and name in taken.names and name in ("activation", *_EVERY):
        yield (
            f"{about}: `{name}` in `params` is the notebook's own word, and a parameter of its `model` too: "
            "let `model` name a function that sets it and returns the model"
        )


def _unknown(
    name: str, framework: Framework, member: Member, words: Sequence[str], taken: CallParameters | None
) -> str:
    """Return what is wrong with a param that is none of a framework's words; empty for an argument."""
    if taken and (name in taken.names or taken.open_ended):
        return ""
    if name in MODEL_KEYS:
        return f"`{name}` belongs beside `files`, not in `params`"
    if name in _OF_THE_NOTEBOOK:
        return f"`{name}` is for the whole notebook: set it in [tool.offline-kit.notebook.params]"
    if name in _TEXTS & {*framework.param_names, *_EVERY}:
        return f'`{name}` acts on texts alone, with task = "text"'
    if name in NOTEBOOK_KEYS:
        return f"`{name}` is for the whole notebook: set it in [tool.offline-kit.notebook]"
    if framework.takes_arguments(member) and taken is None and name not in PARAMS:
        return ""  # its source does not tell; the constructor will
    if name == "activation":
        return f"`activation` does nothing: {framework.title} answers with probabilities, or with numbers"
    known = (*words, *(taken.names if taken else ()))
    whose = f"{framework.title} or '{member.model}'" if taken else framework.title
    return f"`{name}` in `params` is read by nothing of {whose}{suggest_name(name, known)}"


def _of_notebook(
    settings: NotebookSettings, members: Sequence[Member], task: str, code: Code
) -> Iterator[str]:
    known = {*_WHOLE, *(_SERVING if settings.template == "server" else ())}
    known |= {"text"} if task == "text" else set()
    open_ended = _hooks_read_params(settings, members, code)
    for member in members:
        framework = framework_table.find_framework(member.framework)
        if framework is None:
            continue
        ours = {"activation"} if framework.own_activation else set()
        known |= {word for word in framework.param_names if task == "text" or word not in _TEXTS} - ours
        known |= {"backend"} if member.framework == "keras" else set()
        if framework.takes_arguments(member) and member.framework not in ("timm", "keras"):
            taken = code.parameters(member.model)
            open_ended |= taken is None
            known |= set(taken.names) if taken else set()
    for name, value in settings.params.items():
        if name in known or (open_ended and name in PARAMS):
            if name in PARAMS and (wrong := PARAMS[name].check(value)):
                yield f"[notebook.params] {name} {wrong}, not {value!r}"
        elif not open_ended:
            yield f"[notebook.params] `{name}` is read by nothing{suggest_name(name, known)}"


def _hooks_read_params(settings: NotebookSettings, members: Sequence[Member], code: Code) -> bool:
    """Whether a function of the project gets the notebook's params, which may then hold anything."""
    hooks = {settings.transform, settings.tta, settings.postprocess, *(each.transform for each in members)}
    for reference in filter(_REFERENCE.fullmatch, hooks):
        taken = code.parameters(reference)
        if taken is None or "params" in taken.names:
            return True
    return False
