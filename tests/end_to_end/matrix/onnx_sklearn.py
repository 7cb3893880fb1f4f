"""A pipeline of scikit-learn's as a graph, which onnxruntime runs."""

from pathlib import Path

import numpy as np
import onnxruntime
from data import competition, wine
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

X, y, test = wine()
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
graph = to_onnx(model, X.to_numpy(np.float32)[:1])

Path("models/model.onnx").write_bytes(graph.SerializeToString())
session = onnxruntime.InferenceSession("models/model.onnx")
_, answers = session.run(None, {"X": test.to_numpy(np.float32)})
predictions = np.array([list(row.values()) for row in answers])
assert np.allclose(predictions, model.predict_proba(test), atol=1e-5)
competition(test, predictions)
