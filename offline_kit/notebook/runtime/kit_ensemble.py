"""Predict with one model after the other, never two in memory, and make one prediction of all."""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .kit_deadline import Deadline
from .kit_runtime import KitError, OpenKit, print_once, shorten_list, track_progress
from .kit_sources import find_source_files
from .kit_tasks import RowBatch

Frameworks = Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]]
"""For each framework the functions that load and predict: load(path, member), predict(model, batch, member)."""
Augment = Callable[[Any], Iterable[Any]] | None  # A user's `tta`: yields views of a batch


@dataclass(frozen=True)
class EnsembleMember:
    """One model of the ensemble."""

    name: str
    framework: str
    path: Path
    model: str = ""  # reference to its class or builder, if the file contains only weights
    weight: float = 1.0
    params: dict[str, Any] = field(default_factory=dict)
    """How to load it and predict with it: "activation", "weights_only", ...; see `get`."""
    arguments: dict[str, Any] = field(default_factory=dict)  # what `model` is called with
    transform: str = ""  # reference to the function that prepares the test set for this model only
    batch_size: int = 0  # rows, pictures or texts at once for this model; 0 takes the notebook's
    labels: list[Any] = field(default_factory=list)  # labels of its columns, if the model itself has none
    shared: Mapping[str, Any] = field(default_factory=dict)  # the notebook's params, the fallback of `params`

    def get(self, name: str, default: Any = None) -> Any:
        """Return a param of this model, else of the notebook, else the default."""
        return self.params.get(name, self.shared.get(name, default))


@dataclass(frozen=True)
class Prediction:
    """The ensemble's prediction of the test set."""

    ids: list[Any]
    values: Any  # an array with one row per id: float32, or float64 if the models' answers need it
    classes: list[Any]


def attach_members(
    members: Sequence[Mapping[str, Any]], kit: OpenKit, params: Mapping[str, Any] | None = None
) -> list[EnsembleMember]:
    """Return the members with their files found: in the kit, or in the dataset, notebook or model that is named.

    A pattern that names several files of a source makes as many members. Raises KitError for a source that
    is not attached, and for files that are not what they were when the kit was built.
    """
    attached_members = []
    for entry in members:
        fields = dict(entry) | {"shared": params or {}}
        source, path, known_files = fields.pop("source", ""), fields.pop("path"), fields.pop("known", {})
        files = [kit.folder / path]
        if source:
            files = find_source_files(source, path, kit.places.inputs, known_files, kit.places.scratch)
        for file in files:
            name = fields["name"] if len(files) == 1 else file.name
            attached_members.append(EnsembleMember(**{**fields, "name": name}, path=file))
    return attached_members


def predict_all(
    members: Sequence[EnsembleMember],
    frameworks: Frameworks,
    data: Any,
    method: str = "mean",
    *,
    tta: Augment = None,
    independent: bool = False,
    deadline: Deadline | None = None,
) -> Prediction:
    """Predict with each member in turn and combine: "mean", "weighted", "rank" or "vote".

    `independent` means that every output is its own yes or no, which matters for a vote. `data` yields
    batches, or is a function of the member that returns them. After a `deadline`, the members that have ended are
    combined; of a first one that has not, its rows. Raises KitError if the members do not fit together.
    """
    if not members:
        raise KitError("there are no models to predict with", code="no-model")
    first_ids: list[Any] = []
    blend = Blend(method, independent=independent)
    finished, cut = 0, ""
    for member in members:
        if finished and deadline and deadline.is_over():
            break
        load, predict = frameworks[member.framework]
        model = _load_member(load, member)
        free_memory()
        batches = data(member) if callable(data) else data
        ids, values, is_whole = _answer_batches(batches, member, model, predict, tta, deadline)
        if finished and not is_whole:
            break  # a part of a model would count for some rows alone
        labels = column_labels(member, model, values.shape[1])
        del model
        free_memory()
        if first_ids and ids != first_ids:
            raise KitError(
                f"'{member.name}' predicted other rows than the first model",
                code="rows-differ-between-models",
            )
        if method == "rank" and not first_ids and values.size and (values.min() < 0 or values.max() > 1):
            print(
                f"note: '{member.name}' predicts other numbers than shares; what is submitted are ranks from 0 to 1"
            )
        first_ids = ids
        blend.add_member(values, labels, member)
        finished += 1
        cut = "" if is_whole else f"'{member.name}' predicted only its first {len(ids)} rows"
    if deadline:
        deadline.report_models(finished, [member.name for member in members], cut)
    return Prediction(first_ids, blend.combine_predictions(), blend.classes)


