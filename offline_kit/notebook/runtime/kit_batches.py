"""Predict one batch of an inference server's gateway with all models, which are loaded once and kept.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from offline_kit.notebook.runtime.kit_ensemble import (
    Blend,
    Classes,
    Member,
    Prediction,
    answer_to,
    names_of_columns,
)
from offline_kit.notebook.runtime.kit_runtime import KitError, Say
from offline_kit.notebook.runtime.kit_tasks import Batch, Table

Frameworks = Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]]


class Sent(Table):
    """What a gateway sends, made ready for the models as the test table would be."""

    names: Sequence[str] = ()

    @property
    def key(self) -> str | None:
        """The column of the ids; None where the last batch had none."""
        return self.sample.columns[0] if self.sample.columns[0] in self.names else None

    def take(self, sent: Any) -> Batch:
        """Return a data frame of pandas or polars as a batch."""
        table = sent.to_pandas() if is_polars(sent) else sent.copy()  # a transform may write into it
        first, self.names = not self.names, list(table.columns)
        ids = list(table[self.key]) if self.key else list(range(len(table)))
        return Batch(ids, self._data(table, ids, first))


class Ensemble:
    """The models of an ensemble, all in memory: a gateway waits for each batch."""

    def __init__(
        self, members: Sequence[Member], frameworks: Frameworks, how: str = "mean", say: Say = print
    ) -> None:
        if how == "rank":
            raise KitError(
                "a rank mean needs the whole test set, and a gateway shows one batch at a time",
                code="rank-mean-needs-all-rows",
                hint='set `ensemble` to "mean", "weighted" or "vote"',
            )
        self.members, self.how, self.frameworks = members, how, frameworks
        self.classes = Classes(say)
        self.models = [frameworks[each.framework][0](each.path, each) for each in members]

    def predict(
        self,
        batch: Batch | Mapping[str, Batch],
        tta: Callable[[Any], Iterable[Any]] | None = None,
        *,
        each: bool = False,
    ) -> Prediction:
        """Return what all models together say about one batch, or about one for each member, by its name."""
        blend = Blend(self.how, each=each)
        ids: list[Any] = []
        for member, model in zip(self.members, self.models, strict=True):
            own = batch[member.name] if isinstance(batch, Mapping) else batch
            ids, predict = list(own.ids), self.frameworks[member.framework][1]
            values = answer_to(own, member, model, predict, tta)
            names = names_of_columns(member, model, values.shape[1])
            blend.add(self.classes.ordered(values, names, member.name), member.weight, member.name)
        return Prediction(ids, blend.result(), self.classes.names)


def is_polars(frame: Any) -> bool:
    """Whether a data frame is of polars."""
    return type(frame).__module__.partition(".")[0] == "polars"


def as_sent(result: Any, sent: Any) -> Any:
    """Return an answer as the kind of data frame that the gateway sent."""
    if not is_polars(sent):
        return result
    import polars as pl

    return pl.DataFrame(result.to_dict("list"))
