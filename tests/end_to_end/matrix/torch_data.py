"""What the training scripts of torch share: wine as tensors, a loop, the probabilities of a model in memory."""

import csv
from pathlib import Path

import numpy as np
import torch
from data import wine

torch.manual_seed(0)


def tensors():
    """Return rows and classes to train on as tensors, the test set as a table, and its rows as a tensor."""
    X, y, test = wine()  # noqa: N806
    rows, classes = torch.tensor(X.to_numpy("float32")), torch.tensor(y.to_numpy())
    return rows, classes, test, torch.tensor(test.to_numpy("float32"))


def fit(model, rows, classes, steps=60, rate=0.01):
    """Train in full batches and leave the model ready to predict."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(rows), classes).backward()
        optimizer.step()
    model.eval()
    return optimizer


@torch.inference_mode()
def probabilities(model, rows):
    """Return what the model says, as numbers."""
    return torch.softmax(model(rows), dim=-1).numpy()


def files(predictions, names=None, key="row_id"):
    """Write sample_submission.csv beside the test set in input/, and what the model says to expected.csv."""
    names = names or range(len(predictions))
    targets = [f"target_{number}" for number in range(np.shape(predictions)[1])]
    Path("input").mkdir(exist_ok=True)
    for place, rows in (
        ("expected.csv", predictions),
        ("input/sample_submission.csv", np.zeros_like(predictions)),
    ):
        with Path(place).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow([key, *targets])
            writer.writerows([name, *map(float, row)] for name, row in zip(names, rows, strict=True))