def _answer_batches(
    batches: Any,
    member: EnsembleMember,
    model: Any,
    predict: Callable[..., Any],
    tta: Augment,
    deadline: Deadline | None,
) -> tuple[list[Any], Any, bool]:
    """Return ids and answers of all batches, of one at least, and whether there was time for all."""
    import numpy as np

    ids, answers, is_whole = list[Any](), list[Any](), True
    for batch in track_progress(batches, member.name, getattr(batches, "total", 0)):
        if answers and deadline and deadline.is_over():
            is_whole = False
            break
        ids.extend(batch.ids)
        answers.append(predict_views(batch, member, model, predict, tta))
    return ids, np.concatenate(answers), is_whole


class Ensemble:
    """The models of an ensemble, all in memory: a gateway waits for each batch."""

    def __init__(
        self, members: Sequence[EnsembleMember], frameworks: Frameworks, method: str = "mean"
    ) -> None:
        if method == "rank":
            raise KitError(
                "a rank mean needs the whole test set, and a gateway shows one batch at a time",
                code="rank-mean-needs-all-rows",
            )
        self.members, self.method, self.frameworks = members, method, frameworks
        self.models = [frameworks[member.framework][0](member.path, member) for member in members]

    def predict_batch(
        self, batch: RowBatch | Mapping[str, RowBatch], tta: Augment = None, *, independent: bool = False
    ) -> Prediction:
        """Return the ensemble's prediction for one batch, or for one batch per member, by its name."""
        blend = Blend(self.method, independent=independent)
        ids: list[Any] = []
        for member, model in zip(self.members, self.models, strict=True):
            own = batch[member.name] if isinstance(batch, Mapping) else batch
            ids, predict = list(own.ids), self.frameworks[member.framework][1]
            values = predict_views(own, member, model, predict, tta)
            blend.add_member(values, column_labels(member, model, values.shape[1]), member)
        return Prediction(ids, blend.combine_predictions(), blend.classes)


def _load_member(load: Callable[..., Any], member: EnsembleMember) -> Any:
    """Load a model; if another pandas version pickled it, raise KitError with the versions that would load it."""
    try:
        return load(member.path, member)
    except (NotImplementedError, AttributeError, TypeError, ValueError) as error:
        # pandas pickles the classes of its columns, which move from version to version.
        if not any(word in str(error) for word in ("StringDtype", "NDArrayBacked", "pandas._libs")):
            raise
        modules = {"pandas": "pandas", "numpy": "numpy", "scikit-learn": "sklearn"}
        versions = {
            name: getattr(sys.modules.get(module), "__version__", "") for name, module in modules.items()
        }
        pins = " ".join(f"{name}=={version}" for name, version in versions.items() if version)
        raise KitError(
            f"'{member.name}' was written by another pandas than the notebook's {versions['pandas']}",
            [f"{type(error).__name__}: {error}"],
            code="pandas-version-mismatch",
            hint=f"train it again with the image's versions: pip install {pins}",
        ) from error


def free_memory() -> None:
    """Free the memory of deleted models, the accelerator's included."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # not every system has it
        ctypes.CDLL(None).malloc_trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def predict_views(
    batch: RowBatch, member: EnsembleMember, model: Any, predict: Callable[..., Any], tta: Augment = None
) -> Any:
    """Return a member's answer to one batch: an array with one row per id, the mean over its views."""
    total, count = None, 0
    for view in tta(batch.data) if tta else [batch.data]:
        answer = as_row_array(predict(model, view, member), len(batch.ids), member.name)
        total = answer if total is None else total + answer
        count += 1
    if total is None:
        raise KitError("the function `tta` yields no batch", code="tta-without-batches")
    return total if count == 1 else total / count


