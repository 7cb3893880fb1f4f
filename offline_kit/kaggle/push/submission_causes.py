"""Known failures of a submission: Kaggle's sentence, the usual cause, and a fix.

A hidden run returns nothing else: no log, no cell, no output.
"""

import re

from offline_kit.rehearsal.causes import KnownFailure

SYSTEM_ERROR = "submission-kaggle-error"
"""Kaggle's own failure: the same submission may succeed later."""
_REHEARSE = "`offline-kit rehearse` with as many rows as the hidden test set may have"
NO_REASON = KnownFailure(
    "submission-failed-without-reason",
    r"^\s*$",
    "Kaggle's API returns no reason; the submission's page may have one",
    f"read its page; then run {_REHEARSE}",
)
UNKNOWN = KnownFailure(
    "submission-failed",
    r"",
    "",
    f"read the submission's page; then run {_REHEARSE}",
)
# Kaggle's sentences: https://www.kaggle.com/code-competition-debugging
CAUSES: tuple[KnownFailure, ...] = (
    NO_REASON,
    KnownFailure(
        "submission-metric-failed",
        r"competition's metric failed",
        "the local competition's own metric fails, whatever is submitted",
        "fix the `metric` of its competition.toml, then run 'offline-kit submit --again'",
    ),
    KnownFailure(
        SYSTEM_ERROR,
        r"kaggle error|system error|internal error",
        "a failure of Kaggle's, not of the notebook",
        "submit the same version again with 'offline-kit submit --again'",
    ),
    KnownFailure(
        "submission-out-of-memory",
        r"allocate more memory|out of memory|memory ?error|\boom\b",
        "the hidden test set is larger than the public one and needs more memory",
        f"use smaller batches, read and free data in chunks; {_REHEARSE} reports the peak",
    ),
    KnownFailure(
        "submission-over-compute-limit",
        r"exceeded allowed compute",
        "too much memory or disk, or an accelerator, data source or size that the rules do not allow,"
        " usually only with the larger hidden test set",
        f"{_REHEARSE} reports the peak of memory and disk; unpack below /tmp; compare the rules with `accelerator`"
        " and the attached data",
    ),
    KnownFailure(
        "submission-timeout",
        r"time ?out|time cap|timed out|max(?:imum)? allowed (?:run|execution) ?time",
        "the hidden run took longer than the competition allows: its test set is larger than the public one",
        f"{_REHEARSE} estimates the time; use larger batches, fewer models or folds, a smaller input size",
    ),
    KnownFailure(
        "submission-server-not-started",
        r"server never started|inference server",
        "the inference server did not answer in the first minutes",
        "start serving first and load the models in the first call",
    ),
    KnownFailure(
        "submission-scoring-failed",
        r"scoring error|evaluation exception|submission is empty",
        "the metric does not accept the file's rows, columns, ids or values; often the predictions are for the public"
        " rows instead of the mounted ones",
        "predict for the ids of the mounted test data, never from a stored answer; no empty values, the"
        f" sample's columns; {_REHEARSE} with other ids checks it",
    ),
    KnownFailure(
        "submission-file-missing",
        r"not found",
        "the hidden run finished without the file: an error before it was written, often while reading the hidden"
        " data, or another file name",
        "write the file that the competition asks for (`submission` in [tool.offline-kit.notebook]) for any"
        f" rows; {_REHEARSE} and other ids shows where it fails",
    ),
    KnownFailure(
        "submission-notebook-failed",
        r"threw exception|exception|traceback",
        "a cell failed in the hidden run only: more rows than in the public test set, other kinds of rows, a replaced"
        " folder, or memory",
        f"{_REHEARSE} and with rows missing shows most of these; use no path and no id of the public test set",
    ),
)
"""In this order, the specific ones first."""


def explain_failure(message: str) -> KnownFailure:
    """Return the first known failure that matches Kaggle's message."""
    return next((cause for cause in CAUSES if re.search(cause.pattern, message, re.IGNORECASE)), UNKNOWN)
