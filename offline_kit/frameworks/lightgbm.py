"""LightGBM: models of save_model (text), and pickled boosters and estimators."""

from functools import partial
from pathlib import Path

from packaging.version import Version

from offline_kit.checkpoint_kinds import Sniffed
from offline_kit.frameworks import peek
from offline_kit.frameworks.base import SURE, Framework
from offline_kit.model import Finding, Member, Severity

_DUMP = b'{"name":"tree","version":"v'
_TRAINED_WITH = "model.booster_.save_model('model.txt'), or model.save_model('model.txt') for a Booster"


def claims(path: Path, sniffed: Sniffed) -> float:
    """Claim the text that a booster writes, its JSON dump (to explain it), and its pickles."""
    start = peek.head(path)
    own = start.startswith((b"tree\nversion=", b"tree\r\nversion=")) or _is_dump(start)
    return SURE if own or peek.is_estimator_of(path, sniffed, "lightgbm") else 0.0


def judge(trained: Version, reads: Version) -> Severity | None:
    """Warn of a newer major version only: the text is the same within one."""
    return Severity.WARN if trained.major > reads.major else None


def findings(member: Member) -> tuple[Finding, ...]:
    """Return that a dump is no model, that a text was cut short, and how a pickle would become a text."""
    if peek.is_pickled(member):
        return (
            peek.note(
                member,
                "is a pickled LightGBM model, which loads with about its own version only",
                f"save it in its own format, which newer versions read too: {_TRAINED_WITH}",
            ),
        )
    if _is_dump(peek.head(member.path)):
        return (
            peek.stop(
                member,
                "is a dump for people (dump_model), from which LightGBM cannot make a model again",
                f"save the model itself: {_TRAINED_WITH}",
            ),
        )
    if b"end of trees" not in peek.tail(member.path, 64 << 20):
        return (
            peek.stop(
                member, "is cut short: LightGBM's text has no 'end of trees'", "copy or save the file again"
            ),
        )
    return ()


def _is_dump(start: bytes) -> bool:
    return start.replace(b" ", b"").replace(b"\n", b"").startswith(_DUMP)


LIGHTGBM = Framework(
    name="lightgbm",
    title="LightGBM",
    packages=("lightgbm", "scikit-learn", "joblib", "pandas"),
    library="lightgbm",
    claims=claims,
    judge=judge,
    findings=findings,
    fits=partial(peek.pickle_fits, "lightgbm"),
    task="tabular",
    params=("activation",),
    own_activation=True,
)
