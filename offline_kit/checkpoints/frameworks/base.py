"""Describe a framework: how its files are recognized, checked and loaded.

A framework is a section of `data/frameworks.toml`, a subclass of `Framework` in a module here, a line in
`framework_table.py`, and a fragment `templates/frameworks/<name>.py.j2`: plain Python for one cell of the notebook, with
two functions:

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

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.pickle_streams import DAMAGE, open_decompressed, read_globals
from offline_kit.core import resources
from offline_kit.project.types import CheckpointKind, Finding, Member, Severity

SURE, LIKELY, PERHAPS = 1.0, 0.7, 0.2
"""Usual scores of `score_match`: its own format; what only it writes in a common format; nobody else's."""
_FACTS = tomllib.loads(resources.data_file("frameworks.toml").read_text(encoding="utf-8"))
PICKLES = (CheckpointKind.PICKLE, CheckpointKind.JOBLIB)
# Suffixes that the notebook's cells load as pickles, compressed or not
_PICKLED = (".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav")
# Bytes of a chunk that are searched again with the next one: longer than any match
_OVERLAP = 64
# Parts of scikit-learn inside of boosters' own estimators
_BESIDE = ("sklearn.preprocessing._label.LabelEncoder", "sklearn.utils.")


class Framework:
    """A library that models are trained with: its section of `data/frameworks.toml`, and what is code."""

    def __init__(self, name: str) -> None:
        facts = _FACTS[name]
        self.name = name  # in the configuration and in `load_<name>`
        self.title: str = facts["title"]
        self.packages = tuple(facts["packages"])  # distributions that its cell imports
        self.library: str = facts.get("library", "")  # the one whose version at training time matters
        self.task: str = facts.get("task", "")
        # Keys of a member that must be set: ("model",) if the file holds weights alone
        self.required_keys = tuple(facts.get("required_keys", ()))
        # Keys of a member's `params` that its cell reads, each with a line in `config_keys.PARAMS`
        self.param_names = tuple(facts.get("param_names", ()))
        # Its outputs usually are probabilities or numbers: the notebook's `activation` does not apply.
        self.own_activation: bool = facts.get("own_activation", False)
        self.takes_model: bool = facts.get("takes_model", False)
        self._by_position: bool = facts.get("uses_column_order", False)
        self._takes_arguments: bool = facts.get("takes_arguments", False)

    def score_match(self, path: Path, classified: ClassifiedFile) -> float:
        """Return how sure it is, 0 to 1, that a file or a folder (of kind OTHER) is its own, from names and bytes."""
        raise NotImplementedError

    def check_member(self, _member: Member) -> Iterable[Finding]:
        """Return findings on a member at build time; `member.version` is set already."""
        return ()

    def read_version(self, _path: Path) -> str:
        """Return the library's version in the file; empty if it states none."""
        return ""

    def judge_version(self, trained: Version, reads: Version) -> Severity | None:
        """Return how severe a difference between the training's version and the notebook's is; None for harmless."""
        # Older files stay readable for years.
        return Severity.WARN if trained.release[:2] > reads.release[:2] else None

    def check_versions(self, _member: Member, _versions: Mapping[str, str]) -> Iterable[Finding]:
        """Return findings on a member's format and the notebook's versions, by normalized name."""
        return ()

    def uses_column_order(self, _member: Member) -> bool:
        """Whether a member takes the columns of a table by position, whatever their names."""
        return self._by_position

    def takes_arguments(self, _member: Member) -> bool:
        """Whether the other `params` of a member are arguments of what `model` names."""
        return self._takes_arguments


def read_head(path: Path, count: int = 256) -> bytes:
    """Return the first bytes of a file; nothing for a folder."""
    if path.is_dir():
        return b""
    with path.open("rb") as stream:
        return stream.read(count)


def read_tail(path: Path, count: int = 1 << 16) -> bytes:
    """Return the last bytes of a file."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - count))
        return stream.read(count)


def search_content(path: Path, pattern: re.Pattern[bytes]) -> str:
    """Return the first group of a short pattern in a file's content, decompressed if it is compressed."""
    carried = b""
    with suppress(*DAMAGE), open_decompressed(path) as stream:
        while chunk := stream.read(1 << 20):
            match = pattern.search(carried + chunk)
            # A match at the end of a chunk may continue in the next one.
            if match and match.end() < len(carried + chunk):
                return match[1].decode()
            carried = chunk[-_OVERLAP:]
    return ""


def walk_objects(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON document."""
    pending = [node]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def is_pickled(member: Member) -> bool:
    """Whether a member is a pickle, not in its library's own format."""
    return member.path.suffix.lower() in _PICKLED


def is_estimator_of(path: Path, sniffed: ClassifiedFile, package: str) -> bool:
    """Whether a file is a pickled model of this package alone, and no pipeline of scikit-learn around it."""
    if path.is_dir() or sniffed.kind not in PICKLES or path.suffix.lower() not in _PICKLED:
        return False
    names = read_globals(path)
    around = [name for name in names if name.startswith("sklearn.") and not name.startswith(_BESIDE)]
    return not around and any(name.startswith(f"{package}.") for name in names)


def parse_release(version: str) -> tuple[int, ...]:
    """Return major and minor version; an empty tuple for no version."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, match.groups())) if match else ()


def _make_finding(severity: Severity, member: Member, problem: str, remedy: str) -> Finding:
    return Finding(severity=severity, about=member.name, what=problem, remedy=remedy)


make_stop = partial(_make_finding, Severity.STOP)
make_warning = partial(_make_finding, Severity.WARN)
make_note = partial(_make_finding, Severity.NOTE)
