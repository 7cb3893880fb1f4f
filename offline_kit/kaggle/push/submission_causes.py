"""Kaggle's few sentences about a submission that failed: what usually is behind each, and what helps.

Of the hidden run nothing comes back but such a sentence: no log, no cell, no output.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class FailureCause:
    """One kind of failure."""

    pattern: str
    cause: str
    remedy: str
    is_transient: bool = False
    """Kaggle's own trouble: the same submission may succeed another time."""


_REHEARSE = "`offline-kit rehearse` with as many rows as the hidden test may have"
NO_REASON = FailureCause(
    r"^\s*$",
    "Kaggle's API gives no reason; the submission's page may",
    f"read its page; then try {_REHEARSE}",
)
UNKNOWN = FailureCause(
    r"",
    "",
    f"read the submission's page; then try {_REHEARSE}",
)
CAUSES: tuple[FailureCause, ...] = (
    NO_REASON,
    FailureCause(
        r"competition's metric failed",
        "the local competition's own metric fails, whatever is submitted",
        "fix the `metric` of its competition.toml, then run 'offline-kit submit --again'",
    ),
    FailureCause(
        r"kaggle error|system error|internal error",
        "trouble of Kaggle's own, not of the notebook's",
        "submit the same version once more with 'offline-kit submit --again'",
        is_transient=True,
    ),
    FailureCause(
        r"allocate more memory|out of memory|memory ?error|\boom\b",
        "the hidden test is larger than the public one, and the memory did not suffice",
        f"use smaller batches, read and free piece by piece; {_REHEARSE} tells the peak",
    ),
    FailureCause(
        r"exceeded allowed compute",
        "more memory or disk than there is, or an accelerator, data source or size that the rules do not allow,"
        " as a rule only with the larger hidden test",
        f"{_REHEARSE} tells the peak of memory and disk; unpack below /tmp; compare the rules with `accelerator`"
        " and the attached data",
    ),
    FailureCause(
        r"time ?out|time cap|timed out|max(?:imum)? allowed (?:run|execution) ?time",
        "the hidden run took longer than the competition allows: its test set is larger than the public one",
        f"{_REHEARSE} gives a forecast; use larger batches, fewer models or folds, a smaller input size",
    ),
    FailureCause(
        r"server never started|inference server",
        "the inference server did not answer in the first minutes",
        "start serving first and load the models in the first call",
    ),
    FailureCause(
        r"scoring error|evaluation exception|submission is empty",
        "the file has rows, columns, ids or values that the metric does not take; often a prediction that was made"
        " for the public rows instead of those that are there",
        "predict for the ids of the test data that is mounted, never from a stored answer; no empty values, the"
        f" sample's columns; {_REHEARSE} with other ids checks it",
    ),
    FailureCause(
        r"not found",
        "the hidden run ended without the file: an error before it was written, often in the reading of the hidden"
        " data, or another name",
        "write the file that the competition asks for (`submission` in [tool.offline-kit.notebook]) for whatever"
        f" rows there are; {_REHEARSE} and other ids shows where it stops",
    ),
    FailureCause(
        r"threw exception|exception|traceback",
        "a cell failed in the hidden run alone: more rows than in public, rows of a kind that is not there, a folder"
        " that is replaced, or memory",
        f"{_REHEARSE} and with rows missing shows most of them; no path and no id of the public test in the code",
    ),
)
"""In the order in which they are tried: the special before the general."""


def explain_failure(message: str) -> FailureCause:
    """Return what is behind Kaggle's words; the first known kind that fits."""
    return next((cause for cause in CAUSES if re.search(cause.pattern, message, re.IGNORECASE)), UNKNOWN)
