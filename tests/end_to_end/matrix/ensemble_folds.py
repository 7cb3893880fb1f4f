"""Five folds of two kinds, three of scikit-learn's forests and two of XGBoost's, large enough to be felt."""

from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import xgboost
from data import competition
from sklearn.ensemble import ExtraTreesClassifier

random = np.random.RandomState(0)
X = pd.DataFrame(random.rand(92_000, 8), columns=[f"x{number}" for number in range(8)])
y = (X["x0"] + X["x1"] * X["x2"] + random.rand(len(X)) > 1.2).astype(int)
X, y, test = X[:90_000], y[:90_000], X[90_000:]
Path("models").mkdir(exist_ok=True)

predictions = []
for fold in range(5):
    held_out = np.arange(len(X)) % 5 == fold
    if fold < 3:
        # Grown to the last row: about 70 MB for each of ten trees.
        model = ExtraTreesClassifier(60, max_features=1, random_state=fold, n_jobs=2)
        model.fit(X[~held_out], y[~held_out])
        joblib.dump(model, f"models/fold{fold}.joblib")
    else:
        model = xgboost.XGBClassifier(n_estimators=200, max_depth=10, n_jobs=2, random_state=fold)
        model.fit(X[~held_out], y[~held_out])
        model.save_model(f"models/fold{fold}.ubj")
    predictions.append(model.predict_proba(test)[:, 1].astype(np.float32))

competition(test, np.mean(predictions, axis=0))
