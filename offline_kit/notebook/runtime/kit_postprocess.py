"""From predictions to the rows of the submission: thresholds, labels, clipping, rounding."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .kit_ensemble import EnsembleMember, Prediction, are_numbered
from .kit_hooks import Preprocessing, resolve_labels
from .kit_runtime import KitError, in_scoring_run, print_once, shorten_list
from .kit_tasks import SampleSubmission


def build_submission(
    prediction: Prediction, sample: SampleSubmission, word: str = "", labels: Any = None
) -> Any:
    """Return the submission as a data frame with the sample's columns.

    `word` is "" (unchanged), "argmax", "threshold:T", "labels:T", "clip:LOW:HIGH" (one may be left out) or
    "round"; `labels` name the model's outputs if the model itself does not. Raises KitError if outputs and
    columns do not fit.
    """
    import pandas as pd

    values, names, classes = prediction.values, list_labels(labels), list(prediction.classes)
    if not names or (not are_numbered(classes) and sorted(map(str, names)) == sorted(map(str, classes))):
        names = classes  # the columns stand in the order of the models' own classes
    kind, *limits = word.split(":")
    numbers: list[Any] = [float(limit) if limit else None for limit in limits]
    _check_finite(prediction, kind)
    if kind == "argmax" and values.shape[1] == 1:
        kind, numbers = "threshold", [0.5]
    columns: list[Any]
    if kind in ("argmax", "labels"):
        columns = [_name_outputs(values, names, sample, kind, *numbers)]
    elif kind == "threshold":
        columns = _apply_threshold(values, names, sample, numbers[0])
    else:
        columns = _copy_outputs(values, names, sample)
    if kind == "clip":
        columns = [column.clip(*numbers) for column in columns]
    elif kind == "round":
        columns = [column.round().astype("int64") for column in columns]
    return pd.DataFrame(dict(zip(sample.columns, [prediction.ids, *columns], strict=True)))


def _check_finite(prediction: Prediction, kind: str) -> None:
    """Raise KitError for values that cannot be postprocessed: NaN would become a label, a no, or an integer."""
    # In the scoring run a few such rows of the hidden test set must not cost the score.
    import numpy as np

    odd = ~np.isfinite(prediction.values) if kind == "round" else np.isnan(prediction.values)
    odd_rows = odd.any(axis=1).nonzero()[0]
    if not kind or not len(odd_rows):
        return
    problem = (
        f"the models answer {prediction.values[odd][0]} for {len(odd_rows)} of {len(prediction.ids)} rows"
    )
    first = f"the first of them: {shorten_list(prediction.ids[row] for row in odd_rows)}"
    if in_scoring_run():
        print(f"note: {problem}; {first}")
        return
    raise KitError(problem, [first], code="predictions-not-finite")


def select_sample_rows(prediction: Prediction, sample: SampleSubmission) -> Prediction:
    """Keep the rows that the sample asks for, if the test set has more."""
    # In the scoring run the sample may still be the public one, a small part of the hidden test set: there it only
    # applies if it asks for at least half of the rows.
    sample_ids = set(sample.ids)
    kept_rows = [row for row, row_id in enumerate(prediction.ids) if str(row_id) in sample_ids]
    left = len(prediction.ids) - len(kept_rows)
    if not left or not kept_rows or (in_scoring_run() and left > len(kept_rows)):
        return prediction
    print(f"note: {left} rows of the test set are not in '{sample.path.name}', and are left out")
    ids = [prediction.ids[row] for row in kept_rows]
    return Prediction(ids, prediction.values[kept_rows], prediction.classes)


def list_labels(labels: Any) -> list[Any]:
    """Return the names of the outputs, in order: of a list, a map of names or numbers, or an encoder."""
    if labels is None:
        return []
    if hasattr(labels, "classes_"):
        return list(labels.classes_)
    if isinstance(labels, Mapping):
        if all(str(key).isdecimal() for key in labels):
            return [labels[key] for key in sorted(labels, key=int)]
        return sorted(labels, key=lambda key: int(labels[key]))
    return list(labels)


def apply_labels(members: Sequence[EnsembleMember], preprocessing: Preprocessing) -> list[EnsembleMember]:
    """Return the members with the names that their own `labels` give to their columns."""
    return [
        replace(member, labels=list_labels(resolve_labels(member.params["labels"], preprocessing)))
        if "labels" in member.params
        else member
        for member in members
    ]


def _copy_outputs(
    values: Any, names: Sequence[Any], sample: SampleSubmission, *, quiet: bool = False
) -> list[Any]:
    # One output for each column; of two classes the second one where there is one column.
    outputs, targets = values.shape[1], sample.targets
    if outputs == len(targets):
        return [values[:, output] for output in _match_outputs(names, targets)]
    if outputs == 2 and len(targets) == 1:
        name = names[1] if len(names) == 2 else "the second class"
        if not quiet:
            print_once(f"column '{targets[0]}': the probability of {name}")
        return [values[:, 1]]
    raise KitError(
        f"the model has {outputs} outputs, and '{sample.path.name}' {len(targets)} columns: {shorten_list(targets)}",
        code="columns-do-not-fit",
    )


def _match_outputs(names: Sequence[Any], targets: Sequence[str]) -> list[int]:
    """Return the output for each column of the sample: by name if the names match, else by position."""
    by_position = list(range(len(targets)))
    texts = [str(name) for name in names]
    if len(texts) != len(targets) or len(targets) == 1:
        return by_position
    if sorted(texts) == sorted(targets):
        return [texts.index(target) for target in targets]
    # "Status_D" is the column of the class "D".
    matches = [
        [at for at, name in enumerate(texts) if target.endswith(f"_{name}") or target.startswith(f"{name}_")]
        for target in targets
    ]
    outputs = [positions[0] for positions in matches if len(positions) == 1]
    if sorted(outputs) == by_position:
        return outputs
    print_once(
        f"note: columns by position: {', '.join(f'{t} = {n}' for t, n in zip(targets, texts, strict=True))}"
    )
    return by_position


def _name_outputs(
    values: Any, names: Sequence[Any], sample: SampleSubmission, kind: str, threshold: float = 0
) -> list[Any]:
    """Return one label for each row, or all above the threshold, joined by spaces; the best one where none is."""
    if len(sample.targets) != 1:
        raise KitError(
            f"'{kind}' fills one column, and '{sample.path.name}' has {len(sample.targets)}: {shorten_list(sample.targets)}",
            code="postprocess-fills-one-column",
        )
    names = list(names) or list(range(values.shape[1]))
    if len(names) != values.shape[1]:
        raise KitError(
            f"there are {len(names)} labels for {values.shape[1]} outputs of the model: {shorten_list(names)}",
            code="label-count-mismatch",
            hint="correct `labels` in [tool.offline-kit.notebook.params]",
        )
    if kind == "argmax":
        labels = _format_labels(names, sample)
        return [labels[output] for output in values.argmax(axis=1)]
    rows = []
    for row in values:
        above = [str(name) for name, value in zip(names, row, strict=True) if value > threshold]
        rows.append(" ".join(above or [str(names[row.argmax()])]))
    return rows


def _format_labels(names: Sequence[Any], sample: SampleSubmission) -> list[Any]:
    # Names that are whole numbers, as the sample writes its own: 0.0 and False are its "0", 1 is its "True".
    try:
        plain = [float("" if isinstance(name, str) else name) for name in names]
    except (TypeError, ValueError):
        return list(names)
    cells = sample.answers
    if not cells or not all(value.is_integer() for value in plain):
        return list(names)
    if cells <= {"False", "True"}:
        return [bool(value) for value in plain] if {*plain} <= {0, 1} else list(names)
    if all(value.lstrip("-").isdecimal() for value in cells):
        return [int(value) for value in plain]
    all_decimal = all(value.endswith(".0") and value[:-2].lstrip("-").isdecimal() for value in cells)
    return plain if all_decimal else list(names)


def _apply_threshold(
    values: Any, names: Sequence[Any], sample: SampleSubmission, threshold: float
) -> list[Any]:
    passed = [column > threshold for column in _copy_outputs(values, (), sample, quiet=True)]
    if len(passed) == 1 and len(names) == 2:
        labels = _format_labels(names, sample)
        return [[labels[bool(is_above)] for is_above in passed[0]]]
    return [passed[output].astype(int) for output in _match_outputs(names, sample.targets)]
