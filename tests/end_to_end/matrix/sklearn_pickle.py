"""A pipeline with an encoder for words, by pickle."""

import pickle
from pathlib import Path

from data import cancer, competition
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

X, y, test = cancer()
columns = make_column_transformer((OneHotEncoder(), ["size", "shape"]), remainder=StandardScaler())
model = make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(X, y)

with Path("models/model.pkl").open("wb") as stream:
    pickle.dump(model, stream)
competition(test, model.predict_proba(test)[:, 1])