def apply_activation(answer: Any, activation: str) -> Any:
    """Return probabilities of scores: "softmax" over the columns of a row, "sigmoid" of each, "" leaves them."""
    import numpy as np

    if not activation:
        return answer
    if activation not in ("softmax", "sigmoid"):
        raise KitError(f"activation = '{activation}' is not known", code="unknown-activation")
    if isinstance(answer, list):  # one array for each target
        return [apply_activation(target_scores, activation) for target_scores in answer]
    if hasattr(answer, "detach"):
        answer = answer.detach().float().cpu().numpy()
    scores = np.asarray(answer)
    scores = scores.astype(np.result_type(scores.dtype, np.float32))
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(0, -scores))  # no overflow at any size
    if scores.ndim < 2 or scores.shape[-1] < 2:
        raise KitError("softmax of a single column is 1 in every row", code="softmax-of-one-column")
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def as_row_array(answer: Any, rows: int, name: str) -> Any:
    """Return a model's answer as an array of `rows` rows, as exact as it is; raises KitError for any other number."""
    import numpy as np

    if isinstance(answer, list) and answer and getattr(answer[0], "ndim", 0) == 2:
        # One array for each target: its number, or of its two classes the probability of the second.
        widths = [target_answer.shape[1] for target_answer in answer]
        if set(widths) not in ({1}, {2}):
            raise KitError(
                f"'{name}' answers for {len(widths)} targets with {', '.join(map(str, widths))} columns",
                [
                    "a table has room for one number of each target: the probability of the second of two classes"
                ],
                code="multi-target-probabilities",
            )
        answer = np.stack([np.asarray(target_answer)[:, -1] for target_answer in answer], axis=1)
    if hasattr(answer, "detach"):
        is_half = answer.is_floating_point() and answer.element_size() < 4  # numpy has no bfloat16
        answer = (answer.detach().float() if is_half else answer.detach()).cpu().numpy()
    values = np.asarray(answer)
    # float32 where nothing is lost by it: it has not every whole number above 16 777 216.
    is_number = values.dtype.kind in "fiub"
    values = values.astype(np.result_type(values.dtype, np.float32) if is_number else np.float64)
    values = values.reshape(len(values) if values.ndim else 1, -1)
    if len(values) != rows:
        raise KitError(
            f"'{name}' answered a batch of {rows} rows with {len(values)}",
            code="row-count-mismatch",
            hint="the model, or the functions `transform` and `tta`, must keep one row for each row",
        )
    return values


def model_classes(model: Any) -> list[Any]:
    """Return a classifier's classes in the order of its columns; empty if it has none, or several targets."""
    classes = getattr(model, "classes_", None)
    own = [] if classes is None else list(classes)
    several_targets = bool(own) and not isinstance(own[0], str) and hasattr(own[0], "__len__")
    return [] if several_targets else own


def column_labels(member: EnsembleMember, model: Any, columns: int) -> list[Any]:
    """Return the labels of a member's columns: its `labels`, or the model's classes."""
    own = model_classes(model)
    if not member.labels:
        return own
    if len(member.labels) != columns and (len(member.labels), columns) != (2, 1):
        raise KitError(
            f"'{member.name}' has {columns} outputs and {len(member.labels)} labels: {shorten_list(member.labels)}",
            code="label-count-mismatch",
            hint="correct `labels` in the `params` of its entry in `models`",
        )
    is_named = own and not are_numbered(own)
    if is_named and list(map(comparable_class, own)) != list(map(comparable_class, member.labels)):
        raise KitError(
            f"'{member.name}' knows its classes itself: {shorten_list(own)}; its `labels` say {shorten_list(member.labels)}",
            code="labels-contradict-model",
        )
    return member.labels


def order_columns(values: Any, own: Sequence[Any], first_classes: Sequence[Any], name: str) -> Any:
    """Reorder the columns to the first model's classes; raises KitError if the classes differ."""
    own_keys, first_keys = list(map(comparable_class, own)), list(map(comparable_class, first_classes))
    if not own_keys or own_keys == first_keys or values.shape[1] != len(own_keys):
        return values
    if set(own_keys) != set(first_keys):
        raise KitError(
            f"'{name}' was trained on other classes than the first model",
            [f"the first: {', '.join(map(str, first_classes))}", f"'{name}': {', '.join(map(str, own))}"],
            code="classes-differ-between-models",
        )
    return values[:, [own_keys.index(class_key) for class_key in first_keys]]


def comparable_class(name: Any) -> Any:
    """Return a class for comparison: 0, 0.0, False and their texts are one class to different libraries."""
    text = str(name)
    if text in ("False", "True"):
        return int(text == "True")
    for kind in (int, float):
        with suppress(ValueError):
            number = kind(text)
            if str(number) == text and number - number == 0:  # "01" is a name, and NaN is not itself
                return number
    return text


