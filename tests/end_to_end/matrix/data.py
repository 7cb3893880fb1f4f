"""What the training scripts share: real tables of scikit-learn's, and the files of a competition."""

# ruff: noqa: N803, N806 - X and y are the words of the field
import json
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets


def cancer():
    """Return X and y to train on and X to predict for: two classes, thirty numbers, two columns of words."""
    X, y = datasets.load_breast_cancer(return_X_y=True, as_frame=True)
    X["size"] = np.where(X["mean radius"] > 15, "large", np.where(X["mean radius"] > 12, "middle", "small"))
    X["shape"] = np.where(X["mean symmetry"] > 0.18, "even", "odd")
    return _split(X, y)


def wine():
    """Return the same of three classes and thirteen numbers."""
    return _split(*datasets.load_wine(return_X_y=True, as_frame=True))


def diabetes():
    """Return the same of a regression on ten numbers."""
    return _split(*datasets.load_diabetes(return_X_y=True, as_frame=True))


def _split(X, y):
    order = np.random.RandomState(0).permutation(len(X))
    X, y = X.iloc[order].reset_index(drop=True), y.iloc[order].reset_index(drop=True)
    cut = len(X) * 2 // 3
    return X[:cut], y[:cut], X[cut:]


def competition(test, predictions, key="row_id"):
    """Write the competition's data, and beside it what the model in memory says about its test set."""
    predictions = np.asarray(predictions, dtype=np.float64).reshape(len(test), -1)
    columns = {f"target_{number}": values for number, values in enumerate(predictions.T)}
    ids = pd.Series(test.index, index=test.index, name=key)
    pd.DataFrame({key: ids, **columns}).to_csv("expected.csv", index=False)
    dtypes = test.dtypes.astype(str).to_dict()
    Path("columns.json").write_text(json.dumps({"columns": dtypes}))
    Path("input").mkdir()
    # Columns that no training saw, and another order, as in many a competition.
    turned = test.iloc[:, ::-1].assign(remark="none") if test.columns.dtype == object else test
    turned.insert(0, key, ids)
    turned.to_csv("input/test.csv", index=False)
    pd.DataFrame({key: ids, **dict.fromkeys(columns, 0)}).to_csv("input/sample_submission.csv", index=False)
