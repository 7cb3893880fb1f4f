"""From predictions to the rows of the submission: thresholds, labels, clipping, rounding.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from offline_kit.notebook.runtime.kit_ensemble import Member, Prediction, as_number
from offline_kit.notebook.runtime.kit_preprocess import Preprocessing, labels_of
from offline_kit.notebook.runtime.kit_runtime import KitError, Say
from offline_kit.notebook.runtime.kit_tasks import Sample, shown


def to_rows(
    prediction: Prediction, sample: Sample, word: str = "", labels: Any = None, say: Say = print
) -> Any:
    """Return the submission as a data frame with the sample's columns.

    `word` is "" (the predictions as they are), "argmax", "threshold:T", "labels:T", "clip:LOW:HIGH" (one
    may be left out) or "round"; `labels` are the names of the model's outputs, where the model itself does not tell them.
    Raises KitError where outputs and columns do not fit.
    """
    names, known = label_list(labels), list(prediction.classes)
    numbered = [as_number(each) for each in known] == list(range(len(known)))
    if not names or (not numbered and sorted(map(str, names)) == sorted(map(str, known))):
        names = known  # the columns stand in the order of the models' own classes
    kind, *numbers = word.split(":")
    _numbers_alone(prediction, kind, say)
    made = POSTPROCESSES[kind](
        prediction.values, names, sample, [float(each) if each else None for each in numbers], say
    )
    return frame(prediction.ids, made, sample)


def _numbers_alone(prediction: Prediction, kind: str, say: Say) -> None:
    """Raise KitError for what no word can use: of NaN it would make a label, a no, or a whole number.

    In Kaggle's own scoring run it is only told: a few odd rows of the hidden test set must not cost the score.
    """
    import numpy as np

    odd = ~np.isfinite(prediction.values) if kind == "round" else np.isnan(prediction.values)
    places = odd.any(axis=1).nonzero()[0]
    if not kind or not len(places):
        return
    what = f"the models answer {prediction.values[odd][0]} for {len(places)} of {len(prediction.ids)} rows"
    first = f"the first of them: {shown(prediction.ids[place] for place in places)}"
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
        say(f"note: {what}; {first}")
        return
    raise KitError(
        what,
        [first],
        code="predictions-not-finite",
        hint="see what is particular in these rows: an empty cell, an overflow of half precision, a division by 0",
    )


def for_sample(prediction: Prediction, sample: Sample, say: Say = print) -> Prediction:
    """Return the prediction of the sample's ids alone, where the test set has more rows than are asked for.

    In Kaggle's own scoring run the sample may still be the public one, a small part of the hidden test set:
    there it counts only if it asks for half of the rows or more.
    """
    wanted = set(sample.ids)
    places = [place for place, each in enumerate(prediction.ids) if str(each) in wanted]
    left = len(prediction.ids) - len(places)
    scoring = bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))
    if not left or not places or (scoring and left > len(places)):
        return prediction
    say(f"note: {left} rows of the test set are not in '{sample.path.name}', and are left out")
    ids = [prediction.ids[place] for place in places]
    return Prediction(ids, prediction.values[places], prediction.classes)


def frame(ids: Sequence[Any], columns: Sequence[Any], sample: Sample) -> Any:
    """Return a data frame of ids and columns under the sample's names."""
    import pandas as pd

    return pd.DataFrame(dict(zip(sample.columns, [ids, *columns], strict=True)))


def label_list(labels: Any) -> list[Any]:
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


def with_labels(members: Sequence[Member], preprocessing: Preprocessing) -> list[Member]:
    """Return the members with the names that their own `labels` give to their columns."""
    return [
        replace(each, labels=label_list(labels_of(each.params["labels"], preprocessing)))
        if "labels" in each.params
        else each
        for each in members
    ]


def _one_target(sample: Sample, word: str) -> None:
    if len(sample.targets) != 1:
        raise KitError(
            f"'{word}' fills one column, and '{sample.path.name}' has {len(sample.targets)}: {shown(sample.targets)}",
            code="postprocess-fills-one-column",
            hint="choose another `postprocess`, or a function of yours: function(predictions, ids)",
        )


def _named(names: Sequence[Any], count: int) -> list[Any]:
    if not names:
        return list(range(count))
    if len(names) != count:
        raise KitError(
            f"there are {len(names)} labels for {count} outputs of the model: {shown(names)}",
            code="label-count-mismatch",
            hint="correct `labels` in [tool.offline-kit.notebook.params]",
        )
    return list(names)


