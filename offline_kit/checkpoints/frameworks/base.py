"""Describe a framework: how its files are recognized, checked and loaded.

A framework is one module here that makes a `Framework`, one fragment `templates/frameworks/<name>.py.j2`, and
a line in `framework_table.py`. The fragment is plain Python for one cell of the notebook, with two functions:

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
"""Usual scores of `score_match`: its own format; what only it writes in a common format; nobody else's."""


def answer_yes(_member: Member) -> bool:
    """Return True, for `uses_column_order` and `takes_arguments`."""
    return True


def judge_newer(trained: Version, reads: Version) -> Severity | None:
    """Warn of a file of a newer minor version than the notebook's; older files stay readable for years."""
    return Severity.WARN if trained.release[:2] > reads.release[:2] else None


@dataclass(frozen=True, kw_only=True)
class Framework:
    """A library that models are trained with."""

    name: str
    """Its name in the configuration and in `load_<name>`, a Python identifier."""
    title: str
    """Its name for people."""
    packages: tuple[str, ...]
    """Distributions that its cell imports; they are added to the requirements."""
    score_match: Callable[[Path, ClassifiedFile], float]
    """How sure it is, 0 to 1, that a file or a folder (of kind OTHER) is its own, from names and bytes alone."""
    library: str = ""
    """The distribution whose version at training time matters; empty for none."""
    check_member: Callable[[Member], tuple[Finding, ...]] = lambda _member: ()
    """Findings on a member at build time; `member.version` is set already."""
    read_version: Callable[[Member], str] = lambda _member: ""
    """The library's version in the file; empty if it states none."""
    judge_version: Callable[[Version, Version], Severity | None] = judge_newer
    """How severe a difference between the training's version and the notebook's is; None for harmless."""
    check_versions: Callable[[Member, Mapping[str, str]], tuple[Finding, ...]] = lambda _member, _versions: ()
    """Findings on a member's format and the notebook's versions, by normalized name."""
    uses_column_order: Callable[[Member], bool] = lambda _member: False
    """Whether a member takes the columns of a table by position, whatever their names."""
    required_keys: tuple[str, ...] = ()
    """Keys of a member that must be set: ("model",) if the file holds weights alone."""
    task: str = ""
    """The task if none is configured."""
    param_names: tuple[str, ...] = ()
    """Keys of a member's `params` that its cell reads, each with a line in `config_keys.PARAMS`."""
    own_activation: bool = False
    """Its outputs usually are probabilities or numbers: the notebook's `activation` does not apply."""
    takes_model: bool = False
    takes_arguments: Callable[[Member], bool] = lambda _member: False
    """Whether the other `params` of a member are arguments of what `model` names."""
    runtime: tuple[str, ...] = ()
    """Modules of the runtime that its fragment uses, besides those of every notebook that predicts."""
