"""Predict one batch of an inference server's gateway with all models, which are loaded once and kept.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from offline_kit.notebook.runtime.kit_ensemble import (
    Blend,
    ClassOrder,
    EnsembleMember,
    Prediction,
    column_labels,
    predict_views,
)
from offline_kit.notebook.runtime.kit_runtime import KitError, Say
from offline_kit.notebook.runtime.kit_tasks import RowBatch, TableBatches

Frameworks = Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]]


class GatewayTable(TableBatches):
    """Batches of a gateway, prepared for the models like the test table."""

    names: Sequence[str] = ()

    @property
    def id_column(self) -> str | None:
        """The column of the ids; None if the last batch had none."""
        return self.sample.columns[0] if self.sample.columns[0] in self.names else None

    def make_batch(self, sent: Any) -> RowBatch:
        """Return a data frame of pandas or polars as a batch."""
        table = sent.to_pandas() if is_polars(sent) else sent.copy()  # a transform may write into it
        first, self.names = not self.names, list(table.columns)
        ids = list(table[self.id_column]) if self.id_column else list(range(len(table)))
        return RowBatch(ids, self._prepare_data(table, ids, first))


class Ensemble:
    """The models of an ensemble, all in memory: a gateway waits for each batch."""

    def __init__(
        self,
        members: Sequence[EnsembleMember],
        frameworks: Frameworks,
        method: str = "mean",
        say: Say = print,
    ) -> None:
        if method == "rank":
            raise KitError(
                "a rank mean needs the whole test set, and a gateway shows one batch at a time",
                code="rank-mean-needs-all-rows",
                hint='set `ensemble` to "mean", "weighted" or "vote"',
            )
        self.members, self.method, self.frameworks = members, method, frameworks
        self.classes = ClassOrder(say)
        self.models = [frameworks[member.framework][0](member.path, member) for member in members]

    def predict_batch(
        self,
        batch: RowBatch | Mapping[str, RowBatch],
        tta: Callable[[Any], Iterable[Any]] | None = None,
        *,
        independent: bool = False,
    ) -> Prediction:
        """Return the ensemble's prediction for one batch, or for one batch per member, by its name."""
        blend = Blend(self.method, independent=independent)
        ids: list[Any] = []
        for member, model in zip(self.members, self.models, strict=True):
            own = batch[member.name] if isinstance(batch, Mapping) else batch
            ids, predict = list(own.ids), self.frameworks[member.framework][1]
            values = predict_views(own, member, model, predict, tta)
            names = column_labels(member, model, values.shape[1])
            blend.add_prediction(
                self.classes.order_member(values, names, member.name), member.weight, member.name
            )
        return Prediction(ids, blend.combine_predictions(), self.classes.names)


def is_polars(frame: Any) -> bool:
    """Whether a data frame is of polars."""
    return type(frame).__module__.partition(".")[0] == "polars"


def match_frame_type(result: Any, sent: Any) -> Any:
    """Return an answer as the kind of data frame that the gateway sent."""
    if not is_polars(sent):
        return result
    import polars as pl

    return pl.DataFrame(result.to_dict("list"))