def are_numbered(classes: Sequence[Any]) -> bool:
    """Whether classes are 0, 1, 2, ...: numbers that stand for themselves, in any model."""
    return list(map(comparable_class, classes)) == list(range(len(classes)))


class Blend:
    """Combine several predictions, without keeping them; `classes` are those of the first model that has some."""

    def __init__(self, method: str = "mean", *, independent: bool = False) -> None:
        self.method = method
        self.independent = independent  # every output is a yes or no of its own
        self.classes: list[Any] = []
        self.unlabelled: dict[str, int] = {}  # members without classes, and their number of columns
        self.weight = 0.0
        self.total: Any = None
        self.votes: Any = None
        self.exact: Any = "float32"  # the least dtype that loses nothing of the answers

    def add_member(self, values: Any, labels: Sequence[Any], member: EnsembleMember) -> None:
        """Take in a member's prediction in the order of the classes; say once how columns without labels are read."""
        self.classes = self.classes or list(labels)
        if not labels:
            self.unlabelled[member.name] = values.shape[1]
        if not are_numbered(self.classes):
            for name, columns in self.unlabelled.items():
                if columns == len(self.classes):
                    order = shorten_list(self.classes, 20)
                    print_once(f"note: the columns of '{name}' are taken in the order {order}")
                elif columns == 1 and len(self.classes) == 2:
                    print_once(
                        f"note: the column of '{name}' is taken for the probability of {self.classes[1]}"
                    )
        values = order_columns(values, labels, self.classes, member.name)
        self.add_prediction(values, member.weight, member.name)

    def add_prediction(self, values: Any, weight: float = 1.0, name: str = "the model") -> None:
        """Take in the prediction of one member."""
        import numpy as np

        if self.total is not None:
            values = self._match_width(values, name)
        weight = 1.0 if self.method == "mean" else weight
        if self.method == "vote":
            vote = count_votes(values, independent=self.independent) * weight
            self.votes = vote if self.votes is None else self.votes + vote
        values = compute_ranks(values) if self.method == "rank" else values
        self.exact = np.result_type(self.exact, values.dtype)
        share = values.astype(np.float64) * weight
        self.total = share if self.total is None else self.total + share
        self.weight += weight

    def _match_width(self, values: Any, name: str) -> Any:
        import numpy as np

        width, new_width = self.total.shape[1], values.shape[1]
        if width == new_width:
            return values
        if width == 1 and new_width == 2:
            return values[:, 1:]  # two classes: the second one's probability says it all
        if width == 2 and new_width == 1:
            # Ranks need the order alone, and 1 - p would make the smallest p equal.
            return np.concatenate([-values if self.method == "rank" else 1 - values, values], axis=1)
        raise KitError(
            f"'{name}' answers with {new_width} columns, and the models before it with {width}",
            code="columns-differ-between-models",
        )

    def combine_predictions(self) -> Any:
        """Return the ensemble's prediction: means, mean ranks between 0 and 1, or 1 for the majority."""
        import numpy as np

        if self.method != "vote":
            return (self.total / self.weight).astype(self.exact)
        means = self.total / self.weight  # decide where votes are equal
        if self.independent or self.votes.shape[1] == 1:
            half = self.weight / 2
            return ((self.votes > half) | ((self.votes == half) & (means > 0.5))).astype(np.float32)
        best = self.votes == self.votes.max(axis=1, keepdims=True)
        winners = np.where(best, means, -np.inf).argmax(axis=1)
        return np.eye(self.votes.shape[1], dtype=np.float32)[winners]


def count_votes(values: Any, *, independent: bool = False) -> Any:
    """Return 1 for the largest column of each row; for independent columns, 1 for each above one half."""
    import numpy as np

    if independent or values.shape[1] == 1:
        return (values > 0.5).astype(np.float64)
    return np.eye(values.shape[1])[values.argmax(axis=1)]


def compute_ranks(values: Any) -> Any:
    """Return each column's ranks, divided by the number of rows; equal values share their mean rank."""
    import numpy as np

    ranks = np.empty(values.shape, dtype=np.float64)
    for column in range(values.shape[1]):
        _, inverse, counts = np.unique(values[:, column], return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks[:, column] = ((ends - (counts - 1) / 2)[inverse.reshape(-1)]) / len(values)
    return ranks
