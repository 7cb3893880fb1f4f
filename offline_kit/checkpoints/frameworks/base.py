"""What a framework must answer, and the ordinary answers.

A framework is one module here that makes a `Framework`, one fragment `templates/frameworks/<name>.py.j2`, and
a line in `table.py`. The fragment is plain Python for one cell of the notebook, with two functions:

    load_<name>(path, member) -> model
        `path` is the file or folder in the restored kit; `member` has .name, .model, .weight, .arguments (what `model`
        is called with) and .get(word, default) for a param of its own, else of the notebook.
    predict_<name>(model, batch, member) -> numbers, one row for each row of the batch
        Anything that numpy takes, or a torch tensor: (rows,) or (rows x outputs). A binary classifier may
        answer with one column (the second class) or with two; both may stand in one ensemble.

`batch` is a pandas.DataFrame (tabular), what `transform` made of the pictures, stacked, or a list of RGB
pictures of PIL (images), a list of strings or what `transform` made of it (text). In a fragment stand also
`kit`, `device`, `PARAMS`, `preprocessing`, `load_object(reference, kit)` and `KitError`. Import the library at the top
of the fragment: a rehearsal reads from the cells which packages of the image the notebook needs. What the
model calls its classes is read from `model.classes_` where it has them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.project.types import Finding, Member, Severity

SURE, LIKELY, PERHAPS = 1.0, 0.7, 0.2
"""Usual answers of `claims`: its own format; what only it writes in a common format; nobody else's."""


def _find_nothing(_member: Member) -> tuple[Finding, ...]:
    return ()


def _find_no_conflicts(_member: Member, _versions: Mapping[str, str]) -> tuple[Finding, ...]:
    return ()


def answer_yes(_member: Member) -> bool:
    """Answer yes: `by_position` of models that take numbers without names, `arguments` of weights alone."""
    return True


def _answer_no(_member: Member) -> bool:
    return False


def _know_no_version(_member: Member) -> str:
    return ""


def judge_newer(trained: Version, reads: Version) -> Severity | None:
    """Warn of a file of a newer minor version than the one that reads it; older files are read for years."""
    return Severity.WARN if trained.release[:2] > reads.release[:2] else None


@dataclass(frozen=True, kw_only=True)
class Framework:
    """A system that people train models with."""

    name: str
    """Its name in the configuration and in `load_<name>`, a Python identifier."""
    title: str
    """Its name for people."""
    packages: tuple[str, ...]
    """Distributions that its cell imports; they are added to the requirements."""
    score_match: Callable[[Path, ClassifiedFile], float]
    """How sure it is, 0 to 1, that a file or a folder is its own: from names and bytes, never by executing it.

    A folder comes with the kind OTHER.
    """
    library: str = ""
    """The distribution whose version at training time matters; empty for none."""
    check_member: Callable[[Member], tuple[Finding, ...]] = _find_nothing
    """What is seen in a member at build time; `member.version` is set already."""
    read_version: Callable[[Member], str] = _know_no_version
    """The version of the library that the file itself tells; empty where it does not."""
    judge_version: Callable[[Version, Version], Severity | None] = judge_newer
    """How bad it is that the notebook's version, the second one, is another than training's; None for harmless."""
    check_versions: Callable[[Member, Mapping[str, str]], tuple[Finding, ...]] = _find_no_conflicts
    """What else the notebook's versions, by normalized name, mean for a member: its very format decides."""
    uses_column_order: Callable[[Member], bool] = _answer_no
    """Whether a member takes the columns of a table by their places, whatever their names."""
    required_keys: tuple[str, ...] = ()
    """Keys of a member that must be set: ("model",) where the file holds weights alone."""
    task: str = ""
    """The usual task, where none is configured; empty for none."""
    param_names: tuple[str, ...] = ()
    """Words of a member's `params` that its cell reads, each with a line in `config_keys.PARAMS`."""
    own_activation: bool = False
    """Its answers are probabilities or numbers, as a rule: the notebook's `activation` is not meant for them."""
    takes_model: bool = False
    """Whether a member's `model` means something to it."""
    takes_arguments: Callable[[Member], bool] = _answer_no
    """Whether the other `params` of a member are arguments of what `model` names."""
    runtime: tuple[str, ...] = ()
    """Modules of the runtime that its fragment uses, besides those of every notebook that predicts."""