def _plain(values: Any, names: Sequence[Any], sample: Sample, _numbers: Any, say: Say) -> list[Any]:
    # One output for each column; of two classes the second one where there is one column.
    outputs, targets = values.shape[1], sample.targets
    if outputs == len(targets):
        return [values[:, place] for place in _places(names, targets, say)]
    if outputs == 2 and len(targets) == 1:
        say(
            f"column '{targets[0]}': the probability of {names[1] if len(names) == 2 else 'the second class'}"
        )
        return [values[:, 1]]
    raise KitError(
        f"the model has {outputs} outputs, and '{sample.path.name}' {len(targets)} columns: {shown(targets)}",
        code="columns-do-not-fit",
        hint='set `postprocess` to "argmax" or "labels:0.5" for names in one column, or to a function of yours',
    )


def _places(names: Sequence[Any], targets: Sequence[str], say: Say) -> list[int]:
    """Return for each column of the sample the output that it gets: by name where the names say it."""
    known = [str(each) for each in names]
    if len(known) != len(targets) or len(targets) == 1:
        return list(range(len(targets)))
    for ending in ("", "_"):
        found = [[at for at, name in enumerate(known) if _says(target, name, ending)] for target in targets]
        if all(len(each) == 1 for each in found) and len({each[0] for each in found}) == len(targets):
            return [each[0] for each in found]
    say(f"note: columns by position: {', '.join(f'{t} = {n}' for t, n in zip(targets, known, strict=True))}")
    return list(range(len(targets)))


def _says(target: str, name: str, ending: str) -> bool:
    return target == name if not ending else target.endswith(f"_{name}") or target.startswith(f"{name}_")


def _argmax(values: Any, names: Sequence[Any], sample: Sample, _numbers: Any, say: Say) -> list[Any]:
    if values.shape[1] == 1:
        return _threshold(values, names, sample, [0.5], say)
    _one_target(sample, "argmax")
    labels = _written(_named(names, values.shape[1]), sample)
    return [[labels[place] for place in values.argmax(axis=1)]]


def _written(names: Sequence[Any], sample: Sample) -> list[Any]:
    # Names that are whole numbers, as the sample writes its own: 0.0 and False are its "0", 1 is its "True".
    try:
        plain = [float("" if isinstance(name, str) else name) for name in names]
    except (TypeError, ValueError):
        return list(names)
    cells = sample.answers
    if not cells or not all(each.is_integer() for each in plain):
        return list(names)
    if cells <= {"False", "True"}:
        return [bool(each) for each in plain] if {*plain} <= {0, 1} else list(names)
    if all(each.lstrip("-").isdecimal() for each in cells):
        return [int(each) for each in plain]
    whole = all(each.endswith(".0") and each[:-2].lstrip("-").isdecimal() for each in cells)
    return plain if whole else list(names)


def _threshold(
    values: Any, names: Sequence[Any], sample: Sample, numbers: Sequence[float], say: Say
) -> list[Any]:
    chosen = [column > numbers[0] for column in _plain(values, (), sample, (), lambda _text: None)]
    if len(chosen) == 1 and len(names) == 2:
        both = _written(names, sample)
        return [[both[bool(each)] for each in chosen[0]]]
    order = _places(names, sample.targets, say)
    return [chosen[place].astype(int) for place in order]


def _labels(
    values: Any, names: Sequence[Any], sample: Sample, numbers: Sequence[float], _say: Say
) -> list[Any]:
    # The names of all outputs above the threshold, joined by spaces; the best one where none is.
    _one_target(sample, "labels")
    labels = [str(each) for each in _named(names, values.shape[1])]
    rows = []
    for row in values:
        above = [label for label, value in zip(labels, row, strict=True) if value > numbers[0]]
        rows.append(" ".join(above or [labels[row.argmax()]]))
    return [rows]


def _clip(
    values: Any, names: Sequence[Any], sample: Sample, numbers: Sequence[float | None], say: Say
) -> list[Any]:
    return [column.clip(*numbers) for column in _plain(values, names, sample, (), say)]


def _round(values: Any, names: Sequence[Any], sample: Sample, _numbers: Any, say: Say) -> list[Any]:
    return [column.round().astype("int64") for column in _plain(values, names, sample, (), say)]


POSTPROCESSES: dict[str, Callable[..., list[Any]]] = {
    "": _plain,
    "argmax": _argmax,
    "threshold": _threshold,
    "labels": _labels,
    "clip": _clip,
    "round": _round,
}
