"""Classes as they derive from Lightning's, without Lightning."""

from collections.abc import Iterator
from typing import Any

import torch


class LightningModule(torch.nn.Module):
    """Stands for Lightning's base class, which defines everything."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        raise AssertionError("not mine")


class LightningDataModule:
    """Likewise for data."""

    def setup(self, stage: str) -> None:
        raise AssertionError("not mine")

    def predict_dataloader(self) -> Any:
        raise AssertionError("not mine")


LightningModule.__module__ = "pytorch_lightning.core.module"
LightningDataModule.__module__ = "lightning.pytorch.core.datamodule"


class Model(LightningModule):
    """Adds `shift` after a linear layer."""

    def __init__(self, width: int = 2, shift: float = 0.0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, width)
        self.shift = shift

    def forward(self, x: Any) -> Any:
        return self.layer(x) + self.shift


class Probabilities(Model):
    """Has a predict_step of its own."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch["x"]).sigmoid().half()


class Data(LightningDataModule):
    """A data module with a test loader and nothing else."""

    def __init__(self, where: str, batch_size: int = 2, *, size: int = 8) -> None:
        self.where, self.batch_size, self.size = where, batch_size, size

    def test_dataloader(self) -> Iterator[Any]:
        yield [torch.ones(2, 2), torch.zeros(2)]
        yield [torch.zeros(1, 2), torch.zeros(1)]

    def submission(self, predictions: Any) -> list[dict[str, Any]]:
        return [{"id": number, "label": float(row[0])} for number, row in enumerate(predictions)]
